"""How much disk a sandbox takes: its directories are walked, since few file systems count by directory.

What was deleted while a process still has it open isn't seen; no single file can be longer than the limit (shim.py).
"""

import asyncio
import os
import stat
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from kit.telemetry import log

LOOK_SECONDS = 1.0
# A walk may take this share of the time at most.
SHARE = 0.05
DEEPEST = 100
MOST_ENTRIES = 1_000_000


class Unmeasurable(Exception):
    """Deeper or more than anybody walks, or closed to whoever looks; says which."""


@asynccontextmanager
async def watched(places: Sequence[Path], limit: int, over: Callable[[str], None]) -> AsyncIterator[None]:
    """While inside, looks every second or less often; `over` hears once what is too much. `limit` in bytes, 0: none."""
    looks: list[asyncio.Task[None]] = []

    def begin() -> None:
        looks.append(asyncio.create_task(_watch(places, limit, over)))

    timer = asyncio.get_running_loop().call_later(LOOK_SECONDS, begin) if limit else None
    try:
        yield
    finally:
        if timer is not None:
            timer.cancel()
        for look in looks:
            look.cancel()
        await asyncio.gather(*looks, return_exceptions=True)


async def _watch(places: Sequence[Path], limit: int, over: Callable[[str], None]) -> None:
    while True:
        pause, started = LOOK_SECONDS, time.monotonic()
        try:
            size = await asyncio.to_thread(used, places)
            if size > limit:
                over(f"the run wrote {size >> 20} MiB, more than its limit of {limit >> 20} MiB")
                return
            pause = max(LOOK_SECONDS, (time.monotonic() - started) / SHARE)
        except Unmeasurable as problem:
            over(str(problem))
            return
        except OSError as error:  # such as no descriptor left: the next look may succeed
            log().warning("disk.not_measured", reason=str(error))
        await asyncio.sleep(pause)


def used(places: Sequence[Path]) -> int:
    """Bytes on disk below these directories; one that isn't there has none. No link is followed.

    Errors: Unmeasurable, OSError.
    """
    left = [MOST_ENTRIES]
    total = 0
    for place in places:
        try:
            opened = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except FileNotFoundError:
            continue
        total += _walk(opened, DEEPEST, left)
    return total


def _walk(directory: int, depth: int, left: list[int]) -> int:
    total = 0
    try:
        with os.scandir(directory) as entries:
            for entry in entries:
                left[0] -= 1
                if left[0] < 0:
                    raise Unmeasurable(f"the run made more than {MOST_ENTRIES} files and directories")
                total += _size(directory, entry, depth, left)
    finally:
        os.close(directory)
    return total


def _size(directory: int, entry: "os.DirEntry[str]", depth: int, left: list[int]) -> int:
    try:
        about = entry.stat(follow_symlinks=False)
        size = about.st_blocks * 512
        if not stat.S_ISDIR(about.st_mode):
            return size
        if not depth:
            raise Unmeasurable(f"the run made directories more than {DEEPEST} deep")
        opened = os.open(entry.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
    except PermissionError as error:
        raise Unmeasurable("the run made a directory that can't be looked into") from error
    except OSError:  # gone, or replaced by something else, while we looked
        return 0
    return size + _walk(opened, depth - 1, left)
