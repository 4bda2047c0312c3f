"""`runmesh init` and `runmesh profiles`: files that they write."""

import ast
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import Result

from cli.init import starters
from cli.servers import read_profiles
from executor.header import parse
from tests.fakes.api_server import ApiServer

Runmesh = Callable[..., Result]


@pytest.mark.parametrize("starter", starters())
def test_a_starter_is_a_workflow(runmesh: Runmesh, nowhere: Path, starter: str) -> None:
    assert runmesh("init", "mine", "--starter", starter).exit_code == 0
    code = (nowhere / "mine.py").read_text()
    assert 'app = FastAPI(title="mine")' in code
    assert ast.get_docstring(ast.parse(code))
    assert len(parse(code.encode()).dependencies) >= 2


def test_nothing_is_overwritten_without_being_told_to(runmesh: Runmesh, nowhere: Path) -> None:
    (nowhere / "hello.py").write_text("mine")
    told = runmesh("init")
    assert (told.exit_code, (nowhere / "hello.py").read_text()) == (2, "mine")
    assert "--force" in told.stderr
    assert runmesh("init", "--force").exit_code == 0
    assert "FastAPI" in (nowhere / "hello.py").read_text()


def test_a_name_may_be_a_path_and_end_in_py(runmesh: Runmesh, nowhere: Path) -> None:
    (nowhere / "flows").mkdir()
    assert runmesh("init", "flows/greet.py").stdout == "flows/greet.py is written\n"
    assert runmesh("init", "nowhere/greet").exit_code == 2


def test_starters_are_listed(runmesh: Runmesh) -> None:
    assert runmesh("init", "--list").stdout.splitlines()[1].startswith("hello ")
    items = json.loads(runmesh("init", "--list", "--json").stdout)["items"]
    assert {item["id"] for item in items} == {"hello", "secret", "stream", "watch"}
    assert all(item["description"] for item in items)


def test_a_profile_is_checked_kept_used_and_forgotten(runmesh: Runmesh, api: ApiServer) -> None:
    api.refuses("GET /prices", 401, "unauthenticated", "no such API key")
    told = runmesh("profiles", "add", "prod", "--url", f"{api.url}/", input="cwk-secret\n")
    assert (told.exit_code, read_profiles().servers) == (3, {})
    api.says("GET /prices", {"items": []})
    told = runmesh("profiles", "add", "prod", "--url", f"{api.url}/", input="cwk-secret\n")
    assert "in use" in told.stderr
    assert api.last("GET /prices").headers["authorization"] == "Bearer cwk-secret"
    assert read_profiles().servers == {"prod": {"url": api.url, "key": "cwk-secret"}}
    runmesh("profiles", "add", "b", "--url", "http://mesh", "--no-check", input="k")
    assert read_profiles().current == "prod"
    runmesh("profiles", "use", "b")
    listed = runmesh("profiles", "ls").stdout
    assert listed.splitlines()[1] == "*  b     http://mesh"
    items = json.loads(runmesh("profiles", "ls", "--json").stdout)["items"]
    assert items == [
        {"name": "b", "url": "http://mesh", "in_use": True},
        {"name": "prod", "url": api.url, "in_use": False},
    ]
    assert "cwk-secret" not in listed
    assert runmesh("profiles", "rm", "b").exit_code == 0
    assert (read_profiles().current, list(read_profiles().servers)) == ("", ["prod"])


def test_a_one_time_key_is_known_though_it_may_not_look(runmesh: Runmesh, api: ApiServer) -> None:
    api.refuses("GET /prices", 403, "forbidden")
    assert runmesh("profiles", "add", "once", "--url", api.url, input="cwotk-x").exit_code == 0


def test_a_profile_on_the_command_line_goes_before_the_environment(runmesh: Runmesh, api: ApiServer) -> None:
    runmesh("profiles", "add", "prod", "--url", api.url, "--no-check", input="cwk-secret")
    api.says("GET /secrets", {"items": [], "next": None})
    runmesh("secrets", "ls", "--profile", "prod")
    assert api.last("GET /secrets").headers["authorization"] == "Bearer cwk-secret"
