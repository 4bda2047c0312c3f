"""`runmesh up` from the first start to the last: what it prints, what it keeps, what it leaves."""

import os
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.mesh import ROOT, RUNMESH, Mesh, free_port, mesh_up, until
from tests.e2e.test_doctor import ORDINARY, doctor
from tests.e2e.test_egress import CODE as DIALLER

pytestmark = pytest.mark.timeout(200)
EXAMPLE = {"RUNMESH_EXAMPLE": "on"}


@pytest.fixture
def home() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="mesh-", dir="/var/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


def left_over(home: Path) -> list[str]:
    """Processes that name this data directory, and mounts below it."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            text = (path / "cmdline").read_bytes() + (path / "environ").read_bytes()
        except OSError:
            continue
        if str(home).encode() in text and int(path.name) != os.getpid():
            found.append(text[:200].decode("utf-8", "replace"))
    return found + [line for line in Path("/proc/mounts").read_text().splitlines() if str(home) in line]


def test_two_starts_keep_the_data_dead_services_come_back_and_nothing_is_left(home: Path) -> None:
    port = free_port()
    with mesh_up(home=home, port=port, env=EXAMPLE) as mesh:
        text = "".join(mesh.output)
        assert mesh.key in text
        assert "curl " in text
        assert str(home) in text
        assert stat.S_IMODE((home / "admin.key").stat().st_mode) == 0o600
        with mesh.http() as client:
            assert client.post("/run/hello", json={"name": "Ada"}).json() == {"message": "Hello Ada!"}
            kept = client.post("/run_async/hello", json={"name": "kept"}).json()["request_id"]
            assert client.get(f"/result/{kept}?timeout=30").status_code == 200
            assert client.get("/metrics", headers={"Authorization": ""}).status_code == 200
            assert "runmesh_rpc_total" in client.get("/metrics").text
        second = subprocess.run(
            [RUNMESH, "up"],
            env={**os.environ, "RUNMESH_HOME": str(home), "RUNMESH_PORT": str(free_port())},
            cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        assert second.returncode == 1
        assert "already runs" in second.stdout
        first_key = mesh.key
    assert mesh.process.returncode == 0, "".join(mesh.output[-20:])
    until(lambda: not left_over(home), 5)
    started = time.monotonic()
    with mesh_up(home=home, port=port, env=EXAMPLE) as mesh:
        assert time.monotonic() - started < 20
        assert mesh.key == first_key
        with mesh.http() as client:
            assert client.get(f"/request/{kept}").json()["status"] == "succeeded"
            assert client.get(f"/logs/{kept}").text.count("greeting kept") == 1
            assert client.post("/run/hello", json={"name": "again"}).json() == {"message": "Hello again!"}
        check_services_come_back(mesh)
        stopped = subprocess.run(
            [RUNMESH, "down"], env={**os.environ, "RUNMESH_HOME": str(home)}, cwd=ROOT, timeout=60, check=False
        )
        assert stopped.returncode == 0
        assert mesh.process.wait(5) == 0


def test_as_an_ordinary_user(home: Path, for_everybody: Path) -> None:
    user = ORDINARY if os.getuid() == 0 else None
    with mesh_up(home=home, env=EXAMPLE, user=user, runmesh=for_everybody) as mesh, mesh.http() as client:
        assert client.post("/run/hello", json={"name": "Ada"}).json() == {"message": "Hello Ada!"}
        mesh.deploy("open", DIALLER % "")
        run_id = client.post("/run/open", json=[("10.254.254.254", 5432)]).headers["x-request-id"]
        mesh.finished(run_id)
        contacts = client.get(f"/request/{run_id}/egress").json()["items"]
        assert [(each["host"], each["verdict"]) for each in contacts] == [("10.254.254.254", "denied")]
        assert list(home.glob("runs/base-*/slots/template-*")), "templates aren't forked from a base"
        assert not [line for line in mesh.output if "base.failed" in line or "template.failed" in line]
    assert mesh.process.returncode == 0
    until(lambda: not left_over(home), 5)


def test_the_doctor_as_an_ordinary_user(home: Path, for_everybody: Path) -> None:
    """Here, where such a user's `runmesh` is made already."""
    user = ORDINARY if os.getuid() == 0 else None
    report = doctor(0, home=home, program=for_everybody, user=user)
    assert report["tier"] == "reduced"
    assert report["levels"]["uids"] == "warning"
    assert report["levels"]["sandbox"] == report["levels"]["warm start"] == "ok"
    assert all(finding["remedy"] for finding in report["findings"] if finding["level"] != "ok")
    assert list(home.iterdir()) == []


def check_services_come_back(mesh: Mesh) -> None:
    with mesh.http() as client:
        for service in ("keys", "scheduler", "executor", "edge", "filestore"):
            pid = int(subprocess.run(
                ["pgrep", "-P", str(mesh.process.pid), "-f", f"python -m {service}|python3.* -m {service}"],
                capture_output=True, text=True, check=True,
            ).stdout.split()[0])  # fmt: skip
            os.kill(pid, signal.SIGKILL)
            until(lambda: client.post("/run/hello", json={"name": "x"}).status_code == 200, 30)


def test_a_taken_port_is_told(home: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        run = subprocess.run(
            [RUNMESH, "up"],
            env={**os.environ, "RUNMESH_HOME": str(home), "RUNMESH_PORT": str(taken.getsockname()[1])},
            cwd=ROOT, capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
    assert run.returncode == 1
    assert "RUNMESH_PORT" in run.stdout
    assert not left_over(home)
