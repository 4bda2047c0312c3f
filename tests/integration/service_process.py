"""A service as a process of its own, the way the supervisor starts it."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


@contextmanager
def service_process(name: str, **settings: str) -> Iterator["subprocess.Popen[str]"]:
    """`python -m NAME`, ready; killed at the end if the test didn't stop it."""
    env = {key: value for key, value in os.environ.items() if not key.startswith("RUNMESH_")} | settings
    process = subprocess.Popen([sys.executable, "-m", name], cwd=ROOT, env=env, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        said = []
        for line in process.stderr:
            said.append(line)
            if '"event": "service.ready"' in line:
                break
        else:
            raise AssertionError(f"{name} did not start: {''.join(said)}")
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        process.stderr.close()


def high_water(process: "subprocess.Popen[str]") -> int:
    """VmHWM: the most memory that the process ever had, in bytes."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")
