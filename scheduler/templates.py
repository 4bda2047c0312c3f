"""Workflows to begin with: files of a directory, and workflows whose visibility is `template` (SPEC §4)."""

import ast
import inspect
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

from kit.errors import NotFound
from scheduler.catalog import Catalog
from scheduler.workflow import EnvVar, Prompt, Visibility

_ID = re.compile(r"[a-z][a-z0-9_]{0,99}")
_NAMED = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
# What a docstring may stand behind; and one of up to 10,000 characters.
_COMMENTS = re.compile(r"(?:[ \t\f]*(?:#[^\n]*)?\n)*+")
_STRING = re.compile(
    r"""[rRuU]?(?P<quotes>\"{3}|'{3}|"|')(?:\\.|(?!(?P=quotes))[^\\]){0,10000}?(?P=quotes)""", re.DOTALL
)
# The line that begins the block, the commented lines of it, the line that ends it (PEP 723).
_HEADER = re.compile(r"^# /// script$\n((?:#(?: .*)?$\n)*?)^# ///$", re.MULTILINE)


@dataclass(frozen=True)
class Template:
    """`service_id`: what a copy is called where its maker doesn't say. It has `code`, or a `prompt` in its place."""

    id: str
    name: str
    description: str
    service_id: str
    env_vars: tuple[EnvVar, ...] = ()
    code: str = ""
    prompt: Prompt | None = None


class Sources(Protocol):
    """Where sources are kept."""

    async def get(self, digest: str) -> bytes:
        """Errors: NotFound; Unavailable."""
        ...


class Templates:
    """Finds them. `directory` holds one a file, whose name is its id; it needn't be there."""

    def __init__(self, directory: Path, catalog: Catalog, sources: Sources) -> None:
        self._directory = directory
        self._catalog = catalog
        self._sources = sources

    def page(self, *, limit: int, after: str) -> tuple[list[Template], str]:
        """(those that come with the platform, by id; where to go on: empty on the last page)."""
        files = sorted(file for file in self._directory.glob("*.py") if file.stem > after)
        found = [_of_file(file) for file in files[:limit]]
        return found, (found[-1].id if len(files) > limit else "")

    async def get(self, organization_id: str, template_id: str) -> Template:
        """One of them; or a workflow that its owner offers as a template, or one's own, by its name. Errors: NotFound;
        Unavailable.
        """
        file = self._directory / f"{template_id}.py"
        if _ID.fullmatch(template_id) and file.exists():
            return _of_file(file)
        try:
            workflow, version = await self._catalog.resolve(organization_id, template_id)
        except NotFound:
            raise _not_offered(template_id) from None
        if workflow.organization_id != organization_id and workflow.visibility is not Visibility.TEMPLATE:
            raise _not_offered(template_id)
        code = "" if version.prompt else (await self._sources.get(version.source_digest)).decode()
        return Template(
            f"{workflow.organization_id}.{workflow.service_id}",
            workflow.name,
            _first_paragraph(code) if code else "",
            workflow.service_id,
            version.env_vars,
            code,
            version.prompt,
        )


def _not_offered(template_id: str) -> NotFound:
    return NotFound(
        f"{template_id[:100]!r} isn't offered as a template: GET /templates lists those that come with the platform, "
        "GET /workflows?visibility=template those of others"
    )


@cache
def _of_file(file: Path) -> Template:
    """They come with the platform, and don't change while it is up."""
    code = file.read_text()
    name = _title(code) or file.stem.replace("_", " ").capitalize()
    return Template(file.stem, name, _first_paragraph(code), file.stem, tuple(_env_vars(code)), code)


def _first_paragraph(code: str) -> str:
    """Of the docstring, if the file begins with one. Nothing else is parsed: it may be anybody's, and a megabyte of
    f-strings or lists would take us minutes, and half a gigabyte.
    """
    start = _COMMENTS.match(code)
    found = _STRING.match(code, start.end() if start else 0)
    try:
        text = ast.literal_eval(found[0]) if found else ""
    except (SyntaxError, ValueError):
        return ""
    text = text.encode("utf-8", "replace").decode()  # an escape may mean half a character
    return " ".join(inspect.cleandoc(text).partition("\n\n")[0].split())[:1000]


def _title(code: str) -> str:
    """Of its FastAPI app; empty where it says none."""
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    apps = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "FastAPI"]
    titles = [word.value for app in apps for word in app.keywords if word.arg == "title"]
    return next((str(title.value) for title in titles if isinstance(title, ast.Constant)), "")


def _env_vars(code: str) -> Iterator[EnvVar]:
    """What its header declares; its deploy judges it."""
    found = _HEADER.search(code)
    lines = found[1].splitlines() if found else []
    header = tomllib.loads("\n".join(line.removeprefix("#").removeprefix(" ") for line in lines))
    for declared in header.get("tool", {}).get("env-checker", {}).get("env_vars", []):
        name, equals, default = declared.partition("=")
        if _NAMED.fullmatch(name):
            yield EnvVar(name, default if equals else None)
