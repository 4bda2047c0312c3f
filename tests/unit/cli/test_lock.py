"""cli.lock and `runmesh down`: one mesh on a directory, found and stopped by its lock."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cli import down
from cli.lock import InUse, locked, owner
from kit.settings import BadSettings

HOLDER = "import sys; from pathlib import Path; from cli.lock import locked\nwith locked(Path(sys.argv[1])): "


def holder(home: Path, then: str) -> "subprocess.Popen[str]":
    """Another process that has the lock."""
    code = f"{HOLDER}print('held', flush=True); {then}"
    process = subprocess.Popen([sys.executable, "-c", code, home], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    process.stdout.close()
    return process


def test_two_meshes_on_one_directory(tmp_path: Path) -> None:
    other = holder(tmp_path, "import time; time.sleep(60)")
    try:
        assert owner(tmp_path) == other.pid
        with (
            pytest.raises(InUse, match=rf"process {other.pid}\).*make down.*RUNMESH_HOME and RUNMESH_PORT"),
            locked(tmp_path),
        ):
            pass
    finally:
        other.kill()
        other.wait(10)
    assert owner(tmp_path) is None
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("home", ["/dev/null", "/dev/null/x", "/proc/x"])
def test_a_directory_that_cannot_be_used(home: str) -> None:
    with pytest.raises(BadSettings, match="set RUNMESH_HOME"), locked(Path(home)):
        pass


def test_down_stops_the_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RUNMESH_HOME", str(tmp_path))
    other = holder(tmp_path, "import time; time.sleep(60)")
    assert down.stop() == 0
    assert other.wait(10) == -signal.SIGTERM
    assert down.stop() == 0
    assert capsys.readouterr().out.splitlines() == [
        "runmesh   | stopping; calls and runs under way have 10 s each to end",
        "runmesh   | stopped",
        f"runmesh   | nothing runs on {tmp_path}",
    ]


def test_down_gives_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RUNMESH_HOME", str(tmp_path))
    monkeypatch.setattr(down, "PATIENCE_SECONDS", 0.2)
    other = holder(tmp_path, "import signal, time; signal.signal(15, signal.SIG_IGN); print(end=''); time.sleep(60)")
    try:
        # The holder may not ignore SIGTERM yet: ask only when it does.
        status = Path(f"/proc/{other.pid}/status")
        while not int(status.read_text().split("SigIgn:")[1].split()[0], 16) & 1 << 14:
            pass
        assert down.stop() == 1
    finally:
        other.kill()
        other.wait(10)
    assert f"process {other.pid} did not stop" in capsys.readouterr().out


def test_down_of_bad_settings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RUNMESH_HOME", "/dev/null")
    assert down.stop() == 2
    assert "set RUNMESH_HOME" in capsys.readouterr().out
