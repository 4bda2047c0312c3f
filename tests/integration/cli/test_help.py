"""Every command says what it does and what it takes; the shell's completion; a quick start."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner, Result

from cli.main import app
from tests.fakes.api_server import ApiServer

Runmesh = Callable[..., Result]
ROOT = Path(__file__).parents[3]
READING = {"runs ls", "runs show", "keys ls", "secrets ls", "schedules ls", "workflows ls", "workflows show",
           "workflows versions", "usage", "credits", "trace", "result", "logs", "profiles ls", "doctor", "init",
           "validate", "deploy", "templates ls", "templates show", "hooks ls"}  # fmt: skip
HEAVY = {"httpx", "starlette", "uvicorn", "jinja2", "google", "rich.progress"}


def commands() -> Iterator[tuple[str, Any]]:
    """By their whole names."""
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        for inner, below in getattr(command, "commands", {"": command}).items():
            yield f"{name} {inner}".strip(), below


COMMANDS = dict(commands())


def test_all_are_there() -> None:
    wanted = (
        "up down doctor rotate-kek verify-receipt init validate deploy dev run call logs result usage credits trace "
        "runs:ls,show,cancel,replay keys:ls,create,revoke,rotate secrets:ls,set,rm schedules:ls,create,rm "
        "templates:ls,show,deploy hooks:ls,create,rm "
        "files:put,get workflows:ls,show,rm,publish,unpublish,versions,rollback,traffic,set profiles:ls,add,use,rm"
    )
    names = set()
    for word in wanted.split():
        group, _, inner = word.partition(":")
        names |= {f"{group} {each}".strip() for each in inner.split(",")}
    assert set(COMMANDS) == names


@pytest.mark.parametrize("name", COMMANDS)
def test_help_tells_all(name: str) -> None:
    command = COMMANDS[name]
    assert len(command.help or "") > 20
    for option in command.params:
        assert getattr(option, "help", None), f"{name} {option.name}"


@pytest.mark.parametrize(
    "name", [name if name == "runs ls" else pytest.param(name, marks=pytest.mark.slow) for name in COMMANDS]
)
def test_help_is_shown(name: str) -> None:
    told = CliRunner().invoke(app, [*name.split(), "--help"])
    assert told.exit_code == 0
    assert "Usage: " in told.stdout


@pytest.mark.parametrize("name", sorted(READING))
def test_what_reads_gives_json_too(name: str) -> None:
    assert "--json" in {opt for option in COMMANDS[name].params for opt in option.opts}


def test_the_documentation_lists_every_command() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    rows = [one.split("|")[1] for one in text.splitlines() if one.startswith("| `")]
    for name in COMMANDS:
        group, _, inner = name.partition(" ")
        assert any(re.search(rf"`{group}\b.*\b{inner}\b", row) for row in rows), name


def test_help_imports_nothing_heavy() -> None:
    code = "import sys, cli.main; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not HEAVY & set(run.stdout.split())


def completed(line: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What bash offers after this line."""
    monkeypatch.setenv("_RUNMESH_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split(" ")) - 1))
    return CliRunner().invoke(app, [], prog_name="runmesh").stdout.split()


def test_tab_offers_workflows(runmesh: Runmesh, api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [{"service_id": "greet"}, {"service_id": "grow"}, {"service_id": "other"}]
    api.says("GET /workflows", {"items": items, "next": None})
    assert completed("runmesh run gr", monkeypatch) == ["greet", "grow"]
    assert completed("runmesh workflows show ", monkeypatch) == ["greet", "grow", "other"]


def test_tab_is_quiet_without_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    assert completed("runmesh run ", monkeypatch) == []
    monkeypatch.setenv("RUNMESH_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("RUNMESH_API_KEY", "k")
    assert completed("runmesh logs ", monkeypatch) == []


def test_tab_offers_profiles_starters_and_commands(runmesh: Runmesh, monkeypatch: pytest.MonkeyPatch) -> None:
    runmesh("profiles", "add", "prod", "--url", "http://mesh", "--no-check", input="k")
    assert completed("runmesh runs ls --profile ", monkeypatch) == ["prod"]
    assert completed("runmesh init --starter h", monkeypatch) == ["hello"]
    assert completed("runmesh work", monkeypatch) == ["workflows"]
