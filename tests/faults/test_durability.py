"""What is accepted is on the disk before anybody hears of it: looked at from below, system call by system call."""

import asyncio
import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from kit.db import open_db
from migrations.__main__ import upgrade
from scheduler.store.database import open_store
from tests.e2e.mesh import ROOT
from tests.fakes.scheduling import VERSION, WORKFLOW
from tests.faults.accepting import SAID
from tests.faults.promise import ASYNCHRONOUS, History, Record, Request, Told, violations

COUNT = 4
KILLED = -9
# As strace tells of them: what reaches the disk, and what reaches the caller.
_CALL = re.compile(r"(fdatasync|fsync)\(.*= 0|(write)\(1, \"" + SAID)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A scheduler's, with a workflow in it."""
    path = tmp_path / "scheduler.db"
    url = f"sqlite+aiosqlite:///{path}"
    upgrade("scheduler", url)

    async def fill() -> None:
        async with open_db(url) as db, open_store(db) as store:
            await store.write(lambda tx: tx.insert_workflow(WORKFLOW))
            await store.write(lambda tx: tx.insert_version(VERSION))

    asyncio.run(fill())
    return path


def accepted(database: Path, trace: Path, *inject: str, pragma: str = "") -> tuple[list[str], int]:
    """The runs that a scheduler said it has accepted, and its exit status. `inject`: strace's orders."""
    tracing = ["strace", "-f", "-qq", "-o", str(trace), "-e", "trace=fdatasync,fsync,write", *inject]
    child = [sys.executable, "-m", "tests.faults.accepting", str(database), str(COUNT), pragma]
    ended = subprocess.run([*tracing, *child], cwd=ROOT, capture_output=True, text=True, check=False, timeout=50)
    return re.findall(rf"{SAID}(\S+)", ended.stdout), ended.returncode


def unsynced(trace: Path) -> int:
    """How many runs were told of although nothing was brought to the disk since the one before."""
    missing, synced = 0, False
    for line in trace.read_text().splitlines():
        if found := _CALL.search(line):
            missing += bool(found[2]) and not synced
            synced = bool(found[1])
    return missing


def test_each_accepted_run_is_on_the_disk_first(database: Path, tmp_path: Path) -> None:
    runs, status = accepted(database, tmp_path / "trace")
    assert (len(set(runs)), status) == (COUNT, 0)
    assert unsynced(tmp_path / "trace") == 0


@pytest.mark.parametrize("pragma", ["synchronous=OFF", "synchronous=NORMAL"])
def test_the_test_above_fails_without_synchronous_full(database: Path, tmp_path: Path, pragma: str) -> None:
    runs, _ = accepted(database, tmp_path / "trace", pragma=pragma)
    assert len(runs) == COUNT
    assert unsynced(tmp_path / "trace") > 0


@pytest.mark.parametrize("nth", [1, 2, COUNT])
def test_a_crash_at_any_sync_loses_nothing_that_was_told(database: Path, tmp_path: Path, nth: int) -> None:
    told, status = accepted(database, tmp_path / "trace", "-e", f"inject=fdatasync:signal=KILL:when={nth}")
    assert status in {KILLED, 128 + 9}
    assert len(told) < COUNT
    history = History([Request(run_id, ASYNCHRONOUS, [Told(200, run_id)]) for run_id in told])
    with sqlite3.connect(database) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        rows = [row[0] for row in connection.execute("SELECT id FROM runs JOIN inputs ON run_id = id")]
    connection.close()
    history.records = {run_id: Record(run_id, "queued") for run_id in rows}
    assert [one for one in violations(history) if one.startswith("lost")] == []
    assert len(rows) - len(told) in {0, 1}  # the one in whose commit it died
