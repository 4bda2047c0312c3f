"""Who has how many runs under way: no organization takes more than its share, however long its queue is (SPEC §3)."""

from collections import Counter
from collections.abc import Iterable

from scheduler.model import Run


class Shares:
    """Places by organization. A run that another one waits for is on that one's place. `most`: for each of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._of: dict[str, str] = {}
        self._held: Counter[str] = Counter()
        # Promised to runs that aren't committed yet.
        self._promised: Counter[str] = Counter()

    def changed(self, run: Run) -> None:
        """A run's new state is committed."""
        if run.placed and not run.urgent:
            if run.id not in self._of:
                self._of[run.id] = run.caller_id
                self._held[run.caller_id] += 1
        elif run.id in self._of:
            self._drop(self._of.pop(run.id), self._held)

    def learn(self, busy: Iterable[tuple[str, str]]) -> None:
        """(run, organization) of all that have a place: other schedulers may have placed some."""
        self._of = dict(busy)
        self._held = Counter(self._of.values())

    def promise(self, caller_id: str) -> None:
        self._promised[caller_id] += 1

    def settle(self, caller_id: str) -> None:
        """What was promised is committed, or isn't needed."""
        self._drop(caller_id, self._promised)

    def busy(self, caller_id: str) -> int:
        return self._held[caller_id] + self._promised[caller_id]

    def room(self, caller_id: str) -> int:
        """How many more it may have."""
        return max(0, self._most - self.busy(caller_id))

    def share_out(self, callers: Iterable[str], seats: int) -> Counter[str]:
        """So many seats, each to whoever has the fewest by then and may have more."""
        waiting = {caller: self.room(caller) for caller in callers}
        given: Counter[str] = Counter()
        for _ in range(seats):
            able = [caller for caller in waiting if given[caller] < waiting[caller]]
            if not able:
                break
            given[min(able, key=lambda caller: self.busy(caller) + given[caller])] += 1
        return given

    def _drop(self, caller_id: str, counter: Counter[str]) -> None:
        counter[caller_id] -= 1
        if counter[caller_id] <= 0:
            del counter[caller_id]
