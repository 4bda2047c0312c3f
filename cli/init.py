"""`runmesh init`: a workflow file to start from. It is a script as any other: `uv run FILE` runs it by hand."""

import ast
import re
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.problem import Misuse
from cli.show import AsJson, note, show_json, table

STARTERS = Path(__file__).parent / "starters"


def starter_names(incomplete: str) -> list[str]:
    """For the shell's completion."""
    return [name for name in starters() if name.startswith(incomplete)]


def init(
    name: Annotated[str, typer.Argument(help="The workflow's name, or a path: the file is NAME.py.")] = "",
    *,
    starter: Annotated[
        str, typer.Option("--starter", "-s", help="Which one; --list tells.", autocompletion=starter_names)
    ] = "hello",
    list_: Annotated[bool, typer.Option("--list", "-l", help="List the starters.")] = False,
    as_json: AsJson = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite what is there.")] = False,
) -> None:
    """Write a workflow file that deploys as it is. Without a name it is called like its starter."""
    known = starters()
    if list_:
        _list(known, as_json=as_json)
        return
    if starter not in known:
        raise Misuse(f"there is no starter {starter!r}; there are {', '.join(known)}")
    file = Path(f"{name or starter}".removesuffix(".py") + ".py")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}", file.stem):
        raise Misuse(f"{file.stem!r} can't be a workflow's name: letters, digits, _ and - only, 100 at most")
    code = (STARTERS / f"{starter}.py").read_text().replace(f'title="{starter}"', f'title="{file.stem}"')
    try:
        with file.open("w" if force else "x") as opened:
            opened.write(code)
    except FileExistsError:
        raise Misuse(f"{file} is there already; --force overwrites it") from None
    except OSError as error:
        raise Misuse(f"can't write {file}: {error.strerror}") from error
    print(f"{file} is written")
    note(f"next: runmesh deploy {file}, or runmesh dev {file}, which deploys it at each save")


def starters() -> dict[str, str]:
    """What each is, by its name; `hello` first."""
    found = {file.stem: ast.get_docstring(ast.parse(file.read_text())) or "" for file in sorted(STARTERS.glob("*.py"))}
    return {"hello": found.pop("hello")} | found


def _list(known: dict[str, str], *, as_json: bool) -> None:
    if as_json:
        items: list[dict[str, Any]] = [{"id": name, "description": text} for name, text in known.items()]
        show_json({"items": items, "next": None})
    else:
        table(["STARTER", "WHAT IT DOES"], list(known.items()))
        note("whole workflows: runmesh templates ls")
