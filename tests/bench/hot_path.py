"""What limits and metering add to a call: the edge's permits, the executor's purse, before a real keys service.

What isn't in it: the key itself, which was asked for before there was money, and the bill, which is sent afterwards.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from edge.http import Request
from edge.model import Principal, Rates
from edge.permits import Stocks
from edge.rate_clients import PermitsClient
from edge.rates import Defaults, RateLimits
from edge.run_model import Limits as Ceilings
from edge.run_model import Target
from executor.clients import LedgerClient
from executor.metering import Metering, open_metering
from executor.model import Limits, RequestHead, Spec, Usage
from kit.clock import SystemClock
from kit.names import new_id
from kit.rpc_client import connect
from tests.bench.figures import Calls
from tests.bench.ledger import keys_alone

LIMITS = Limits(memory_bytes=512 << 20, cpu=1.0)
USED = Usage(cpu_seconds=0.05, wall_seconds=0.1, memory_peak=60 << 20)
SILENCE_SECONDS = 1.5


async def hot_path(calls: int) -> None:
    """Prints a table: calls one after another, 16 at once, and such that come after a silence, when nothing is held."""
    rows = []
    for engine in ("SQLite, FULL", "PostgreSQL"):
        async with way(engine) as each:
            await timed(each, 200, 1)
            for at_once in (1, 16):
                done = await timed(each, calls, at_once)
                rows.append(f"| {engine} | {at_once} | {done.p50:.3f} | {done.p99:.2f} |")
            done = await timed(each, 20, 1, silence=SILENCE_SECONDS)
            rows.append(f"| {engine} | 1, after {SILENCE_SECONDS} s of silence | {done.p50:.3f} | {done.p99:.2f} |")
    print("\n| limits and metering of a call | at once | p50 ms | p99 ms |\n" + "|---" * 4 + "|")
    print("\n".join(rows), flush=True)


class Way:
    """Of calls of one key and one workflow, which have limits, by an organization that has one."""

    def __init__(self, rates: RateLimits, metering: Metering, organization_id: str) -> None:
        self._rates, self._metering = rates, metering
        limits = Rates(per_second=10**6, organization_per_second=10**6)
        self._who = Principal("key_bench", organization_id, "standard", frozenset({"run"}), rates=limits)
        self._target = Target(organization_id, "bench", "ver_1", limits=replace(Ceilings(), calls_per_second=10**6))
        self._spec = Spec("", "ver_1", RequestHead("POST", "/", "", ()), SystemClock().now(), organization_id)

    async def __call__(self) -> None:
        request = Request("POST", "/run/bench", principal=self._who)
        self._rates.expect(request, self._who)
        await self._rates.admit(request)
        await self._rates.called(request, self._target)
        tab = self._metering.tab(replace(self._spec, run_id=new_id("run"), attempt=1))
        await tab.open(LIMITS)
        if tab.look(USED):
            await tab.step()
        assert tab.close(USED)


@asynccontextmanager
async def way(engine: str) -> AsyncIterator[Way]:
    """Before a keys service of its own."""
    async with keys_alone(engine) as (address, _, organization), connect(address) as channel:
        rates = RateLimits(Stocks(PermitsClient(channel)), Defaults(1000, 100))
        async with open_metering(LedgerClient(channel), SystemClock()) as metering:
            yield Way(rates, metering, organization)


async def timed(call: Way, calls: int, at_once: int, silence: float = 0.0) -> Calls:
    taken: list[float] = []

    async def caller() -> None:
        for _ in range(calls // at_once):
            await asyncio.sleep(silence)
            started = time.monotonic()
            await call()
            taken.append((time.monotonic() - started) * 1000)

    began = time.monotonic()
    await asyncio.gather(*(caller() for _ in range(at_once)))
    return Calls(taken, time.monotonic() - began)
