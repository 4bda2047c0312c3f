"""keys' buckets as the edge sees them, in memory, and no limits at all."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from edge.http import Request
from edge.model import Principal
from edge.permits import Bucket, Granted
from edge.rates import Defaults, RateLimits
from edge.run_model import Target
from kit.errors import Problem

GENEROUS = Defaults(1_000_000, 1_000_000)


class FakePermits:
    """permits.Permits. A bucket has what its limit is, and gets nothing by itself. `asked`: each question; `away`: what
    is answered instead.
    """

    def __init__(self) -> None:
        self.taken: dict[str, int] = {}
        self.asked: list[dict[str, int]] = []
        self.away: Problem | None = None

    async def take(self, wanted: Sequence[tuple[Bucket, int]]) -> Sequence[Granted]:
        self.asked.append({bucket.name: want for bucket, want in wanted})
        if self.away is not None:
            raise self.away
        return [self._take(bucket, want) for bucket, want in wanted]

    def refill(self) -> None:
        self.taken.clear()

    def _take(self, bucket: Bucket, want: int) -> Granted:
        left = bucket.limit - self.taken.get(bucket.name, 0)
        granted = min(want, left)
        self.taken[bucket.name] = self.taken.get(bucket.name, 0) + granted
        each_ms = bucket.window_ms // bucket.limit
        used = self.taken[bucket.name]
        return Granted(granted, left - granted, 0 if left > granted else each_ms, used * each_ms)


class _Unlimited(RateLimits):
    """Lets everything through."""

    def __init__(self) -> None:
        pass

    def expect(self, request: Request, who: Principal) -> None:
        pass

    @contextmanager
    def place(self, request: Request) -> Iterator[None]:
        yield

    async def admit(self, request: Request) -> None:
        pass

    async def called(self, request: Request, target: Target) -> None:
        pass


UNLIMITED = _Unlimited()
