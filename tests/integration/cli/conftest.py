"""The command line in this process, against a server that says what a test wants."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cli.main import app
from tests.fakes.api_server import ApiServer, api_server

KEY = "cwk-of-the-test"
Runmesh = Callable[..., Result]


@pytest.fixture
def api() -> Iterator[ApiServer]:
    with api_server() as server:
        yield server


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to work in, and no settings of whoever runs the tests."""
    for name in ("RUNMESH_URL", "RUNMESH_API_KEY", "RUNMESH_PROFILE", "RUNMESH_HOME", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("TERMINAL_WIDTH", "120")
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def runmesh(api: ApiServer, monkeypatch: pytest.MonkeyPatch) -> Runmesh:
    """`runmesh("runs", "ls")`, with the server and key in the environment; `input` is standard input."""
    monkeypatch.setenv("RUNMESH_URL", api.url)
    monkeypatch.setenv("RUNMESH_API_KEY", KEY)

    def run(*argv: str, input: str | bytes | None = None) -> Result:  # noqa: A002  # its name there
        return CliRunner().invoke(app, argv, input=input)

    return run
