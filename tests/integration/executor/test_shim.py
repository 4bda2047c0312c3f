"""The shim where it must not run: outside of a sandbox."""

import json
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from executor.frames import json_frame

SOURCE = Path(__file__).parents[3] / "executor"


def run_shim(directory: Path, order: bytes) -> tuple[bytes, int]:
    """Starts the shim as an ordinary process, gives it one frame; what it says, and its exit status."""
    for path in SOURCE.glob("shim*.py"):
        shutil.copy(path, directory)
    ours, its = socket.socketpair()
    with ours, its:
        become = f"import os; os.dup2({its.fileno()}, 3); os.execv({sys.executable!r}, ['python', '-u', 'shim.py'])"
        with subprocess.Popen([sys.executable, "-Ic", become], cwd=directory, pass_fds=[its.fileno()]) as process:
            its.close()
            ours.sendall(order)
            ours.shutdown(socket.SHUT_WR)
            told = b""
            while piece := ours.recv(65536):
                told += piece
    return told, process.returncode


def start(directory: Path, **order: Any) -> bytes:
    return json_frame(b"S", {"script": str(directory / "w.py"), "argv": [], "env": {}, **order})


def test_it_refuses_to_run_outside_of_a_sandbox(tmp_path: Path) -> None:
    (tmp_path / "w.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    told, status = run_shim(tmp_path, start(tmp_path))
    length, kind = struct.unpack("!Ic", told[:5])
    assert (kind, length) == (b"X", len(told) - 5)
    content = json.loads(told[5:])
    assert content["kind"] == "refused"
    assert "NoNewPrivs is 0" in content["error"]
    assert "Seccomp is 0" in content["error"]
    assert status == 65
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("order", [b"", b"\0\0\0", json_frame(b"V", {})])
def test_it_ends_when_nobody_wants_it(tmp_path: Path, order: bytes) -> None:
    told, status = run_shim(tmp_path, order)
    assert told == b""
    assert status in {64, 66}
