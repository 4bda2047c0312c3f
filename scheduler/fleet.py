"""The executors: who is there, by their heartbeats and reports. In memory only; a restart learns it anew."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

from kit.clock import Clock
from scheduler.place import REST, SILENCE, STARTS_AT_ONCE, Executor, place

MOST_EXECUTORS = 1000
FORGOTTEN = timedelta(hours=1)
# Reports of an executor's new life are let in before the runs of its old one are given up.
SETTLING = timedelta(seconds=5)


@dataclass(frozen=True)
class Heartbeat:
    """An executor's word about itself."""

    address: str
    incarnation: str
    running: int
    capacity: int
    draining: bool = False


class Fleet:
    """`home` is the address of this host's executor, used even before it was heard of. `on_room` is called when an
    executor may have room again.
    """

    def __init__(self, home: str, clock: Clock, on_room: Callable[[], None] = lambda: None) -> None:
        self._clock = clock
        self._born = clock.now()
        self._executors = {home: Executor(home, home=True)}
        self.on_room = on_room

    def __iter__(self) -> Iterator[Executor]:
        return iter(self._executors.values())

    def heard(self, beat: Heartbeat) -> None:
        """A heartbeat came."""
        now = self._clock.now()
        executor = self._known(beat.address)
        if executor is None:
            return
        if executor.incarnation != beat.incarnation:
            executor.incarnation, executor.since = beat.incarnation, now
            executor.away_until = executor.full_until = None
        executor.seen = now
        executor.running, executor.capacity, executor.draining = beat.running, beat.capacity, beat.draining
        if beat.running < beat.capacity and not beat.draining:
            executor.full_until = executor.away_until = None
            self.on_room()

    def reported(self, address: str, *, started: int, ended: int) -> None:
        """A report came: it lives, and has room again where runs ended."""
        executor = self._executors.get(address)
        if executor is None:
            return
        if executor.seen is not None:
            executor.seen = self._clock.now()
        executor.running = max(0, executor.running + started - ended)
        if ended:
            executor.full_until = executor.away_until = None
            self.on_room()

    def answered(self, address: str) -> None:
        """It was asked whether it lives, and does."""
        executor = self._known(address)
        if executor is not None:
            executor.seen = self._clock.now()

    def choose(self, *, nested: bool) -> Executor | None:
        """An executor to send a run to; None when nobody has room."""
        return place(self._executors.values(), self._clock.now(), nested=nested)

    def checker(self) -> str:
        """The address of an executor to check a source on, which needs no room there."""
        executor = self.choose(nested=True) or next(iter(self))
        return executor.address

    def room(self) -> int:
        """How many Start calls may be made now."""
        now = self._clock.now()
        return sum(STARTS_AT_ONCE - one.starting for one in self if one.takes(now, nested=False))

    def refused(self, executor: Executor, *, nested: bool) -> None:
        """It had no room; a nested run, which needs none, means that it can't be reached."""
        until = self._clock.now() + REST
        if nested:
            executor.away_until = until
        else:
            executor.full_until = until

    def gone(self, address: str, incarnation: str) -> bool | None:
        """Whether that life of an executor is over. None: it is silent, so it must be asked."""
        now = self._clock.now()
        executor = self._executors.get(address)
        if executor is not None and executor.since is not None and executor.incarnation != incarnation:
            return bool(incarnation) and now - executor.since > SETTLING
        heard = executor.seen if executor and executor.seen else self._born
        return None if now - heard >= SILENCE else False

    def _known(self, address: str) -> Executor | None:
        if address not in self._executors:
            self._forget()
            if len(self._executors) >= MOST_EXECUTORS:
                return None
            self._executors[address] = Executor(address)
        return self._executors[address]

    def _forget(self) -> None:
        now = self._clock.now()
        silent = [one.address for one in self if not one.home and one.seen and now - one.seen > FORGOTTEN]
        for address in silent:
            del self._executors[address]
