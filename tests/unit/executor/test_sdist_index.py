"""What a project page of an index says about source distributions."""

import json
from pathlib import Path

import pytest

from executor.index_page import File, files, sdists_only
from executor.interpreters import Interpreter

PYTHON = Interpreter(Path("/usr/bin/python3.11"), Path("/usr"), (3, 11, 7))
BASE = "https://index.example/simple/foo/"
D = {letter: letter * 64 for letter in "abcdef"}


def file(name: str, sha256: str = D["a"], requires: str = "", *, yanked: bool = False) -> File:
    return File(name, f"https://files.example/{name}", sha256, requires, yanked)


def versions(*page: File) -> list[str]:
    return [sdist.version for sdist in sdists_only(list(page), "foo-bar", PYTHON)]


def test_newest_first_and_only_where_no_wheel_fits() -> None:
    assert versions(
        file("foo_bar-1.9.tar.gz"),
        file("foo-bar-1.10.zip"),
        file("foo_bar-2.0.tar.gz"),
        file("foo_bar-2.0-py3-none-any.whl"),
        file("foo_bar-1.9-cp36-cp36m-manylinux1_x86_64.whl"),
        file("foo_bar-1.10-cp311-cp311-win_amd64.whl"),
    ) == ["1.10", "1.9"]


@pytest.mark.parametrize(
    "bad",
    [
        file("foo_bar-1.0.tar.gz", yanked=True),
        file("foo_bar-1.0.tar.gz", requires=">=3.12"),
        file("foo_bar-1.0.tar.gz", requires="<3"),
        file("foo_bar-1.0.tar.gz", ""),
        file("other-1.0.tar.gz"),
        file("foo_bar-1.0.exe"),
        file("foo_bar-one.tar.gz"),
        file("../foo_bar-1.0.tar.gz"),
        file("foo_bar.whl"),
    ],
)
def test_files_that_are_of_no_use(bad: File) -> None:
    assert versions(bad, file("foo_bar-0.1.tar.gz", requires="not a specifier")) == ["0.1"]


def test_json() -> None:
    rows = [
        {"filename": "a-1.tar.gz", "url": "../../f/a-1.tar.gz", "hashes": {"sha256": D["b"].upper()}, "yanked": False},
        {
            "filename": "a-2.tar.gz",
            "url": "https://f/a-2.tar.gz",
            "hashes": {},
            "requires-python": ">=3",
            "yanked": "old",
        },
        {"filename": "a-3.tar.gz", "url": "file:///etc/passwd", "hashes": {}},
    ]
    assert files(json.dumps({"files": rows}).encode(), BASE) == [
        File("a-1.tar.gz", "https://index.example/f/a-1.tar.gz", D["b"], "", yanked=False),
        File("a-2.tar.gz", "https://f/a-2.tar.gz", "", ">=3", yanked=True),
    ]


def test_html() -> None:
    page = f"""<!DOCTYPE html><html><body><h1>Links</h1>
    <a href="../../f/a-1.tar.gz#sha256={D["b"]}">a-1.tar.gz</a><br/>
    <a href="https://f/a-2%2Bx.tar.gz#md5=1" data-requires-python="&gt;=3" data-yanked="old">shown</a>
    <a href="javascript:alert(1)">x</a> <a name="x">y</a>"""
    assert files(page.encode(), BASE) == [
        File("a-1.tar.gz", "https://index.example/f/a-1.tar.gz", D["b"], "", yanked=False),
        File("a-2+x.tar.gz", "https://f/a-2%2Bx.tar.gz", "", ">=3", yanked=True),
    ]


@pytest.mark.parametrize("body", [b"", b"not found", b'{"files": ', b"\xff\xfe"])
def test_what_is_no_page(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        files(body, BASE)


@pytest.mark.parametrize("body", [b"{}", b'{"files": null}', b"<html></html>"])
def test_an_empty_page(body: bytes) -> None:
    assert files(body, BASE) == []
