"""A project page of a package index, in JSON (PEP 691) or HTML (PEP 503): indexes and mirrors give one or the other.
Pure.
"""

import json
from dataclasses import dataclass
from html.parser import HTMLParser
from urllib.parse import unquote, urldefrag, urljoin, urlsplit

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import InvalidSdistFilename, InvalidWheelFilename, parse_sdist_filename, parse_wheel_filename
from packaging.version import Version

from executor.interpreters import Interpreter


@dataclass(frozen=True)
class File:
    """One file of a project. `sha256` in hex, empty where the index tells none."""

    name: str
    url: str
    sha256: str
    requires_python: str
    yanked: bool


@dataclass(frozen=True)
class Sdist:
    """A source distribution of the index. `sha256` in hex."""

    name: str
    version: str
    file_name: str
    url: str
    sha256: str


def files(body: bytes, base: str) -> list[File]:
    """The files of a page that was read at `base`. Errors: ValueError when it is neither JSON nor HTML."""
    text = body.decode("utf-8", "replace")
    if text.lstrip().startswith("{"):
        return _from_json(text, base)
    if not text.lstrip().startswith("<"):
        raise ValueError("neither JSON nor HTML")
    reader = _Links(base)
    reader.feed(text)
    reader.close()
    return reader.files


def sdists_only(page: list[File], name: str, interpreter: Interpreter) -> list[Sdist]:
    """One sdist for each version of which no wheel fits the interpreter, newest first. `name` is canonical."""
    tags = usable_tags(interpreter)
    archives: dict[Version, Sdist] = {}
    covered = set()
    for file in page:
        if file.yanked or not _fits(file.requires_python, interpreter):
            continue
        try:
            if file.name.endswith(".whl"):
                _, version, _, wheel_tags = parse_wheel_filename(file.name)
                if wheel_tags & tags:
                    covered.add(version)
                continue
            found, version = parse_sdist_filename(file.name)
        except (InvalidWheelFilename, InvalidSdistFilename):
            continue
        if found == name and len(file.sha256) == 64 and "/" not in file.name:
            archives[version] = Sdist(name, str(version), file.name, file.url, file.sha256)
    return [archives[version] for version in sorted(archives, reverse=True) if version not in covered]


def usable_tags(interpreter: Interpreter) -> set[Tag]:
    """The wheel tags that the interpreter can install on this host."""
    version = interpreter.version[:2]
    return {*cpython_tags(version), *compatible_tags(version, f"cp{version[0]}{version[1]}")}


class _Links(HTMLParser):
    def __init__(self, base: str) -> None:
        super().__init__()
        self.files: list[File] = []
        self._base = base

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "base" and given.get("href"):
            self._base = urljoin(self._base, given["href"] or "")
        if tag != "a" or not given.get("href"):
            return
        url, fragment = urldefrag(urljoin(self._base, given["href"] or ""))
        if _is_web(url):
            kind, _, digest = fragment.partition("=")
            name = unquote(urlsplit(url).path.rsplit("/", 1)[-1])
            sha256 = digest.lower() if kind == "sha256" else ""
            self.files.append(File(name, url, sha256, given.get("data-requires-python") or "", "data-yanked" in given))


def _from_json(text: str, base: str) -> list[File]:
    found = []
    listed = json.loads(text).get("files")
    for row in listed if isinstance(listed, list) else []:
        url = urljoin(base, str(row.get("url", "")))
        hashes = row.get("hashes")
        sha256 = str(hashes.get("sha256", "")).lower() if isinstance(hashes, dict) else ""
        requires_python = str(row.get("requires-python") or "")
        if _is_web(url):
            found.append(File(str(row.get("filename", "")), url, sha256, requires_python, bool(row.get("yanked"))))
    return found


def _is_web(url: str) -> bool:
    return urlsplit(url).scheme in ("https", "http")


def _fits(requires_python: str, interpreter: Interpreter) -> bool:
    try:
        return SpecifierSet(requires_python).contains(str(interpreter), prereleases=True)
    except InvalidSpecifier:
        return True
