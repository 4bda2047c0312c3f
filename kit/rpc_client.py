"""Calls to other services: each with a deadline, the trace context, and errors as kit.errors kinds."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

import grpc

from kit.errors import Unavailable
from kit.rpc_errors import from_rpc_error
from kit.rpc_server import MAX_MESSAGE_BYTES
from kit.telemetry import current_traceparent

RETRY_SECONDS = 0.9  # a caller hears of a service that is away within a second
Req = TypeVar("Req")
Res = TypeVar("Res")


def connect(address: str) -> grpc.aio.Channel:
    """A lazy channel to `unix:/path` or `host:port`; close it, or enter it as an async context manager."""
    return grpc.aio.insecure_channel(
        address,
        options=[
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.initial_reconnect_backoff_ms", 50),
            ("grpc.max_reconnect_backoff_ms", 1000),
            # Envoy's own authority for a UNIX socket is a path, which HTTP/2 servers may refuse.
            ("grpc.default_authority", "mesh"),
        ],
    )


async def unary(
    method: "grpc.aio.UnaryUnaryMultiCallable[Req, Res]", request: Req, *, timeout: float = 10.0, retry: bool = False
) -> Res:
    """One call. `retry` (idempotent calls only) tries once more when the server couldn't be reached, and waits a moment
    for one that is being started again.

    Errors: the kind that the server raised; Unavailable when it can't be reached or is late.
    """
    try:
        return await method(request, timeout=timeout, metadata=_metadata())
    except grpc.aio.AioRpcError as error:
        if not retry or error.code() is not grpc.StatusCode.UNAVAILABLE:
            raise from_rpc_error(error) or error from error
        away = error
    if not (away.details() or "").startswith("failed to connect"):  # it is there, but not ready to answer
        await asyncio.sleep(0.05)
        return await unary(method, request, timeout=timeout)
    try:
        return await method(request, timeout=min(timeout, RETRY_SECONDS), metadata=_metadata(), wait_for_ready=True)
    except grpc.aio.AioRpcError as error:
        told = away if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else error
        raise from_rpc_error(told) or told from error


async def stream(method: Any, request: Any, *, timeout: float) -> AsyncGenerator[Any, None]:
    """A call that answers with a stream; `request` is a message or an async iterator of them. Leaving the loop early
    (close the generator) cancels the call. Errors as `unary`.
    """
    call = method(request, timeout=timeout, metadata=_metadata())
    try:
        async for reply in call:
            yield reply
    except grpc.aio.AioRpcError as error:
        raise from_rpc_error(error) or error from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if call.cancelled() and not (task and task.cancelling()):  # the call ended, not our task (which cancels both)
            raise Unavailable("the call was cancelled by the other side") from None
        raise
    finally:
        call.cancel()


def _metadata() -> tuple[tuple[str, str], ...]:
    traceparent = current_traceparent()
    return (("traceparent", traceparent),) if traceparent else ()
