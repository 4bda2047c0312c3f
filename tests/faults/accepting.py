"""`python -m tests.faults.accepting DATABASE COUNT PRAGMA`: accepts runs, one after the other, and says each one's id
once it is committed, as Submit does to its callers. PRAGMA: one for each connection besides ours, such as
`synchronous=OFF`.
"""

import asyncio
import os
import sys
from typing import Any

from sqlalchemy import event

from kit.clock import SystemClock
from kit.db import Database, open_db
from scheduler.dispatch import Dispatch
from scheduler.fleet import Fleet
from scheduler.shares import Shares
from scheduler.store.database import open_store
from scheduler.submit import Submit
from tests.fakes.scheduling import VERSION, FakeExecutors, a_submission

SAID = "accepted "


def also(db: Database, pragma: str) -> None:
    """Switches a protection off."""

    @event.listens_for(db._writer.sync_engine, "connect")
    def on_connect(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA {pragma}")
        cursor.close()


async def accept(database: str, count: int, pragma: str) -> None:
    clock = SystemClock()
    async with open_db(f"sqlite+aiosqlite:///{database}") as db:
        if pragma:
            also(db, pragma)
        async with open_store(db) as store:
            dispatch = Dispatch(store, Fleet(clock), Shares(100), FakeExecutors(), lambda _: None, clock)
            submit = Submit(store, dispatch, clock)
            for _ in range(count):
                run, _ = await submit(a_submission(version_id=VERSION.id))
                os.write(1, f"{SAID}{run.id}\n".encode())


if __name__ == "__main__":
    asyncio.run(accept(sys.argv[1], int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else ""))
