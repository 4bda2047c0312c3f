"""The command line against the whole mesh: the life of a workflow from `init` to `rm`."""

import json
import os
import re
from collections.abc import Callable
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from cli.main import app
from tests.e2e.mesh import Mesh

pytestmark = pytest.mark.timeout(240)


@dataclass(frozen=True)
class Told:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Told]


@pytest.fixture(scope="module")
def cli(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Cli:
    """`cli("runs", "ls")` in a folder of its own, for an organization of its own."""
    folder = tmp_path_factory.mktemp("cli")
    organization = mesh.new_organization("of the command line")
    environ: dict[str, str | None] = {name: None for name in os.environ if name.startswith("RUNMESH_")}
    environ |= {"RUNMESH_URL": mesh.url, "RUNMESH_API_KEY": organization["key"], "XDG_CONFIG_HOME": str(folder)}

    def run(*argv: str, given: str = "", status: int = 0, **more: str) -> Told:
        with chdir(folder):  # in this process: each start would take half a second
            ended = CliRunner().invoke(app, argv, input=given, env=environ | more)
        assert ended.exit_code == status, f"{argv} ended with {ended.exit_code}\n{ended.output}\n{ended.exception!r}"
        assert organization["key"] not in ended.output
        return Told(ended.exit_code, ended.stdout, ended.stderr)

    run("init", "signer", "--starter", "secret")
    run("deploy", "signer.py")
    return run


def test_from_init_to_an_answer(cli: Cli, mesh: Mesh) -> None:
    refused = cli("run", "signer", "text=a", status=3)
    assert "SIGNING_KEY" in refused.err
    assert "code: missing_secret" in refused.err
    cli("secrets", "set", "SIGNING_KEY", given="hush\n")
    assert [item["name"] for item in cli("secrets", "ls", "--json").json["items"]] == ["SIGNING_KEY"]
    answered = cli("run", "signer", "text=a")
    assert answered.json["signed_by"] == "nobody"
    request_id = answered.err.split()[0]
    record = cli("result", request_id, "--timeout", "30", "--json").json
    assert record == cli("runs", "show", request_id, "--json").json
    assert (record["status"], record["responseStatus"]) == ("succeeded", 200)
    assert cli("run", "signer", "text:=1", status=1).json["detail"][0]["loc"] == ["body", "text"]
    shown = cli("workflows", "ls").out.splitlines()[1].split()
    assert shown[:5] == ["signer", "signer", "code", "1", "private"]
    assert cli("workflows", "show", "signer", "--json").json["traffic"] == {"1": 100}
    called = cli("call", "POST", "/run/signer?x=y", "-d", '{"text": "a"}')
    assert called.json == answered.json


def test_an_asynchronous_run_is_followed_replayed_and_traced(cli: Cli) -> None:
    cli("secrets", "set", "SIGNING_KEY", given="hush")
    request_id = cli("run", "signer", "text=b", "--async").out.strip()
    assert cli("result", request_id, "--timeout", "60").json["signature"]
    assert cli("logs", request_id, "-f").status == 0
    again = cli("runs", "replay", request_id).out.strip()
    assert cli("result", again, "--timeout", "60").json == cli("result", request_id).json
    tree = cli("trace", request_id, "--json").json
    assert (tree["root"]["id"], tree["root"]["calls"], tree["complete"]) == (request_id, [], True)
    assert cli("runs", "cancel", again).out == f"{again} was over: succeeded\n"
    ids = [run["id"] for run in cli("runs", "ls", "-w", "signer", "--json").json["items"]]
    assert ids.index(again) < ids.index(request_id)


def test_versions(cli: Cli, tmp_path: Path) -> None:
    cli("init", str(tmp_path / "versioned"))
    file = tmp_path / "versioned.py"
    cli("deploy", str(file))
    file.write_text(file.read_text().replace("Hello", "Servus"))
    assert "versioned version 2 is a draft" in cli("deploy", str(file), "--draft").out
    assert cli("run", "versioned@2").json == {"message": "Servus world!"}
    assert cli("run", "versioned", "name=Ada").json == {"message": "Hello Ada!"}
    assert cli("workflows", "traffic", "versioned", "2=100").out == "versioned serves version 2\n"
    assert cli("workflows", "rollback", "versioned").out == "versioned serves version 1\n"
    versions = cli("workflows", "versions", "versioned", "--json").json["items"]
    assert [(item["version"], item["traffic"]) for item in versions] == [(2, 0), (1, 100)]
    file.write_text("def (\n")
    assert f"{file}:1: syntax: " in cli("deploy", str(file), status=1).err
    cli("validate", str(file), status=1)
    cli("workflows", "set", "versioned", "--visibility", "public", "--limit", "concurrency=2")
    assert cli("workflows", "show", "versioned", "--json").json["limits"]["concurrency"] == 2
    assert "greeting Ada" in _logs(cli, "versioned")
    assert "greeting" in cli("logs", "versioned").out
    cli("workflows", "rm", "versioned", "--yes")
    assert "code: not_found" in cli("run", "versioned", status=3).err


def _logs(cli: Cli, name: str) -> str:
    return "".join(cli("logs", run["id"]).out for run in cli("runs", "ls", "-w", name, "--json").json["items"])


def test_keys_schedules_files_and_money(cli: Cli, tmp_path: Path) -> None:
    made = cli("keys", "create", "bob", "-w", "signer", "--expires", "1h")
    assert re.fullmatch(r"cwk-\w+\n", made.out)
    key_id = made.err.split(":")[0]
    cli("workflows", "ls", status=3, RUNMESH_API_KEY=made.out.strip())
    cli("runs", "ls", "-w", "signer", RUNMESH_API_KEY=made.out.strip())
    successor = cli("keys", "rotate", key_id).out.strip()
    assert "code: unauthenticated" in cli("runs", "ls", status=3, RUNMESH_API_KEY=made.out.strip()).err
    cli("runs", "ls", "-w", "signer", RUNMESH_API_KEY=successor)
    cli("keys", "revoke", key_id, "--yes")
    assert {key["name"] for key in cli("keys", "ls", "--json").json["items"]} >= {"bob"}

    schedule = cli("schedules", "create", "signer", "0 3 1 1 *", "-z", "Europe/Berlin", "-d", "text=a", "--json").json
    assert schedule["input_data"] == {"text": "a"}
    assert schedule["id"] in cli("schedules", "ls").out
    cli("schedules", "rm", schedule["id"])
    assert cli("schedules", "ls", "--json").json["items"] == []

    (tmp_path / "names.csv").write_bytes(b"a,b\n" * 1000)
    uri = cli("files", "put", str(tmp_path / "names.csv")).out.strip()
    cli("files", "get", uri, "-o", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == b"a,b\n" * 1000
    cli("files", "get", f"{uri}x", "-o", str(tmp_path / "none"), status=3)
    assert not (tmp_path / "none").exists()

    assert cli("credits", "--json").json["currency"] == "micro_credits"
    assert cli("usage", "--group-by", "day", "--json").json["next"] is None


def test_the_mesh_of_this_machine_is_found_by_its_directory(cli: Cli, mesh: Mesh) -> None:
    told = cli("workflows", "ls", "--json", RUNMESH_URL="", RUNMESH_API_KEY="", RUNMESH_HOME=str(mesh.home))
    assert "probe" in {item["service_id"] for item in told.json["items"]}
    assert (mesh.home / "run" / "address").read_text() == mesh.url


@pytest.mark.slow
@pytest.mark.parametrize("starter", ["hello", "stream", "watch"])
def test_a_starter_passes_all_checks_and_answers(cli: Cli, mesh: Mesh, starter: str) -> None:
    cli("init", "--starter", starter, "--force")
    assert cli("validate", f"{starter}.py", "--json").json["all_passed"] is True
    cli("deploy", f"{starter}.py")
    given = {"watch": [f"url={mesh.url}/healthz"], "stream": ["count:=2", "pause:=0"], "hello": []}[starter]
    told = cli("run", starter, *given, "--stream").out
    wanted = {"watch": '"up":', "stream": 'data: {"number": 2}', "hello": "Hello world!"}[starter]
    assert wanted in told
    cli("workflows", "rm", starter, "--yes")
