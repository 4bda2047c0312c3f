"""A key-value bucket of JetStream: written into each service that keeps things in one (scheduler/library.py)."""

import asyncio
import json
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import DiscardPolicy, Header, StreamConfig
from nats.js.errors import APIError, NoStreamResponseError, NotFoundError

from library.parts.refusals import Refused

CONNECT_SECONDS = 4.0
CONTENDED_SECONDS = 15.0
EXPIRES = "Runmesh-Expires"  # seconds since the epoch; the server's own times are whole seconds, and up to one late
CHANGED_MEANWHILE = (10071, 10164)
EXISTS_OTHERWISE = 10058
FULL = ("maximum bytes exceeded", "maximum messages exceeded")


@dataclass(frozen=True)
class Entry:
    """What a key has. No value: it isn't there, or its time is over. `expires`: seconds since the epoch."""

    value: bytes | None = None
    revision: int = 0
    expires: float | None = None


# The value, and when it expires. None: leave it as it is.
Change = tuple[bytes, float | None] | None


class Bucket:
    """Made when something is first put into it; `most_bytes` is all that it takes."""

    def __init__(self, client: Client, name: str, most_bytes: int) -> None:
        self._client = client
        self._jetstream = client.jetstream(timeout=5)
        self._name = name
        self._stream = f"KV_{name}"
        self._most_bytes = most_bytes

    async def get(self, key: str) -> Entry:
        """Of the leader: what was put is seen by whoever asks next."""
        try:
            found = await self._jetstream.get_msg(self._stream, subject=self._subject(key))
        except NotFoundError:
            return Entry()
        expires = (found.headers or {}).get(EXPIRES)
        over = expires is not None and float(expires) <= time.time()
        value = None if over else found.data or b""
        return Entry(value, found.seq or 0, None if expires is None else float(expires))

    async def put(self, key: str, value: bytes, expires: float | None = None, revision: int | None = None) -> bool:
        """Whether it was: not if the key has another revision than this. Errors: Refused where the bucket is full."""
        headers = {} if revision is None else {Header.EXPECTED_LAST_SUBJECT_SEQUENCE.value: str(revision)}
        seconds = None
        if expires is not None:
            headers[EXPIRES] = repr(expires)
            seconds = max(1, math.ceil(expires - time.time()))
        try:
            await self._publish(key, value, headers, seconds)
        except APIError as error:
            if error.err_code in CHANGED_MEANWHILE:
                return False
            if not (error.description or "").startswith(FULL):
                raise
            told = f"what is kept here may take {self._most_bytes} bytes in all: delete something first"
            raise Refused(413, "too_large", told) from None
        return True

    async def change(self, key: str, new: Callable[[Entry], Change]) -> None:
        """Puts what `new` makes of what is there; if somebody is faster, of what is there then. Errors: Refused."""
        until, pause = time.monotonic() + CONTENDED_SECONDS, 0.001
        while True:
            entry = await self.get(key)
            wanted = new(entry)
            if wanted is None or await self.put(key, *wanted, revision=entry.revision):
                return
            if time.monotonic() > until:
                raise Refused(503, "unavailable", "too many change this key at once; try again", retry_after=1)
            await asyncio.sleep(random.uniform(0, pause))  # noqa: S311  # so that they don't meet again
            pause = min(2 * pause, 0.1)

    async def delete(self, key: str) -> bool:
        """Whether it was there. It is possible in a full bucket, too, and leaves nothing."""
        entry = await self.get(key)
        if not entry.revision:
            return False
        wanted = json.dumps({"filter": self._subject(key)}).encode()
        reply = await self._client.request(f"$JS.API.STREAM.PURGE.{self._stream}", wanted, timeout=5)
        return entry.value is not None and json.loads(reply.data).get("purged", 0) > 0  # nobody was faster

    async def _publish(self, key: str, value: bytes, headers: dict[str, Any], seconds: float | None) -> None:
        for attempt in range(3):
            try:
                await self._jetstream.publish(self._subject(key), value, headers=dict(headers), msg_ttl=seconds)
                return
            except NoStreamResponseError:  # nobody has used it before
                if attempt == 2:
                    raise
                await self._make()
            except APIError as error:  # the operator may allow more than when it was made
                if attempt or not (error.description or "").startswith(FULL):
                    raise
                await self._jetstream.update_stream(self._config())

    async def _make(self) -> None:
        try:
            await self._jetstream.add_stream(self._config())
        except APIError as error:
            if error.err_code != EXISTS_OTHERWISE:
                raise

    def _config(self) -> StreamConfig:
        return StreamConfig(
            name=self._stream,
            subjects=[f"$KV.{self._name}.>"],
            max_msgs_per_subject=1,
            max_bytes=self._most_bytes,
            discard=DiscardPolicy.NEW,
            allow_msg_ttl=True,
            allow_rollup_hdrs=True,
            deny_delete=True,
        )

    def _subject(self, key: str) -> str:
        return f"$KV.{self._name}.{key}"


@asynccontextmanager
async def connected(url: str, service: str) -> AsyncIterator[Client]:
    """Each call has a network of its own, which no connection outlives. Errors: Refused, whatever NATS says within."""
    client = Client()
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            await client.connect(
                url,
                name=service,
                inbox_prefix=f"_INBOX_{service}",
                allow_reconnect=False,
                max_reconnect_attempts=20,  # before it is there: it may just be starting
                reconnect_time_wait=0.2,  # type: ignore[arg-type]  # seconds
                connect_timeout=2,
                error_cb=_note,
            )
    except BaseException as error:
        await client.close()  # nats-py leaves the socket of an attempt that failed behind
        if isinstance(error, NatsError | OSError | TimeoutError):
            raise _away(error) from None
        raise
    try:
        yield client
    except (NatsError, TimeoutError) as error:
        raise _away(error) from None
    finally:
        await client.close()


async def _note(error: Exception) -> None:
    logging.getLogger("nats").debug("%r", error)


def _away(error: Exception) -> Refused:
    print(f"NATS: {error!r}")
    why = (error.description if isinstance(error, APIError) else "") or type(error).__name__
    told = f"what is kept here can't be reached at the moment ({why}); try again"
    return Refused(503, "unavailable", told, retry_after=2)
