"""What the doctor tries, in children that are thrown away."""

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

from executor import trial


def refuse() -> NoReturn:
    raise OSError("it can't be had")


def die() -> NoReturn:
    os._exit(3)


def where_are_we() -> NoReturn:
    raise OSError(f"{os.getuid()} {Path.cwd()}")


def test_what_comes_of_an_attempt(tmp_path: Path) -> None:
    assert trial.attempt(lambda: None, None, tmp_path) == ""
    assert trial.attempt(refuse, None, tmp_path) == "it can't be had"
    assert trial.attempt(die, None, tmp_path) == "the attempt ended with 3"
    assert trial.attempt(where_are_we, None, tmp_path) == f"{os.getuid()} {tmp_path}"


def test_as_somebody_else(tmp_path: Path) -> None:
    if os.getuid():
        return  # becoming another takes root
    tmp_path.chmod(0o755)
    assert trial.attempt(where_are_we, 209_999, tmp_path).startswith("209999 ")


def attempt(action: str, directory: Path) -> str:
    """In a process without grpc, which may start threads in a forked child, and that can't leave its user namespace."""
    source = f"""
from pathlib import Path
from executor import trial

def forbidden():
    trial.user_namespace()
    Path("/proc/sys/user/max_user_namespaces").write_text("0")
    trial.user_namespace()

print(trial.attempt({action}, None, Path({str(directory)!r})), end="")
"""
    ended = subprocess.run([sys.executable, "-c", source], check=False, capture_output=True, text=True, timeout=60)
    assert not ended.stderr
    return ended.stdout


def test_an_overlay_that_cannot_be_had(tmp_path: Path) -> None:
    assert attempt("trial.overlay", tmp_path) == ""
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "lower").touch()
    assert "lower" in attempt("trial.overlay", tmp_path / "second")


def test_namespaces_that_cannot_be_had(tmp_path: Path) -> None:
    """In a namespace that forbids more of them."""
    assert "unshare" in attempt("forbidden", tmp_path)
