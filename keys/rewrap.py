"""The use case Rewrap: what is sealed comes under the first of the KEKs, so that the others can be dropped.

Each box on its own, and only where it is still what was read: killed in the middle, or done by several processes at
once, nothing is lost, and the next pass does the rest.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from keys.keks import Keks
from keys.sealing import FORMAT, OLD_FORMAT, Envelope, Tampered, kek_id, shown
from kit.clock import Clock
from kit.errors import Unavailable
from kit.lifecycle import failpoint
from kit.settings import BadSettings
from kit.telemetry import log

AT_ONCE = 100
LOOK_SECONDS = 10.0
SAMPLE = 20


@dataclass(frozen=True)
class Box:
    """One that lies in a row. `kind`: of which table and column; `row`: its primary key there."""

    kind: str
    row: tuple[Any, ...]
    organization_id: str
    name: str
    sealed: bytes = field(repr=False)
    bound: str = ""


class SealedRows(Protocol):
    """All boxes of all tables."""

    @property
    def kinds(self) -> Sequence[str]: ...

    async def counts(self) -> Counter[bytes]:
        """How many there are with which head: format and id of the KEK; the format alone for the old one."""
        ...

    async def others(self, kind: str, head: bytes, after: Sequence[Any], limit: int) -> list[Box]:
        """Those without this head, by primary key, those after `after` (empty: from the first)."""
        ...

    async def replace(self, changed: Sequence[tuple[Box, bytes]]) -> int:
        """Each, if it is still what it was; how many were."""
        ...


class Rewrap:
    """`run` for ever, beside the service."""

    def __init__(self, envelope: Envelope, keks: Keks, rows: SealedRows, clock: Clock) -> None:
        self._envelope = envelope
        self._keks = keks
        self._rows = rows
        self._clock = clock
        self._done: bytes | None = None

    async def run(self) -> None:
        """A pass at the start, and one whenever another KEK is the first."""
        while True:
            try:
                await self.look()
            except Unavailable as problem:
                log().warning("kek.waiting", reason=problem.message)
            await self._clock.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Reads the KEKs again, and does what there is to do. Errors: Unavailable."""
        try:
            self._envelope.use(self._keks.read())
        except BadSettings as bad:  # somebody is at it: what we have is still good
            log().error("kek.unreadable", reason=str(bad))
            return
        first = self._envelope.ids[0]
        if first != self._done:
            await self.once()
            self._done = first

    async def once(self) -> int:
        """One pass over everything; how many boxes it changed. Errors: Unavailable."""
        head = FORMAT + self._envelope.ids[0]
        changed = failed = 0
        for kind in self._rows.kinds:
            after: Sequence[Any] = ()
            while boxes := await self._rows.others(kind, head, after, AT_ONCE):
                after = boxes[-1].row
                made = []
                for box in boxes:
                    try:
                        made.append((box, self._again(box)))
                    except Tampered as error:
                        failed += 1
                        log().error("kek.not_rewrapped", kind=kind, reason=str(error))
                changed += await self._rows.replace(made)
                failpoint("rewrapped")
                await asyncio.sleep(0)
        if changed or failed:
            log().info("kek.rewrapped", kek=shown(self._envelope.ids[0]), changed=changed, failed=failed)
        return changed

    def _again(self, box: Box) -> bytes:
        return self._envelope.rewrap(box.organization_id, box.name, box.sealed, bound=box.bound)


async def opened(keks: Keks, rows: SealedRows) -> Envelope:
    """What seals and opens. Errors: BadSettings when what is sealed needs a KEK that we haven't got: nothing is changed
    or made then.
    """
    counts = await rows.counts()
    if counts and not keks.there:
        needed = _listed(counts)
        raise BadSettings([f"{keks.where} is gone, and {needed}: put it back. Nothing was changed"])
    envelope = Envelope(*keks.read(), look_again=lambda: _again(keks))
    missing = {head: count for head, count in counts.items() if head[:1] == FORMAT and head[1:] not in envelope.ids}
    if counts[OLD_FORMAT] and not await _old_ones_open(envelope, rows):
        missing[OLD_FORMAT] = counts[OLD_FORMAT]
    if missing:
        have = ", ".join(map(shown, envelope.ids))
        told = f"{_listed(missing)}; {keks.where} has {have} only: put the other back, after the one that wraps"
        raise BadSettings([f"{told}. Nothing was changed"])
    return envelope


def _again(keks: Keks) -> tuple[bytes, ...]:
    try:
        return keks.read()
    except BadSettings as bad:
        log().error("kek.unreadable", reason=str(bad))
        return ()


async def _old_ones_open(envelope: Envelope, rows: SealedRows) -> bool:
    """Whether any of some: one alone may be broken."""
    for kind in rows.kinds:
        for box in await rows.others(kind, FORMAT + envelope.ids[0], (), SAMPLE):
            try:
                if box.sealed[:1] == OLD_FORMAT:
                    envelope.open(box.organization_id, box.name, box.sealed)
                    return True
            except Tampered:
                continue
    return False


def _listed(counts: Mapping[bytes, int]) -> str:
    """`3 sealed values need kek_…, 2 need the KEK of the first start`."""
    needs = [
        f"{count} need {shown(head[1:]) if head[:1] == FORMAT else 'the KEK that an earlier release made'}"
        for head, count in sorted(counts.items())
    ]
    return "of what is sealed in the database (secrets, webhook secrets, hooks, receipt keys) " + ", ".join(needs)


def unneeded(keks: Sequence[bytes], counts: Mapping[bytes, int]) -> list[bytes]:
    """Which of `keks` can be dropped: not the first, and none that anything is sealed under."""
    if OLD_FORMAT in counts:
        return []
    return [kek for kek in keks[1:] if FORMAT + kek_id(kek) not in counts]
