"""`python -m keys rotate-kek`: a new KEK in front of the others; with `--drop-old`, those away that nothing needs."""

import argparse
import asyncio
import math
import sys
import time
from collections.abc import Mapping, Sequence

from keys.keks import Keks, new_kek
from keys.rewrap import unneeded
from keys.sealed_store import SqlSealedRows
from keys.sealing import FORMAT, kek_id, shown
from keys.settings import Settings
from kit.db import open_db
from kit.errors import Problem
from kit.settings import BadSettings, load

SECONDS = 10


def rotate(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Exit status: 0 when done, 1 when it can't be done yet, 2 for bad settings."""
    parser = argparse.ArgumentParser(prog="runmesh rotate-kek")
    parser.add_argument("--drop-old", action="store_true")
    wanted = parser.parse_args(arguments)
    try:
        settings = load(Settings, environ)
        keks = settings.keks
        with keks.changing():
            return asyncio.run(_drop(settings, keks)) if wanted.drop_old else _add(keks)
    except BadSettings as bad:
        return _told("\n".join(bad.faults), 2)
    except Problem as problem:
        return _told(problem.message, 1)
    except OSError as error:
        told = f"{keks.where} can't be changed ({error.strerror}): put a new key in front there yourself"
        return _told(f"{told}, or run this as its owner", 1)


def _add(keks: Keks) -> int:
    before, made = keks.read(), new_kek()
    keks.write((made, *before))
    print(f"{shown(kek_id(made))} is the first in {keks.where} now; copy that file to where you keep its copy.")
    print(f"A mesh that runs has sealed everything under it {SECONDS} s later; one that doesn't, soon after its start.")
    print("Then `runmesh rotate-kek --drop-old` takes away what nothing needs any more.")
    return 0


async def _drop(settings: Settings, keks: Keks) -> int:
    have = keks.read()
    # Whoever hasn't looked since still seals by the one before, also where nothing was sealed until now: that would be
    # lost.
    wait = SECONDS + 2 - (time.time() - keks.path.stat().st_mtime) if keks.path and len(have) > 1 else 0
    if 0 < wait <= SECONDS + 2:
        return _told(f"{keks.where} has only just changed: try again in {math.ceil(wait)} s", 1)
    async with open_db(settings.database_url("keys")) as db:
        counts = await SqlSealedRows(db).counts()
    gone = unneeded(have, counts)
    kept = [kek for kek in have if kek not in gone]
    if gone:
        keks.write(kept)
        print(f"{', '.join(shown(kek_id(kek)) for kek in gone)}: taken out of {keks.where}.")
    if len(kept) > 1:
        left = sum(count for head, count in counts.items() if head != FORMAT + kek_id(have[0]))
        told = f"{left} sealed values are still under {', '.join(shown(kek_id(kek)) for kek in kept[1:])}"
        return _told(f"{told}, which stay: start the mesh, wait {SECONDS} s, and try again", 1)
    if not gone:
        print(f"{keks.where} holds one key, {shown(kek_id(kept[0]))}: there is nothing to take out.")
    return 0


def _told(message: str, status: int) -> int:
    print(f"runmesh rotate-kek: {message}", file=sys.stderr)
    return status
