"""The executors as this scheduler knows them: by their leases, which are rows, and by their reports."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime

from kit.clock import Clock
from kit.errors import Unavailable
from scheduler.place import REST, Executor, place


@dataclass(frozen=True)
class Lease:
    """One life of an executor, as it last said itself. Until `expires_at` its runs are its own; once `given_up` they
    were given to others, and it is to end.
    """

    address: str
    incarnation: str
    running: int
    capacity: int
    draining: bool
    expires_at: datetime
    given_up: bool = False


class Fleet:
    """`on_room` is called when an executor may have room again."""

    def __init__(self, clock: Clock, on_room: Callable[[], None] = lambda: None) -> None:
        self._clock = clock
        self._executors: dict[str, Executor] = {}
        self.on_room = on_room

    def __iter__(self) -> Iterator[Executor]:
        return iter(self._executors.values())

    def learn(self, leases: Iterable[Lease]) -> None:
        """All leases that there are: other schedulers may have heard of more than we."""
        leases = list(leases)
        for address in set(self._executors) - {lease.address for lease in leases}:
            del self._executors[address]
        for lease in leases:
            known = self._executors.get(lease.address)
            if known is None or known.expires_at < lease.expires_at or lease.given_up:
                self.heard(lease)

    def heard(self, lease: Lease) -> None:
        """An executor has renewed its lease."""
        if lease.given_up:
            self._executors.pop(lease.address, None)
            return
        executor = self._executors.get(lease.address)
        if executor is None or executor.incarnation != lease.incarnation:
            executor = Executor(lease.address, lease.incarnation, lease.expires_at)
            self._executors[lease.address] = executor
        executor.expires_at = lease.expires_at
        executor.running, executor.capacity, executor.draining = lease.running, lease.capacity, lease.draining
        if lease.running < lease.capacity and not lease.draining:
            executor.full_until = executor.away_until = None
            self.on_room()

    def reported(self, address: str, *, started: int, ended: int) -> None:
        """A report came: it has room again where runs ended."""
        executor = self._executors.get(address)
        if executor is None:
            return
        executor.running = max(0, executor.running + started - ended)
        if ended:
            executor.full_until = executor.nested_full_until = executor.away_until = None
            self.on_room()

    def choose(self, *, urgent: bool) -> Executor | None:
        """An executor to send a run to; None when nobody has room."""
        return place(self._executors.values(), self._clock.now(), urgent=urgent)

    def checker(self) -> str:
        """The address of an executor to check a source on, which needs no room there. Errors: Unavailable."""
        now = self._clock.now()
        fresh = [one for one in self if one.fresh(now)]
        found = self.choose(urgent=True) or min(fresh, key=Executor.load, default=None)
        if found is None:
            raise Unavailable("no executor has registered yet", retry_after=REST)
        return found.address

    def everyone(self) -> list[str]:
        """The addresses of all that are there."""
        now = self._clock.now()
        return [one.address for one in self if one.fresh(now)]

    def refused(self, executor: Executor, *, urgent: bool, away: bool) -> None:
        """It had no room for a run of that kind, which says nothing about the other kind; or it was `away`."""
        until = self._clock.now() + REST
        if away:
            executor.away_until = until
        elif urgent:
            executor.nested_full_until = until
        else:
            executor.full_until = until
