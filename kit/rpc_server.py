"""A grpc.aio server as every service runs it: error translation, trace context, metrics, health, reflection, drain."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from functools import cache
from pathlib import Path
from typing import Any, Self

import grpc
import prometheus_client
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection
from mesh.telemetry.v1 import telemetry_pb2, telemetry_pb2_grpc

from kit.errors import Problem
from kit.rpc_errors import to_status
from kit.settings import private_dir
from kit.telemetry import entered, left, log

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
LAST_WORDS_SECONDS = 1.0
_CALLS = prometheus_client.Counter("runmesh_rpc_total", "Calls served.", ["method", "code"])
_SECONDS = prometheus_client.Histogram("runmesh_rpc_seconds", "Time to serve a call.", ["method"])


class RpcServer:
    """`async with RpcServer(address, grace).add(register, servicer, "mesh.keys.v1.Keys") as server:`

    `address` is `unix:/path` or `host:port`; port 0 takes a free one, told by `port`. Says SERVING only after
    `serving(True)`; on exit it stops taking calls and lets those under way end within `grace` seconds; the rest is cut,
    but with `last_words` it is told first.
    """

    def __init__(self, address: str, *, grace: float) -> None:
        self.address = address
        self.port = 0
        self._grace = grace
        self._last_words: Callable[[], None] | None = None
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
                # The edge is handed a caller's whole head as metadata: 60 KiB, each byte up to three when encoded.
                ("grpc.max_metadata_size", 192 * 1024),
                ("grpc.absolute_max_metadata_size", 256 * 1024),
            ],
        )
        self._health = _Health()
        self._names = [health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME]
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self.add(telemetry_pb2_grpc.add_TelemetryServicer_to_server, _Telemetry(), "mesh.telemetry.v1.Telemetry")

    def add(self, register: Callable[[Any, Any], None], servicer: object, name: str) -> Self:
        """Serves `servicer`; `register` is the generated `add_…Servicer_to_server`, `name` the full service name."""
        register(servicer, _Registry(self._server))
        self._names.append(name)
        return self

    def last_words(self, tell: Callable[[], None]) -> None:
        """`tell` is called when the grace is over and calls are under way: LAST_WORDS_SECONDS later they are cut."""
        self._last_words = tell

    def needs(self, holds: Callable[[], bool]) -> None:
        """Health checks are told NOT_SERVING, too, while this doesn't hold; calls are taken all the same."""
        self._health.conditions.append(holds)

    async def serving(self, now: bool) -> None:
        """What health checks are told."""
        status = health_pb2.HealthCheckResponse.SERVING if now else health_pb2.HealthCheckResponse.NOT_SERVING
        await self._health.set("", status)

    async def __aenter__(self) -> Self:
        reflection.enable_server_reflection(self._names, self._server)
        if self.address.startswith("unix:"):
            path = Path(self.address.removeprefix("unix:"))
            private_dir(path.parent)
            path.unlink(missing_ok=True)
        self.port = self._server.add_insecure_port(self.address)
        await self.serving(False)
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.serving(False)
        if self._last_words is None:
            await self._server.stop(self._grace)
            return
        stopping = asyncio.create_task(self._server.stop(self._grace + LAST_WORDS_SECONDS))
        await asyncio.wait({stopping}, timeout=self._grace)
        if not stopping.done():
            self._last_words()
        await stopping


class _Health(HealthServicer):  # type: ignore[misc]  # it has no types
    def __init__(self) -> None:
        super().__init__()
        self.conditions: list[Callable[[], bool]] = []

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Any) -> health_pb2.HealthCheckResponse:
        if not request.service and not all(holds() for holds in self.conditions):
            return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)
        return await super().Check(request, context)


class _Telemetry(telemetry_pb2_grpc.TelemetryServicer):
    async def ReadMetrics(
        self, request: telemetry_pb2.ReadMetricsRequest, context: Any
    ) -> telemetry_pb2.ReadMetricsResponse:
        return telemetry_pb2.ReadMetricsResponse(text=prometheus_client.generate_latest())


class _Registry:
    """What generated code registers its handlers with. Each is guarded here, once, not anew for every call."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        """The handlers of a service, by the names of its methods."""
        guarded = {name: _guard(f"/{service}/{name}", handler) for name, handler in handlers.items()}
        self._server.add_registered_method_handlers(service, guarded)

    def add_generic_rpc_handlers(self, handlers: Sequence[Any]) -> None:
        """The same handlers once more, for versions of gRPC that know no others."""


def _guard(method: str, handler: Any) -> Any:
    """Wraps a handler, whatever its shape, in `_Guarded`."""
    if handler.response_streaming:
        behavior = handler.stream_stream if handler.request_streaming else handler.unary_stream

        async def streaming(request: Any, context: Any) -> None:
            # Written, not yielded: a generator is closed in another context than it ran in when the caller leaves.
            async with _Guarded(method, context), aclosing(behavior(request, context)) as replies:
                async for reply in replies:
                    await context.write(reply)

        shape = "stream_stream" if handler.request_streaming else "unary_stream"
        return _handler(shape, streaming, handler)
    behavior = handler.stream_unary if handler.request_streaming else handler.unary_unary

    async def single(request: Any, context: Any) -> Any:
        async with _Guarded(method, context):
            return await behavior(request, context)

    shape = "stream_unary" if handler.request_streaming else "unary_unary"
    return _handler(shape, single, handler)


class _Guarded:
    """Trace context in; a Problem becomes its status, anything else "internal error" with the text only in the log."""

    def __init__(self, method: str, context: Any) -> None:
        self._method = method
        self._context = context
        self._started = time.perf_counter()
        self._token: Any = None

    async def __aenter__(self) -> None:
        for key, value in self._context.invocation_metadata():
            if key == "traceparent":
                self._token = entered(value)

    async def __aexit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        code = "OK"
        try:
            if isinstance(error, Problem):
                status, message, trailing = to_status(error)
                code = status.name
                await self._context.abort(status, message, trailing)
            elif isinstance(error, grpc.aio.AbortError):
                code = "ABORTED"
            elif isinstance(error, Exception):  # a bug: told as one, with its text in the log only
                code = "INTERNAL"
                log().error("rpc.failed", method=self._method, exc_info=error)
                await self._context.abort(grpc.StatusCode.INTERNAL, "internal error")
        finally:
            if self._token is not None:
                left(self._token)
            _calls(self._method, code).inc()
            _seconds(self._method).observe(time.perf_counter() - self._started)


_calls, _seconds = cache(_CALLS.labels), cache(_SECONDS.labels)


def _handler(shape: str, behavior: Any, like: Any) -> Any:
    make = getattr(grpc, f"{shape}_rpc_method_handler")
    return make(behavior, like.request_deserializer, like.response_serializer)
