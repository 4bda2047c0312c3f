"""`runmesh rotate-kek`: the keys service's own program does it, which alone knows these keys and what is sealed."""

import subprocess
import sys


def run(*, drop_old: bool) -> int:
    """Its exit status."""
    argv = [sys.executable, "-m", "keys", "rotate-kek", *(["--drop-old"] if drop_old else [])]
    return subprocess.run(argv, check=False).returncode  # noqa: S603  # our own program
