"""Records as their readers may see them: the run endpoints' only way to one."""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from datetime import timedelta
from typing import Protocol, TypeVar

from edge.calls import asker, unknown_request
from edge.http import Request
from edge.model import Principal
from edge.run_model import Asker, RunRecord
from kit.clock import Clock
from kit.errors import NotFound, Unavailable
from kit.names import is_id, made_at

WATCH_TIMEOUT = timedelta(minutes=31)
# The scheduler may be away for a moment; who waits for a run waits for it too.
PATIENCE = timedelta(seconds=30)
RETRY_SECONDS = 0.5
# A run of the direct way is written down in batches, up to half a second after it has begun.
WRITTEN_DOWN = timedelta(seconds=1)
LOOK_AGAIN_SECONDS = 0.1
T = TypeVar("T")


class Runs(Protocol):
    """The scheduler, as readers see it. `exact`: of this very run, also when its id was provisioned and has newer
    ones. Errors: NotFound, Unavailable.
    """

    async def get(self, asker: Asker, request_id: str, *, exact: bool = False, summary: bool = False) -> RunRecord: ...

    def watch(
        self, asker: Asker, request_id: str, timeout: timedelta, *, exact: bool = False
    ) -> AsyncGenerator[RunRecord, None]:
        """The record now and after each change; ends after the terminal one."""


class Reading:
    """Finds and follows records."""

    def __init__(self, runs: Runs, clock: Clock) -> None:
        self._runs = runs
        self._clock = clock

    async def find(self, request: Request, *, summary: bool = False) -> RunRecord:
        """The record that a request's path names. Errors: NotFound, Unavailable."""
        wanted = request_id(request)

        async def look() -> RunRecord:
            return seen(request.who, await self._runs.get(asker(request.who), wanted, summary=summary))

        return await self.written_down(wanted, look)

    async def written_down(self, run_id: str, look: Callable[[], Awaitable[T]]) -> T:
        """What `look` comes to; one that finds nothing looks again while the id is new. Errors: those of `look`."""
        while True:
            try:
                return await look()
            except NotFound:
                if not self._is_new(run_id):
                    raise
            await self._clock.sleep(LOOK_AGAIN_SECONDS)

    def _is_new(self, run_id: str) -> bool:
        """Whether it may be a run that nobody has written down yet."""
        return timedelta() <= self._clock.now() - made_at(run_id) < WRITTEN_DOWN

    async def exactly(self, who: Principal, run_id: str) -> RunRecord:
        """The record of this very run. Errors: NotFound, Unavailable."""
        return seen(who, await self._runs.get(asker(who), run_id, exact=True))

    async def again(self, who: Principal, run_id: str) -> RunRecord:
        """How a run that was found stands by now; survives the scheduler's absence. Errors: NotFound, Unavailable."""
        begun = self._clock.now()
        while True:
            try:
                return await self._runs.get(asker(who), run_id, exact=True, summary=True)
            except Unavailable:
                if self._clock.now() - begun > PATIENCE:
                    raise
            await self._clock.sleep(RETRY_SECONDS)

    async def watch(self, asker: Asker, request_id: str, *, exact: bool = False) -> AsyncGenerator[RunRecord, None]:
        """As the scheduler's, but it survives the scheduler's absence. Errors: NotFound, Unavailable."""
        last_seen = self._clock.now()
        while True:
            try:
                async with aclosing(self._runs.watch(asker, request_id, WATCH_TIMEOUT, exact=exact)) as records:
                    async for record in records:
                        last_seen = self._clock.now()
                        yield record
                        if record.status.over:
                            return
            except Unavailable:
                if self._clock.now() - last_seen > PATIENCE:
                    raise
            except NotFound:
                if not self._is_new(request_id):
                    raise
                await self._clock.sleep(LOOK_AGAIN_SECONDS)
                continue
            await self._clock.sleep(RETRY_SECONDS)

    async def ended(self, request: Request) -> RunRecord:
        """The record once its run is over, however long that takes. Errors: NotFound, Unavailable."""
        async with aclosing(self.watch(asker(request.who), request_id(request))) as records:
            async for record in records:
                if seen(request.who, record).status.over:
                    return record
        raise unknown_request()  # not reached: `watch` ends with a terminal record only


def request_id(request: Request) -> str:
    """The id in a request's path. Errors: NotFound for one that can't be."""
    text = request.params["request_id"]
    if not is_id(text, "run"):
        raise unknown_request()
    return text


def seen(who: Principal, record: RunRecord) -> RunRecord:
    """The record, to a key that may run its service. Errors: NotFound."""
    names = {f"run:{record.service_id}", f"run:{record.owner_id}.{record.service_id}"}
    if record.service_id and not who.scopes & {"run", *names}:
        raise unknown_request()
    return record


def sees_logs(who: Principal, record: RunRecord) -> bool:
    """Logs are for the organization whose secrets the run uses."""
    return record.acting_id == who.organization_id
