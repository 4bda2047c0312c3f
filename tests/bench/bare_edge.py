"""The yardstick: what Envoy with our own settings and one bare grpc.aio handler take, and nothing else.

`python -m tests.bench.bare_edge ADDRESS`, in the edge's place.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
import uvloop
from google.api import httpbody_pb2

ANSWER: bytes = httpbody_pb2.HttpBody(
    content_type="application/json", data=b'{"message":"Hello Ada!"}'
).SerializeToString()


async def run(messages: AsyncIterator[bytes], _context: Any) -> bytes:
    """Reads the request, answers always the same."""
    async for _ in messages:
        pass
    return ANSWER


async def main(address: str) -> None:
    server = grpc.aio.server()
    handler: Any = grpc.stream_unary_rpc_method_handler(run)
    server.add_registered_method_handlers("mesh.edge.v1.Runs", {"Run": handler})
    server.add_insecure_port(address)
    await server.start()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
