"""`runmesh doctor`."""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.mesh import ROOT, RUNMESH, free_port, mesh_up

pytestmark = pytest.mark.timeout(200)
ORDINARY = 54321


@pytest.fixture
def home() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="doctor-", dir="/var/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def runmesh(
    *arguments: str, home: Path, program: Path = RUNMESH, user: int | None = None, **environ: str
) -> "subprocess.CompletedProcess[str]":
    if user is not None:
        os.chown(home, user, user)
    env = {name: value for name, value in os.environ.items() if not name.startswith(("RUNMESH_", "OTEL_"))}
    return subprocess.run(
        [program, *arguments], env={**env, "RUNMESH_HOME": str(home), **environ}, cwd=ROOT, text=True, timeout=100,
        capture_output=True, check=False, user=user, group=user, extra_groups=[] if user is not None else None,
    )  # fmt: skip


def doctor(status: int, **options: Any) -> dict[str, Any]:
    """Its report; it must exit with this."""
    done = runmesh("doctor", "--json", **options)
    assert done.returncode == status, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    report["levels"] = {finding["name"]: finding["level"] for finding in report["findings"]}
    return report


def test_it_finds_this_host_fit(home: Path) -> None:
    report = doctor(0, home=home)
    has_groups = report["levels"]["control groups"] == "ok"
    assert report["tier"] == ("standard" if os.getuid() == 0 and has_groups else "reduced")
    assert "fault" not in report["levels"].values()
    assert report["levels"]["sandbox"] == report["levels"]["warm start"] == "ok"
    assert list(home.iterdir()) == []


def test_a_host_without_bubblewrap(home: Path) -> None:
    report = doctor(1, home=home, PATH="/nonexistent")
    assert report["tier"] == ""
    assert report["levels"]["bubblewrap"] == report["levels"]["sandbox"] == "fault"


def test_for_a_reader(home: Path) -> None:
    done = runmesh("doctor", home=home, PATH="/nonexistent")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith("FAULT ")
    assert any("apt-get install bubblewrap" in line for line in lines)
    assert lines[-1] == "isolation: none can be had: user code can't run here"


@pytest.mark.slow  # a mesh of its own; the driver is in test_driver_contract.py
def test_no_isolation_is_shown_and_works(home: Path) -> None:
    assert doctor(1, home=home, RUNMESH_ISOLATION="none")["tier"] == "none"
    with mesh_up(home=home, env={"RUNMESH_ISOLATION": "none", "RUNMESH_EXAMPLE": "on"}) as mesh, mesh.http() as client:
        assert "NO ISOLATION" in "".join(mesh.output)
        assert client.post("/run/hello", json={"name": "Ada"}).json() == {"message": "Hello Ada!"}
        mesh.deploy("nested", NESTED)
        assert client.post("/run/nested", json={}).json() == {"told": {"message": "Hello from inside!"}}
    assert mesh.process.returncode == 0


def test_no_isolation_is_refused_where_others_reach_it(home: Path) -> None:
    port = str(free_port())
    done = runmesh("up", home=home, RUNMESH_ISOLATION="none", RUNMESH_HOST="0.0.0.0", RUNMESH_PORT=port)
    assert done.returncode == 2
    assert "refused on 0.0.0.0" in done.stdout


NESTED = """# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi", "uvicorn"]
# ///
import json, os, urllib.request, uvicorn
from fastapi import FastAPI

app = FastAPI()


@app.post("/")
def call(inputs: dict) -> dict:
    request = urllib.request.Request(
        os.environ["CODEWORDS_RUNTIME_URI"] + "/run/hello",
        json.dumps({"name": "from inside"}).encode(),
        {"Authorization": "Bearer " + os.environ["CODEWORDS_API_KEY"], "Content-Type": "application/json"},
    )
    return {"told": json.load(urllib.request.urlopen(request, timeout=20))}


if __name__ == "__main__":
    uvicorn.run(app)
"""
