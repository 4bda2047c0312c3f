"""Submits runs to a scheduler by its own rpc, so many at once, and nothing else: `figures.Calls` as JSON. A process of
its own: its work isn't counted with the scheduler's.
"""

import argparse
import asyncio
import dataclasses
import json
import sys
import time

import uvloop
from mesh.runs.v1 import run_pb2, runs_pb2, runs_pb2_grpc

from kit.errors import Problem
from kit.rpc_client import connect, unary
from tests.bench.figures import Calls

HEAD = run_pb2.RequestHead(
    method="POST", path="/", headers=[run_pb2.Header(name="content-type", value=b"application/json")]
)


async def submit(address: str, version_id: str, at_once: int, calls: int, callers: int) -> Calls:
    """Of asynchronous runs, whose input is small, by so many organizations in turn."""
    taken: list[float] = []
    errors: dict[str, int] = {}
    numbers = iter(range(calls))
    async with connect(address) as channel:
        stub = runs_pb2_grpc.RunsStub(channel)

        async def one() -> None:
            for number in numbers:
                spec = run_pb2.RunSpec(
                    owner_id="org_owner",
                    caller_id=f"org_{number % callers}",
                    service_id="hello",
                    version_id=version_id,
                    request=HEAD,
                    trigger=run_pb2.TRIGGER_API,
                )
                started = time.perf_counter()
                try:
                    request = runs_pb2.SubmitRequest(spec=spec, body=b'{"name": "Ada"}', timeout_ms=86_400_000)
                    await unary(stub.Submit, request, timeout=60)
                except Problem as problem:
                    errors[problem.code] = errors.get(problem.code, 0) + 1
                else:
                    taken.append((time.perf_counter() - started) * 1000)

        started = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(at_once)))
        return Calls(taken, time.perf_counter() - started, errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("address")
    parser.add_argument("version")
    parser.add_argument("-c", "--at-once", type=int, default=64)
    parser.add_argument("-n", "--calls", type=int, default=5000)
    parser.add_argument("--callers", type=int, default=1)
    options = parser.parse_args()
    found = uvloop.run(submit(options.address, options.version, options.at_once, options.calls, options.callers))
    json.dump(dataclasses.asdict(found), sys.stdout)


if __name__ == "__main__":
    main()
