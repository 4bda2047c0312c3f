"""`make bench`: every table of docs/benchmarks.md, measured here. `--only` one of them."""

import argparse
import asyncio
import os
import platform

from tests.bench.curves import curves
from tests.bench.durable import durable
from tests.bench.figures import HEADER
from tests.bench.fresh import fresh
from tests.bench.hot_path import hot_path
from tests.bench.ladder import ladder
from tests.bench.ledger import ledger
from tests.bench.peers import peers

PARTS = ("fresh", "peers", "curves", "durable", "ledger", "ladder")


async def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", choices=PARTS, help="one of the parts")
    parser.add_argument("--calls", type=int, default=2000, help="calls a rung of the ladder")
    parser.add_argument("--cold-calls", type=int, default=200, help="calls a rung of the ladder with a cold sandbox")
    parser.add_argument("--warm-calls", type=int, default=1000, help="calls a rung with slots or instances")
    options = parser.parse_args()
    wanted = [options.only] if options.only else PARTS
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}\n")
    if "fresh" in wanted:
        await fresh(options.warm_calls)
    if "peers" in wanted:
        await peers(options.warm_calls // 2)
    if "curves" in wanted:
        await curves(options.warm_calls // 5)
    if "durable" in wanted:
        await durable(options.calls)
    if "ledger" in wanted:
        await hot_path(options.calls)
        await ledger(options.calls)
    if "ladder" in wanted:
        print("\n" + HEADER, flush=True)
        await ladder(options.calls, options.cold_calls)


if __name__ == "__main__":
    asyncio.run(main())
