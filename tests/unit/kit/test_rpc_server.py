"""kit.rpc_server: what health checks are told."""

from pathlib import Path

from grpc_health.v1 import health_pb2, health_pb2_grpc

from kit.rpc_client import connect, unary
from kit.rpc_server import RpcServer


async def test_it_doesnt_serve_while_something_that_it_needs_is_away(tmp_path: Path) -> None:
    there: list[bool] = []
    server = RpcServer(f"unix:{tmp_path}/s.sock", grace=1)
    server.needs(lambda: bool(there))
    server.needs(lambda: True)
    async with server, connect(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        async def serving(service: str = "") -> bool:
            reply = await unary(stub.Check, health_pb2.HealthCheckRequest(service=service))
            return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

        await server.serving(True)
        assert not await serving()
        there.append(True)
        assert await serving()
        await server.serving(False)
        assert not await serving()
