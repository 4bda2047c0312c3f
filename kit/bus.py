"""NATS: JetStream for events and log lines. Wakes and carries; SQL stays the truth.

Two streams: EVENTS (`event.>`, a day) and LOGS (`log.>`, a day, 1 GiB). A lost store loses live log tails at most.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import DiscardPolicy, StreamConfig
from nats.js.errors import NoStreamResponseError

from kit.errors import Unavailable
from kit.telemetry import log

DAY = 24 * 3600.0
STREAMS = (
    StreamConfig(name="EVENTS", subjects=["event.>"], max_age=DAY, duplicate_window=120),
    StreamConfig(name="LOGS", subjects=["log.>"], max_age=DAY, max_bytes=1 << 30, discard=DiscardPolicy.OLD),
)


class Bus:
    """One connection, which comes back by itself."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._jetstream = client.jetstream()

    async def publish(self, subject: str, payload: bytes, *, event_id: str) -> None:
        """Stored by JetStream before it returns; a repeated `event_id` is dropped. Errors: Unavailable."""
        try:
            await self._jetstream.publish(subject, payload, timeout=5, headers={"Nats-Msg-Id": event_id})
        except NoStreamResponseError as error:  # its store is lost, or the server has only just begun
            with suppress(NatsError, TimeoutError):
                await make_streams(self._client)
            raise Unavailable(f"the event bus had no stream for {subject}") from error
        except (NatsError, TimeoutError) as error:
            raise Unavailable(f"the event bus doesn't take {subject}") from error

    async def send(self, subject: str, payload: bytes) -> None:
        """Fire and forget; buffered while the server is away."""
        try:
            await self._client.publish(subject, payload)
        except NatsError as error:
            raise Unavailable(f"the event bus doesn't take {subject}") from error

    @asynccontextmanager
    async def subscribed(self, subject: str, handle: Callable[[str, bytes], Awaitable[None]]) -> AsyncIterator[None]:
        """`handle(subject, payload)` for what arrives from now on; for caches, which may miss one."""

        async def deliver(message: Msg) -> None:
            try:
                await handle(message.subject, message.data)
            except Exception:  # noqa: BLE001  # the next message must still be handled
                log().exception("bus.handler_failed", subject=message.subject)

        subscription = await self._client.subscribe(subject, cb=deliver)
        await self._client.flush()
        try:
            yield
        finally:
            if self._client.is_connected:
                await subscription.unsubscribe()

    @asynccontextmanager
    async def tail(self, subject: str) -> AsyncIterator[Callable[[float], Awaitable[bytes | None]]]:
        """All that the store has of `subject`, then what comes. Yields `next(seconds)`: None after that long a silence.

        Errors: Unavailable.
        """
        try:
            subscription = await self._jetstream.subscribe(subject, ordered_consumer=True)
        except (NatsError, TimeoutError) as error:
            raise Unavailable("the event bus doesn't answer") from error

        async def following(seconds: float) -> bytes | None:
            try:
                return bytes((await subscription.next_msg(timeout=seconds)).data)
            except (NatsError, TimeoutError):
                return None

        try:
            yield following
        finally:
            if self._client.is_connected:
                await subscription.unsubscribe()


@asynccontextmanager
async def open_bus(url: str, name: str, *, patience: float = 30.0) -> AsyncIterator[Bus]:
    """Connects (waiting up to `patience` seconds for the server) and makes the streams. Errors: Unavailable."""
    client = await _connected(url, name, patience)
    try:
        await make_streams(client)
        yield Bus(client)
    finally:
        if client.is_connected:
            await client.drain()
        else:
            await client.close()


async def make_streams(client: Client) -> None:
    """Those that aren't there. Errors: nats.errors.Error, TimeoutError."""
    for config in STREAMS:
        await client.jetstream().add_stream(config)


async def _connected(url: str, name: str, patience: float) -> Client:
    until = asyncio.get_running_loop().time() + patience
    while True:
        try:
            return await _client(url, name)
        except (NatsError, OSError) as error:
            if asyncio.get_running_loop().time() > until:
                raise Unavailable(f"no NATS server answers at {url}") from error
            await asyncio.sleep(0.2)


async def _client(url: str, name: str) -> Client:
    client = Client()

    async def on_error(error: Exception) -> None:
        log().warning("bus.error", error=str(error))

    async def on_return() -> None:
        """The server may have lost its store; lines of logs, which nobody sends twice, need their stream again."""
        try:
            await make_streams(client)
        except (NatsError, TimeoutError) as error:  # an event that is refused makes them, too
            log().warning("bus.no_streams", error=repr(error))

    options: dict[str, Any] = {"name": name, "max_reconnect_attempts": -1, "reconnect_time_wait": 0.5}
    callbacks: dict[str, Any] = {"error_cb": on_error, "reconnected_cb": on_return}
    await client.connect(url, allow_reconnect=True, **options, **callbacks)
    return client
