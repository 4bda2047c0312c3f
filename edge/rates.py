"""How often may be called: by a key and those that it was rotated to, by all of an organization, and one workflow by
everybody (SPEC §6).

What comes out of runs isn't counted for a key or an organization, since depth and places bound it; for the workflow
that is called it is.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple, Protocol

from edge.anyone import OPEN
from edge.http import Request
from edge.model import Principal
from edge.permits import SECOND_MS, Bucket, Left
from edge.run_model import Target
from kit.errors import Exhausted

MINUTE_MS = 60_000
API = "/api/v1/"


class Stocks(Protocol):
    """edge.permits.Stocks."""

    async def take(self, buckets: Sequence[Bucket]) -> Bucket | None: ...

    def expect(self, buckets: Sequence[Bucket]) -> None: ...

    def left(self, bucket: Bucket) -> Left: ...


class Defaults(NamedTuple):
    """Of keys that have no limits of their own; and how many calls without a key there may be at once."""

    per_second: int
    api_per_minute: int
    open_at_once: int = 40


class RateLimits:
    """Lets calls through, or refuses them with Exhausted (rate_limited). Answers to calls under /api/v1 tell of the
    bucket that has the least left: x-ratelimit-limit, -remaining, -reset (seconds until it is full).
    """

    def __init__(self, stocks: Stocks, defaults: Defaults) -> None:
        self._stocks = stocks
        self._defaults = defaults
        self._open: Counter[str] = Counter()

    def expect(self, request: Request, who: Principal) -> None:
        """A call of this one will be let in if its key is still valid."""
        self._stocks.expect(self._of(request, who))

    async def admit(self, request: Request) -> None:
        """Of a call that was let in by its key. Errors: Exhausted; Unavailable when keys doesn't answer."""
        who = request.principal
        if who is not None and who.identity is None:
            await self._take(request, self._of(request, who))

    @contextmanager
    def place(self, request: Request) -> Iterator[None]:
        """Of a call without a key, while it lasts: who sends his body drop by drop, by a hundred connections, must not
        have all the room that there is for those with one. One workflow gets half of it. Errors: Exhausted.
        """
        who, most = request.principal, self._defaults.open_at_once
        if who is None or who.kind != OPEN:
            yield
            return
        name = who.lineage_id
        if self._open[name] >= max(1, most // 2) or self._open.total() >= most:
            told = "too many calls without a key are under way; try again in 1 s, or with a key"
            raise Exhausted(told, code="too_many_runs", retry_after=timedelta(seconds=1))
        self._open[name] += 1
        try:
            yield
        finally:
            self._open[name] -= 1
            self._open += Counter()  # forgets those that are at 0

    async def called(self, request: Request, target: Target) -> None:
        """Of a call of a workflow. Errors as of admit."""
        limits = target.limits
        limit = limits.api_calls_per_minute if _is_api(request) else limits.calls_per_second
        if limit:
            await self._take(request, [_bucket(request, f"service:{target.owner_id}.{target.service_id}", limit)])

    def _of(self, request: Request, who: Principal) -> list[Bucket]:
        rates, api = who.rates, _is_api(request)
        own = rates.api_per_minute if api else rates.per_second
        if own is None:
            own = self._defaults.api_per_minute if api else self._defaults.per_second
        found = [_bucket(request, who.lineage_id or f"key:{who.key_id}", own)]
        together = rates.organization_api_per_minute if api else rates.organization_per_second
        if together is not None:
            found.append(_bucket(request, f"organization:{who.organization_id}", together))
        return found

    async def _take(self, request: Request, buckets: Sequence[Bucket]) -> None:
        none = next((bucket for bucket in buckets if bucket.limit < 1), None)
        if none is not None:
            raise _refused(request, none, MINUTE_MS / 1000)
        refused = await self._stocks.take(buckets)
        if _is_api(request):
            self._tell(request, [refused] if refused else buckets)
        if refused:
            raise _refused(request, refused, self._stocks.left(refused).wait)

    def _tell(self, request: Request, buckets: Sequence[Bucket]) -> None:
        bucket, left = min(((each, self._stocks.left(each)) for each in buckets), key=lambda found: found[1].remaining)
        told = int(dict(request.told).get("x-ratelimit-remaining", left.remaining))
        if left.remaining <= told:
            request.told[:] = [
                ("x-ratelimit-limit", str(bucket.limit)),
                ("x-ratelimit-remaining", str(left.remaining)),
                ("x-ratelimit-reset", str(math.ceil(left.reset))),
            ]


def _is_api(request: Request) -> bool:
    return request.path.startswith(API)


def _bucket(request: Request, name: str, limit: int) -> Bucket:
    return Bucket(f"{name}:api", limit, MINUTE_MS) if _is_api(request) else Bucket(name, limit, SECOND_MS)


def _refused(request: Request, bucket: Bucket, wait: float) -> Exhausted:
    kind, _, name = bucket.name.removesuffix(":api").partition(":")
    whose = {"key": "this key", "organization": "this key's organization"}.get(kind, f"the workflow {name}")
    may = {"service": "may be called", "open": "may be called without a key"}.get(kind, "may call")
    often = "a minute under /api/v1" if _is_api(request) else "a second"
    seconds = max(1, math.ceil(wait))
    return Exhausted(
        f"{whose} {may} {bucket.limit} times {often}; try again in {seconds} s", retry_after=timedelta(seconds=seconds)
    )
