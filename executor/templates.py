"""The warm driver: a run gets a slot, forked from the template of its workflow; `cold` runs get a new process.

One template for each source, organization whose secrets are used, and environment of variables. A template that fails
to load, or can't be forked, is no failure of a run: the run is done cold, where whatever is wrong shows as it is.
"""

import asyncio
import hashlib
import json
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, cast

import prometheus_client

from executor.cgroups import Usage
from executor.failure import in_our_log
from executor.instances import PATIENCE, Idle, Instance, Turn, end
from executor.sandbox import Launch, Sandbox, StartFailed, Unforkable
from kit.clock import Clock
from kit.errors import Problem, Unavailable
from kit.lifecycle import background
from kit.telemetry import log

SANDBOXES = prometheus_client.Counter(
    "runmesh_sandboxes_total",
    "Sandboxes given to runs: a waiting slot, a forked one, an instance, a cold one.",
    ["how"],
)
MOST_TEMPLATES = 64
# A slot waits for a workflow that was called within this time.
HOT = timedelta(seconds=60)
# A template that failed to load is tried again after that time, one that can't be forked never.
RETRY = timedelta(seconds=30)
SWEEP_SECONDS = 5.0
REMEMBERED = 4096


class Slot(Sandbox, Protocol):
    """A sandbox that a template was forked into."""

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""

    def say_first(self, said: tuple[bytes, bytes]) -> None:
        """Puts this before what it prints: (stdout, stderr), 32 KiB each at most."""


class Template(Protocol):
    """A workflow that is loaded, and can be forked."""

    gone: asyncio.Event

    @property
    def said(self) -> tuple[bytes, bytes]:
        """What it has printed: (stdout, stderr)."""

    async def fork(self, over: Callable[[], None], *, warm: bool = False) -> Slot:
        """`over` is called when it has ended; `warm` is for one that has time before its first request.

        Errors: Unavailable.
        """

    async def openapi(self) -> str:
        """Its app's OpenAPI document as JSON, empty where it gives none. Errors: Crashed."""

    def memory(self) -> int:
        """Bytes; 0 if unknown."""

    def retire(self) -> None:
        """It ends when its last slot has."""


class Starter(Protocol):
    """The driver below."""

    @property
    def lost(self) -> bool:
        """As executor.sandbox.Driver."""

    async def start(self, launch: Launch) -> Sandbox:
        """A new process. Errors: Unavailable."""

    async def start_template(self, launch: Launch, timeout: float) -> Template:
        """Ready to be forked. Errors: StartFailed, Unforkable, Unavailable."""

    def memory(self) -> int:
        """Bytes that templates share, counted in none of them."""


@dataclass
class _Entry:
    """A template, or the making of it, and the slot that waits."""

    making: asyncio.Future[Template]
    used: datetime
    waiting: Slot | None = None
    refilling: asyncio.Task[None] | None = None
    printed: bool = False  # somebody's log has what its import said
    sulks: bool = False  # its last waiting slot failed: none is made before the next call


class Templates:
    """`executor.sandbox.Driver`, with templates."""

    def __init__(
        self, driver: Starter, clock: Clock, timeout: float, budget: int = 0, limit: int = MOST_TEMPLATES
    ) -> None:
        self._driver = driver
        self._clock = clock
        self._timeout = timeout
        self._budget = budget
        self._limit = limit
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        # Keys of what is run cold: until when (None: for good).
        self._cold: OrderedDict[str, datetime | None] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle = Idle(clock)
        self._closed = False

    @property
    def lost(self) -> bool:
        """As the driver below."""
        return self._driver.lost

    async def start(self, launch: Launch) -> Sandbox:
        """Errors: Unavailable."""
        if launch.isolation == "instance":
            return await self._instance(launch)
        if launch.isolation == "run":
            return await self._forked(launch)
        return await self._new(launch)

    async def _instance(self, launch: Launch) -> Turn:
        """An idle one, or a new one. Errors: Unavailable."""
        key = f"{_key(launch)} {launch.version_id}"  # what one version remembers is none of another's business
        idle = self._idle.take(key)
        if idle is not None:
            SANDBOXES.labels("instance").inc()
        instance, before = idle or (cast(Instance, await self._forked(launch)), Usage())
        try:
            return Turn(instance, before, lambda it, used: not self._closed and self._idle.put(key, it, used))
        except OSError as error:
            await end(instance)
            raise Unavailable(f"the sandbox can't be used: {error}") from error

    async def _forked(self, launch: Launch) -> Sandbox:
        """A slot where that can be, else a new process. Errors: Unavailable."""
        key = _key(launch)
        if self._is_cold(key):
            return await self._new(launch)
        entry = self._entry(key, launch)
        try:
            template = await asyncio.shield(entry.making)
            slot = self._waiting(entry)
            SANDBOXES.labels("forked" if slot is None else "waiting").inc()
            if slot is None:
                slot = await template.fork(lambda: self._refill(key, entry))
            if not entry.printed and launch.isolation == "run":
                entry.printed = True
                slot.say_first(template.said)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return await self._new(launch)  # it was the template's making that was cancelled
        except (StartFailed, Unforkable) as error:
            self._do_cold(key, None if isinstance(error, Unforkable) else self._clock.now() + RETRY)
            log().info("template.refused", version_id=launch.version_id, reason=in_our_log(error))
            return await self._new(launch)
        except Problem as problem:
            log().warning("template.failed", version_id=launch.version_id, reason=problem.message)
            self._drop(key)
            return await self._new(launch)
        return slot

    async def _new(self, launch: Launch) -> Sandbox:
        """A new process. Errors: Unavailable."""
        SANDBOXES.labels("cold").inc()
        return await self._driver.start(launch)

    async def load(self, launch: Launch) -> str:
        """Loads a new template for runs that are to come, in the place of what there was, and has a slot wait for the
        first; the app's OpenAPI document as JSON, empty where it gives none.

        Errors: StartFailed, Unforkable, Crashed, Unavailable; what there was stays then.
        """
        key = _key(launch)
        try:
            template = await self._driver.start_template(launch, self._timeout)
        except Unforkable:
            self._do_cold(key, None)
            raise
        try:
            document = await template.openapi()
        except BaseException:
            template.retire()
            raise
        self._drop(key)
        self._cold.pop(key, None)
        making = asyncio.get_running_loop().create_future()
        making.set_result(template)
        entry = self._entries[key] = _Entry(making, self._clock.now())
        self._follow(self._until_gone(key, template))
        self._keep_to_limit()
        self._refill(key, entry)
        return document

    async def prepare(self, launch: Launch) -> None:
        """Has a template for runs that are to come, and a slot wait for the first, unless it can have none: the first
        run will find out then, and tell.
        """
        key = _key(launch)
        if launch.isolation not in {"run", "instance"} or self._is_cold(key):
            return
        entry = self._entry(key, launch)
        try:
            await asyncio.shield(entry.making)
        except (StartFailed, Unforkable, Problem) as error:
            log().info("template.refused", version_id=launch.version_id, reason=in_our_log(error))
        else:
            self._refill(key, entry)

    async def close(self) -> None:
        """Lets everything go; the spawner ends what still runs."""
        self._closed = True
        await asyncio.gather(*(end(instance) for instance in self._idle.old()))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for key in list(self._entries):
            self._drop(key)

    async def sweep(self) -> None:
        """For ever: slots and instances that waited too long for a call are let go."""
        while True:
            await self._clock.sleep(SWEEP_SECONDS)
            for instance in list(self._idle.old(self._clock.now() - PATIENCE)):
                self._follow(_end(instance))
            horizon = self._clock.now() - HOT
            for entry in self._entries.values():
                if entry.waiting is not None and entry.used < horizon:
                    self._let_go(entry)
            self._keep_to_budget()

    def _keep_to_budget(self) -> None:
        """The least recently used go until the rest fits; the last one stays."""
        sizes: dict[str, int] = {}
        for key, entry in list(self._entries.items()):
            if entry.making.done() and not entry.making.cancelled() and entry.making.exception() is None:
                sizes[key] = entry.making.result().memory()
        # What is shared isn't freed by letting one go: half of the budget is theirs, however much that is.
        room = max(self._budget - self._driver.memory(), self._budget // 2)
        while self._budget and len(sizes) > 1 and sum(sizes.values()) > room:
            oldest = next(key for key in (*self._entries, *sizes) if key in sizes)
            log().info("template.evicted", bytes=sizes.pop(oldest))
            self._drop(oldest)

    def _waiting(self, entry: _Entry) -> Slot | None:
        """The slot that waits, unless it has died meanwhile."""
        if entry.waiting is not None and entry.waiting.is_over:
            self._let_go(entry)
        slot, entry.waiting = entry.waiting, None
        return slot

    def _entry(self, key: str, launch: Launch) -> _Entry:
        entry = self._entries.get(key)
        now = self._clock.now()
        if entry is None:
            making = asyncio.create_task(self._driver.start_template(launch, self._timeout))
            making.add_done_callback(lambda made: self._made(key, made))
            entry = self._entries[key] = _Entry(making, now)
            self._keep_to_limit()
        entry.used, entry.sulks = now, False
        self._entries.move_to_end(key)
        return entry

    def _keep_to_limit(self) -> None:
        """The least recently used go, but for those in the making: runs wait for them."""
        made = [key for key, entry in self._entries.items() if entry.making.done()]
        for key in made[: max(0, len(self._entries) - self._limit)]:
            self._drop(key)

    def _made(self, key: str, made: "asyncio.Future[Template]") -> None:
        """Whoever waits for it hears of a failure; here it is only forgotten."""
        if made.cancelled() or made.exception() is not None:
            entry = self._entries.get(key)
            if entry is not None and entry.making is made:
                del self._entries[key]
            return
        self._follow(self._until_gone(key, made.result()))

    async def _until_gone(self, key: str, template: Template) -> None:
        await template.gone.wait()
        entry = self._entries.get(key)
        if entry is not None and entry.making.done() and entry.making.result() is template:  # not one made since
            self._drop(key)

    def _refill(self, key: str, entry: _Entry) -> None:
        """A slot for the next call, unless one waits or none is to be expected (instances wait by themselves)."""
        hot = entry.used >= self._clock.now() - HOT and not entry.sulks
        if hot and entry.waiting is None and entry.refilling is None and self._entries.get(key) is entry:
            entry.refilling = self._follow(self._fork_waiting(key, entry))

    async def _fork_waiting(self, key: str, entry: _Entry) -> None:
        slot: Slot | None = None
        try:
            slot = await entry.making.result().fork(lambda: self._refill(key, entry), warm=True)
            await slot.ready(self._timeout)
            if entry.waiting is None and self._entries.get(key) is entry:
                entry.waiting, slot = slot, None
        except Problem as problem:
            log().warning("template.failed", reason=problem.message)
            if self._entries.get(key) is entry:
                self._drop(key)  # as where somebody waits for the slot
        except StartFailed as error:
            log().warning("slot.failed", reason=in_our_log(error))
            entry.sulks = True  # or its end would be the beginning of the next
        finally:
            entry.refilling = None
            if slot is not None:
                await end(slot)

    def _drop(self, key: str) -> None:
        """Forgets a template, which ends when its last slot has."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        self._let_go(entry)
        if not entry.making.done():
            entry.making.cancel()
        elif not entry.making.cancelled() and entry.making.exception() is None:
            entry.making.result().retire()

    def _let_go(self, entry: _Entry) -> None:
        slot, entry.waiting = entry.waiting, None
        if slot is not None:
            self._follow(_end(slot))

    def _follow(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _is_cold(self, key: str) -> bool:
        until = self._cold.get(key, self._clock.now())
        return until is None or until > self._clock.now()

    def _do_cold(self, key: str, until: datetime | None) -> None:
        self._cold[key] = until
        self._cold.move_to_end(key)
        while len(self._cold) > REMEMBERED:
            self._cold.popitem(last=False)


async def _end(sandbox: Sandbox) -> None:
    await end(sandbox)


@asynccontextmanager
async def open_templates(driver: Starter, clock: Clock, timeout: float, budget: int = 0) -> AsyncIterator[Templates]:
    """On leaving, waiting slots and templates are let go; `timeout` is for loading one, in seconds; `budget` is the
    memory of all of them in bytes, 0 for any.
    """
    templates = Templates(driver, clock, timeout, budget)
    async with background(templates.sweep()):
        try:
            yield templates
        finally:
            await templates.close()


def _key(launch: Launch) -> str:
    """What has to be the same for two runs to be forked from one template."""
    source = hashlib.sha256(launch.source).hexdigest()
    told = (
        source,
        sorted(launch.env.items()),
        launch.file_name,
        launch.isolation,
        launch.egress,
        str(launch.certificates),
    )
    digest = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    made = 0  # an environment that was made again isn't the one that a template has loaded
    with suppress(OSError):
        made = launch.environment.path.stat().st_mtime_ns
    return f"{digest} {launch.acting_id} {launch.environment.digest} {made} {launch.bounds} {launch.disk_bytes}"
