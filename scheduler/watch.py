"""Looking at runs: once, in lists, and live. A watcher costs memory only: the commits themselves wake it; of what other
schedulers commit it finds out by looking again.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

from kit.clock import Clock
from scheduler.model import Asker, History, Provision, Run, unknown_run

AGAIN_SECONDS = 0.5


class RunReads(Protocol):
    """What the store tells about runs."""

    async def find_run(self, asker: Asker, request_id: str, *, content: bool = True) -> Run | None: ...

    async def find_provision(self, provision_id: str) -> Provision | None: ...

    async def history(self, query: History) -> list[Run]: ...

    async def costs_below(self, ids: Collection[str]) -> Mapping[str, int]: ...

    async def holds(self, root_id: str) -> bool: ...

    async def goes_on(self, root_id: str, depth: int) -> bool: ...


class Watcher:
    """One look-out: the newest state that it hasn't fetched yet, of runs that it `wants` to know about."""

    def __init__(self, wants: Callable[[Run], bool]) -> None:
        self._wants = wants
        self._news = asyncio.Event()
        self._latest: Run | None = None

    def tell(self, run: Run | None) -> None:
        """None: look again."""
        if run is None or (self._wants(run) and run.supersedes(self._latest)):
            self._latest = run
            self._news.set()

    async def next(self, patience: float | None) -> Run | None:
        """The next state. None: look again, which nothing newer within `patience` seconds means, too."""
        try:
            async with asyncio.timeout(patience):
                await self._news.wait()
        except TimeoutError:
            return None
        self._news.clear()
        return self._latest


class Notices:
    """Who watches what, by the id that they asked for."""

    def __init__(self) -> None:
        self._watchers: dict[str, set[Watcher]] = {}

    def changed(self, run: Run) -> None:
        """A run's new state is committed."""
        for request_id in {run.id, run.provision_id}:
            for watcher in self._watchers.get(request_id, ()):
                watcher.tell(run)

    def forgotten(self, request_id: str) -> None:
        """A provisioned id is no more."""
        for watcher in self._watchers.get(request_id, ()):
            watcher.tell(None)

    @contextmanager
    def watching(self, request_id: str, wants: Callable[[Run], bool]) -> Iterator[Watcher]:
        watcher = Watcher(wants)
        self._watchers.setdefault(request_id, set()).add(watcher)
        try:
            yield watcher
        finally:
            rest = self._watchers[request_id]
            rest.discard(watcher)
            if not rest:
                del self._watchers[request_id]

    def __len__(self) -> int:
        return len(self._watchers)


class Watch:
    """Records for those who may see them. `shared`: other schedulers commit to the same database, and don't tell us."""

    def __init__(self, reads: RunReads, notices: Notices, clock: Clock, *, shared: bool = False) -> None:
        self._reads = reads
        self._notices = notices
        self._clock = clock
        self._patience = AGAIN_SECONDS if shared else None

    async def get(self, asker: Asker, request_id: str, *, content: bool = True) -> Run | Provision:
        """The run of this id, or of a provisioned id the newest run. Errors: NotFound."""
        for _ in range(2):  # between the two looks a provisioned id may have become a run
            run = await self._reads.find_run(asker, request_id, content=content)
            if run is not None:
                break
            provision = await self._reads.find_provision(request_id)
            if provision is None:
                break
            if not provision.used_at and asker.sees_provision(provision, self._clock.now()):
                return provision
        if run is None or not asker.sees(run):
            raise unknown_run()
        return run

    async def history(self, query: History) -> tuple[list[Run], str]:
        """(newest first, where to go on: empty on the last page)."""
        found = await self._reads.history(replace(query, limit=query.limit + 1))
        return found[: query.limit], (found[query.limit - 1].id if len(found) > query.limit else "")

    async def nested(self, *found: Run | Provision) -> Mapping[str, int]:
        """What the runs below these were charged, by their ids; what is missing is 0."""
        ids = [run.id for run in found if isinstance(run, Run)]
        return await self._reads.costs_below(ids) if ids else {}

    async def cost_open(self, found: Run | Provision) -> bool:
        """Whether what it and the runs below it are charged may change: one of them goes on, or how their root ends
        has yet to say whether they are charged.
        """
        if isinstance(found, Provision) or not found.status.over:
            return True
        root_id = found.root_id or found.id
        if await self._reads.goes_on(root_id, found.depth):
            return True
        return found.billing.charged_on_success and await self._reads.holds(root_id)

    async def follow(self, asker: Asker, request_id: str) -> AsyncGenerator[Run | Provision, None]:
        """The record now, and after each change until it is over. Errors: NotFound."""

        def wanted(run: Run) -> bool:
            return asker.sees(run) and (not asker.exact or run.id == request_id)

        with self._notices.watching(request_id, wanted) as watcher:
            record = await self.get(asker, request_id)
            yield record
            while isinstance(record, Provision) or not record.status.over:
                found = await watcher.next(self._patience) or await self.get(asker, request_id)
                if isinstance(found, Run) and (isinstance(record, Provision) or found.supersedes(record)):
                    record = found
                    yield record
