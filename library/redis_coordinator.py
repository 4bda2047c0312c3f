# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34", "nats-py>=2.16,<3", "redis>=7,<9"]
# [tool.env-checker]
# env_vars = [
#   "RUNMESH_REDIS_COORDINATOR_NATS_URL=",
#   "RUNMESH_REDIS_COORDINATOR_BYTES=16777216",
#   "RUNMESH_REDIS_COORDINATOR_REDIS_URL=",
#   "RUNMESH_REDIS_COORDINATOR_REDIS_HOST=",
# ]
# [tool.runmesh]
# isolation = "instance"
# egress = []
# ///
"""Values by their keys, each organization's for itself: {"operation": "get|set|delete|incr|expire", "key", "value",
"ttl"} gives {"success", "value"}. They are kept in the operator's Redis where there is one, else in JetStream.

With an empty body: how to reach that Redis as a user who may do what it likes with the organization's keys and sees no
other. {"operation": "reset_password"} makes a new password, and ends all connections by the old one.
"""

import asyncio
import base64
import functools
import json
import os
import re
import secrets
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

import redis.asyncio
import uvicorn
from fastapi import FastAPI, Request
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisAway
from redis.exceptions import RedisError, ResponseError
from redis.exceptions import TimeoutError as RedisSlow

from library.parts.bucket import Bucket, Entry, connected
from library.parts.refusals import Refused, organization_of, tells_refusals, too_deep

NATS_URL = os.environ["RUNMESH_REDIS_COORDINATOR_NATS_URL"]
REDIS_URL = os.environ["RUNMESH_REDIS_COORDINATOR_REDIS_URL"]
REDIS_HOST = os.environ["RUNMESH_REDIS_COORDINATOR_REDIS_HOST"]
MOST_BYTES = int(os.environ["RUNMESH_REDIS_COORDINATOR_BYTES"])
MOST_KEY, MOST_VALUE = 512, 256 * 1024
MOST_SECONDS = 10 * 365 * 86400
LARGEST = 2**63 - 1
NEAR = "provider.internal"  # what a sandbox calls the operator's own host
# Of Redis; what modules add is off.
KINDS = (
    "keyspace read write set sortedset list hash string bitmap hyperloglog geo stream pubsub admin fast slow blocking "
    "dangerous connection transaction scripting"
)
# No command that tells of others' keys and channels, or holds up the server: a script may run for ever.
RIGHTS = (
    "+@read +@write +@connection +@transaction +publish +subscribe +unsubscribe +psubscribe +punsubscribe +spublish "
    "+ssubscribe +sunsubscribe "
    "-@dangerous -@admin -@scripting -scan -randomkey -dbsize -client|tracking -client|caching"
)
TURN = asyncio.Lock()  # one call at a time has the connections, as it is anyway in an instance
# KEYS[1] by ARGV[1]; ARGV[2]: milliseconds that a new key has, 0: for ever. Digits that came as a string count, too.
INCREMENT = """
local before = redis.call('GET', KEYS[1])
local quoted = before and before:match('^"%-?%d+"$')
if quoted then
  redis.call('SET', KEYS[1], before:sub(2, -2), 'KEEPTTL')
end
local done = redis.pcall('INCRBY', KEYS[1], ARGV[1])
if type(done) == 'table' then -- an error
  if quoted then
    redis.call('SET', KEYS[1], before, 'KEEPTTL')
  end
  return done
end
if not before and ARGV[2] ~= '0' then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
return redis.call('GET', KEYS[1])
"""


class Command(BaseModel):
    """`value` of set is any JSON, of incr how much (1). `ttl`: seconds; of incr for a key that it makes. Nothing at all
    asks for the way to Redis.
    """

    model_config = ConfigDict(extra="forbid")
    operation: Literal["get", "set", "delete", "incr", "expire", "reset_password"] | None = Field(
        None, validation_alias=AliasChoices("operation", "action")
    )
    key: str = ""
    value: Any = None
    ttl: float | None = Field(None, ge=-MOST_SECONDS, le=MOST_SECONDS)


class Keys(Protocol):
    """One organization's. Errors: Refused."""

    async def get(self, key: str) -> Any:
        """None when it isn't there."""

    async def set(self, key: str, text: str, ttl: float | None) -> None:
        """In the place of what was there, its time too. `text`: as `encoded`."""

    async def delete(self, key: str) -> bool:
        """Whether it was there."""

    async def incr(self, key: str, amount: int, ttl: float | None) -> int:
        """What it is now."""

    async def expire(self, key: str, ttl: float) -> bool:
        """Whether it is there. A time that is over deletes it."""


class JetStreamKeys:
    """Each in a message whose subject is the key, in a bucket of the organization's."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def get(self, key: str) -> Any:
        return _read((await self._bucket.get(_subject(key))).value)

    async def set(self, key: str, text: str, ttl: float | None) -> None:
        await self._bucket.put(_subject(key), text.encode(), _until(ttl))

    async def delete(self, key: str) -> bool:
        return await self._bucket.delete(_subject(key))

    async def incr(self, key: str, amount: int, ttl: float | None) -> int:
        result = 0

        def more(entry: Entry) -> tuple[bytes, float | None]:
            nonlocal result
            result = _integer(_read(entry.value)) + amount
            if not -LARGEST - 1 <= result <= LARGEST:
                raise _no_integer()
            return str(result).encode(), _until(ttl) if entry.value is None else entry.expires

        await self._bucket.change(_subject(key), more)
        return result

    async def expire(self, key: str, ttl: float) -> bool:
        if ttl <= 0:
            return await self.delete(key)
        there = False

        def later(entry: Entry) -> tuple[bytes, float | None] | None:
            nonlocal there
            there = entry.value is not None
            return None if entry.value is None else (entry.value, _until(ttl))

        await self._bucket.change(_subject(key), later)
        return there


class RedisKeys:
    """Those of the namespace in Redis, which the organization's own connections see, too."""

    def __init__(self, client: Any, organization: str) -> None:
        self._redis = client
        self._prefix = f"{organization}:"

    async def get(self, key: str) -> Any:
        return _read(await self._redis.get(self._prefix + key))

    async def set(self, key: str, text: str, ttl: float | None) -> None:
        await self._redis.set(self._prefix + key, text, px=_milliseconds(ttl) or None)

    async def delete(self, key: str) -> bool:
        return bool(await self._redis.delete(self._prefix + key))

    async def incr(self, key: str, amount: int, ttl: float | None) -> int:
        return int(await self._redis.eval(INCREMENT, 1, self._prefix + key, amount, _milliseconds(ttl)))

    async def expire(self, key: str, ttl: float) -> bool:
        return bool(await self._redis.pexpire(self._prefix + key, _milliseconds(ttl)))


def encoded(value: Any) -> str:
    """A string as it is, unless it could be taken for something else; the rest as JSON. Errors: Refused."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        text = value if isinstance(value, str) and _read(value.encode()) == value else text
        if too_deep(value):
            raise ValueError
        if len(text.encode()) <= MOST_VALUE:
            return text
    except (ValueError, RecursionError):
        raise Refused(400, "bad_request", "value is no JSON, or no Unicode, or nested too deeply") from None
    told = f"a value may have {MOST_VALUE} bytes: keep larger ones in a file (POST /file), and here its download_uri"
    raise Refused(413, "too_large", told)


def _read(text: bytes | str | None) -> Any:
    """What `encoded` wrote, or anybody else in Redis."""
    if text is None:
        return None
    text = text if isinstance(text, str) else text.decode()
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text
    return text if too_deep(value) else value


def _no_constant(name: str) -> Any:
    raise ValueError(name)


def _integer(value: Any) -> int:
    """Errors: Refused."""
    if isinstance(value, str) and re.fullmatch(r"-?[0-9]{1,19}", value):
        return int(value)
    if value is None or type(value) is int:
        return value or 0
    raise _no_integer()


def _no_integer() -> Refused:
    return Refused(400, "not_an_integer", "what the key has, or would have then, is no integer of 64 bits")


def _subject(key: str) -> str:
    """A token of a subject, which has neither dots nor spaces."""
    return base64.urlsafe_b64encode(key.encode()).decode().rstrip("=")


def _until(ttl: float | None) -> float | None:
    return None if ttl is None else time.time() + ttl


def _milliseconds(ttl: float | None) -> int:
    return 0 if ttl is None else max(1, round(ttl * 1000)) if ttl > 0 else -1


@functools.cache
def _pool() -> Any:
    """Connections that aren't open, but have read the authorities that they trust, which takes a while."""
    parts = urlsplit(REDIS_URL)
    if parts.scheme != "rediss":
        raise _unset("RUNMESH_REDIS_COORDINATOR_REDIS_URL must be rediss://user:password@host:port, with TLS")
    try:
        pool: Any = redis.asyncio.ConnectionPool.from_url(  # what the URL says besides goes first
            REDIS_URL,
            decode_responses=True,
            socket_connect_timeout=3,
            socket_timeout=10,
            retry=Retry(NoBackoff(), 0),  # what may have been done isn't done again
            ssl_check_hostname=parts.hostname != NEAR,  # its certificate names it otherwise
        )
        pool.make_connection()
        return pool
    except (TypeError, ValueError) as error:
        raise _unset(f"RUNMESH_REDIS_COORDINATOR_REDIS_URL isn't understood: {error}") from None


@asynccontextmanager
async def redis_client() -> AsyncIterator[Any]:
    """As the operator's user. Each call has a network of its own, which no connection outlives. Errors: Refused,
    whatever Redis says within.
    """
    pool = _pool()
    try:
        async with TURN:
            try:
                yield redis.asyncio.Redis(connection_pool=pool)
            finally:
                await pool.disconnect()
    except ResponseError as error:
        if str(error).startswith("WRONGTYPE"):
            raise Refused(400, "wrong_type", "the key has a list, hash or the like, not a value") from None
        if "not an integer" in str(error) or "overflow" in str(error):
            raise _no_integer() from None
        if str(error).startswith("OOM"):
            raise Refused(413, "too_large", "the operator's Redis is full: delete something first") from None
        print(f"Redis: {error}")
        told = f"the operator's Redis refuses it ({str(error).split(' ')[0]})"
        raise Refused(502, "redis_refused", told) from None
    except UnicodeDecodeError:
        raise Refused(400, "wrong_type", "the key has bytes that are no text") from None
    except (RedisAway, RedisSlow, RedisError, ssl.SSLError, OSError) as error:
        print(f"Redis: {error!r}")
        told = f"the operator's Redis can't be reached ({type(error).__name__}); try again"
        raise Refused(503, "unavailable", told, retry_after=2) from None


@asynccontextmanager
async def keys_of(organization: str) -> AsyncIterator[Keys]:
    """Errors: Refused."""
    if REDIS_URL:
        async with redis_client() as client:
            yield RedisKeys(client, organization)
    elif NATS_URL:
        async with connected(NATS_URL, "redis_coordinator") as nats_client:
            yield JetStreamKeys(Bucket(nats_client, f"redis_coordinator_{organization}", MOST_BYTES))
    else:
        raise _unset("set RUNMESH_REDIS_COORDINATOR_NATS_URL, or RUNMESH_REDIS_COORDINATOR_REDIS_URL")


async def credentials(organization: str, *, reset: bool = False) -> dict[str, Any]:
    """Of a Redis user that is made, or put right, each time: a Redis that was started anew has forgotten it. The
    password lies in Redis, so it is the same wherever this runs. Errors: Refused.
    """
    if not REDIS_URL:
        raise _unset("set RUNMESH_REDIS_COORDINATOR_REDIS_URL. Operations, as get and set, don't need it")
    host, port = _told()
    async with redis_client() as client:
        kept, new = f"redis_coordinator:{organization}", secrets.token_urlsafe(32)
        before = await client.set(kept, new, nx=not reset, get=True)
        password = new if reset or before is None else str(before)
        kinds = await client.execute_command("ACL", "CAT")
        rules = ["reset", "on", f">{password}", f"~{organization}:*", f"&{organization}:*", *RIGHTS.split()]
        rules += [f"-@{kind}" for kind in kinds if kind not in KINDS.split()]
        await client.execute_command("ACL", "SETUSER", organization, *rules)
        if reset:
            await client.execute_command("CLIENT", "KILL", "USER", organization)
    return {
        "redis_host": host,
        "redis_port": port,
        "redis_user": organization,
        "redis_password": password,
        "namespace": f"{organization}:*",
    }


def _told() -> tuple[str, int]:
    """Where workflows reach Redis. Errors: Refused."""
    parts = urlsplit(f"rediss://{REDIS_HOST}" if REDIS_HOST else REDIS_URL)
    if not parts.hostname or parts.hostname == NEAR:
        raise _unset("set RUNMESH_REDIS_COORDINATOR_REDIS_HOST to the host, or host:port, that workflows are told")
    return parts.hostname, parts.port or urlsplit(REDIS_URL).port or 6379


def _unset(what: str) -> Refused:
    return Refused(424, "missing_secret", f"the operator of this platform hasn't configured Redis: {what}")


app = FastAPI(title="redis_coordinator", description=__doc__)
tells_refusals(app)


@app.post("/")
async def run(request: Request, command: Command | None = None) -> dict[str, Any]:
    """One operation, or the way to Redis. Errors: 400, 413, 424, 503."""
    organization = organization_of(request)
    if command is None or not command.model_fields_set:
        return await credentials(organization)
    if command.operation == "reset_password":
        return await credentials(organization, reset=True)
    text = checked(command)  # before anything is reached
    async with keys_of(organization) as keys:
        return {"success": True, "value": await operated(keys, command, text)}


def checked(command: Command) -> str:
    """The value of a set, as it is kept. Errors: Refused for what can't be meant."""
    operation, ttl = command.operation, command.ttl
    if operation is None:
        raise Refused(400, "bad_request", "operation is missing: get, set, delete, incr or expire")
    if not re.fullmatch(r"[^\ud800-\udfff]+", command.key, re.DOTALL) or len(command.key.encode()) > MOST_KEY:
        raise Refused(400, "bad_request", f"key must be a text of 1 to {MOST_KEY} bytes")
    if operation == "expire" and ttl is None:
        raise Refused(400, "bad_request", "ttl is missing: in how many seconds the key is to go")
    if operation != "expire" and ttl is not None and ttl <= 0:
        raise Refused(400, "bad_request", "ttl must be above 0")
    if operation == "incr" and command.value is not None and type(command.value) is not int:
        raise Refused(400, "bad_request", "value, how much is added, must be an integer")
    if operation == "set" and "value" not in command.model_fields_set:
        raise Refused(400, "bad_request", "value is missing")
    return encoded(command.value) if operation == "set" else ""


async def operated(keys: Keys, command: Command, text: str) -> Any:
    """What is told as the value: of set and get the key's, of incr its new one, else 1 if the key was there, or 0."""
    key, ttl = command.key, command.ttl
    match command.operation:
        case "get":
            return await keys.get(key)
        case "set":
            await keys.set(key, text, ttl)
            return command.value
        case "incr":
            return await keys.incr(key, 1 if command.value is None else command.value, ttl)
        case "delete":
            return int(await keys.delete(key))
        case _:
            return int(await keys.expire(key, ttl or 0))


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
