"""A service and the parts that are written into it are one file: no name in it may mean two things."""

import ast
from pathlib import Path

import pytest

from scheduler.library import text_of

LIBRARY = Path(__file__).parents[3] / "library"


@pytest.mark.parametrize("file", sorted(LIBRARY.glob("*.py")), ids=lambda file: file.stem)
def test_each_name_has_one_meaning(file: Path) -> None:
    meanings: dict[str, set[str]] = {}
    for node in ast.parse(text_of(file, LIBRARY)).body:
        match node:
            case ast.Import(names=names):
                found = {(each.asname or each.name): each.name for each in names}
            case ast.ImportFrom(module=module, names=names):
                found = {(each.asname or each.name): f"{module}.{each.name}" for each in names}
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                found = {name: f"line {node.lineno}"}
            case ast.Assign(targets=[ast.Name(id=name)]) if name != "LOOK":  # filled in step by step
                found = {name: f"line {node.lineno}"}
            case _:
                found = {}
        for name, meaning in found.items():
            meanings.setdefault(name, set()).add(meaning)
    assert {name: each for name, each in meanings.items() if len(each) > 1} == {}
