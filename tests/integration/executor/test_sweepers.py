"""Directories that are being removed while somebody puts something into them."""

import subprocess
import sys
from pathlib import Path

import pytest

# In a process of its own: this one has threads, and grpc.
SCRIPT = """
import os, sys
from pathlib import Path
from executor.sweepers import Sweepers

root, intrusions, gone = Path(sys.argv[1]), int(sys.argv[2]), []
place = root / "slot"
(place / "deep" / "deeper").mkdir(parents=True)
(place / "deep" / "file").write_text("x")
sweepers = Sweepers(gone.append)
job = object()
sweepers.begin(root, place, None, job)
while len(sweepers):
    pid, _ = os.wait()
    if intrusions:
        intrusions -= 1
        (place / "late").mkdir()
    assert not sweepers.reaped(-1)
    assert sweepers.reaped(pid)
assert gone == [job]
"""


@pytest.mark.parametrize(("intrusions", "stays"), [(0, False), (2, False), (3, True)])
def test_what_is_put_into_it_meanwhile_is_swept_too(tmp_path: Path, intrusions: int, stays: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, tmp_path, str(intrusions)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert (tmp_path / "slot").exists() is stays
    assert ("stays: " in done.stderr) is stays
