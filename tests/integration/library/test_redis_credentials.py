"""redis_coordinator with an empty body: the published client's `redis_client()` on a real Redis with TLS, and what a
user that it was given can't do there.
"""

import asyncio
import importlib
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import httpx
import pytest
import redis.asyncio
import structlog
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError
from redis.exceptions import ConnectionError as RedisAway

from tests.library_rig import Redis, ask, loaded, redis_with_tls

# What isn't about one's own keys, or tells of others', or stops the server for them.
FORBIDDEN = """
GET org_b:secret; SET org_b:x 1; DEL org_b:secret; RENAME org_a:own org_b:x; COPY org_b:secret org_a:stolen;
GET redis_coordinator:org_a; GET redis_coordinator:org_b; GET org_a; MGET org_a:own org_b:secret;
WATCH org_b:secret; EXISTS org_b:secret; TYPE org_b:secret; OBJECT ENCODING org_b:secret;
XREAD STREAMS org_b:s 0; SORT org_a:own BY org_b:*; SORT org_a:own; MIGRATE h 1 org_b:secret 0 1;
RESTORE org_a:x 0 y; DUMP org_b:secret; SCAN 0; KEYS *; KEYS org_a:*; RANDOMKEY; DBSIZE; FLUSHALL; FLUSHDB;
SWAPDB 0 1; MOVE org_b:secret 1; CONFIG GET requirepass; CONFIG SET requirepass x; ACL LIST;
ACL SETUSER org_a +@all; ACL SETUSER x on nopass +@all; ACL WHOAMI; MONITOR; DEBUG SLEEP 1; SHUTDOWN NOSAVE;
SAVE; BGREWRITEAOF; REPLICAOF h 1; SLAVEOF h 1; CLUSTER INFO; MODULE LIST; INFO; LATENCY LATEST; SLOWLOG GET;
MEMORY STATS; CLIENT LIST; CLIENT KILL USER default; CLIENT PAUSE 1; CLIENT TRACKING ON BCAST; EVAL return 0;
EVAL_RO return 0; EVALSHA x 0; SCRIPT FLUSH; FUNCTION LIST; FCALL f 0; PUBSUB CHANNELS; PUBLISH org_b:news x;
SUBSCRIBE org_b:news; PSUBSCRIBE *; PSUBSCRIBE org_*; SPUBLISH org_b:n x
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Redis]:
    with redis_with_tls() as running:
        yield running


@pytest.fixture
def service(server: Redis, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return coordinator(server, monkeypatch)


def coordinator(server: Redis, monkeypatch: pytest.MonkeyPatch, **settings: str) -> ModuleType:
    unset = {"NATS_URL": "", "REDIS_URL": server.url, "REDIS_HOST": "", "BYTES": "1"}
    prefixed = {f"RUNMESH_REDIS_COORDINATOR_{name}": value for name, value in (unset | settings).items()}
    return loaded("redis_coordinator", monkeypatch, prefixed)


@pytest.fixture
def at_the_service(service: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Has the published client, which is as its users have it, reach the service as an organization."""
    transport = httpx.AsyncHTTPTransport.handle_async_request
    monkeypatch.setenv("CODEWORDS_RUNTIME_URI", "http://runtime")
    monkeypatch.setenv("CODEWORDS_API_KEY", "cwk-x")

    def become(organization: str) -> None:
        async def handle(self: Any, request: httpx.Request) -> httpx.Response:
            if request.url.host != "runtime":
                return await transport(self, request)
            assert (request.method, request.url.path) == ("POST", "/run/redis_coordinator/")
            headers = {"content-type": request.headers["content-type"]}
            return await ask(service, content=await request.aread(), headers=headers, by=organization)

        monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", handle)

    return become


async def credentials(service: ModuleType, by: str = "org_a", body: Any = None) -> dict[str, Any]:
    answer = await ask(service, body, by=by)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    assert found.keys() == {"redis_host", "redis_port", "redis_user", "redis_password", "namespace"}
    return found


def client_of(found: dict[str, Any]) -> Any:
    return redis.asyncio.Redis(
        host=found["redis_host"],
        port=found["redis_port"],
        username=found["redis_user"],
        password=found["redis_password"],
        ssl=True,
        ssl_cert_reqs="none",
        decode_responses=True,
        retry=Retry(NoBackoff(), 0),
    )


@pytest.fixture
def codewords_client() -> ModuleType:
    """The published package. Its import sets up structlog, for all of this process."""
    before = structlog.get_config()
    try:
        return importlib.import_module("codewords_client")
    finally:
        structlog.configure(**before)


async def test_the_published_client(
    service: ModuleType, at_the_service: Callable[[str], None], codewords_client: ModuleType
) -> None:
    at_the_service("org_a")
    async with codewords_client.redis_client() as (client, ns):
        assert ns == "org_a"
        await client.hset(f"{ns}:user:1", mapping={"name": "Ada", "age": "36"})
        assert await client.hgetall(f"{ns}:user:1") == {"name": "Ada", "age": "36"}
        async with client.pipeline(transaction=True) as pipe:
            assert await pipe.incr(f"{ns}:n").expire(f"{ns}:n", 60).ttl(f"{ns}:n").execute() == [1, True, 60]
        async with client.pubsub() as heard:
            await heard.subscribe(f"{ns}:news")
            assert (await heard.get_message(timeout=5))["type"] == "subscribe"
            await client.publish(f"{ns}:news", "hello")
            assert (await heard.get_message(timeout=5))["data"] == "hello"
        await client.rpush(f"{ns}:jobs", "a")
        assert await client.blpop(f"{ns}:jobs", timeout=1) == (f"{ns}:jobs", "a")
    at_the_service("org_b")
    async with codewords_client.redis_client() as (client, ns):
        assert ns == "org_b"
        with pytest.raises(NoPermissionError):
            await client.hgetall("org_a:user:1")


async def test_operations_and_connections_see_the_same_keys(service: ModuleType) -> None:
    async with client_of(await credentials(service)) as client:
        await ask(service, {"operation": "set", "key": "text", "value": "plain"})
        await ask(service, {"operation": "set", "key": "object", "value": {"a": 1}})
        await ask(service, {"operation": "incr", "key": "count", "value": 7})
        assert await client.mget("org_a:text", "org_a:object", "org_a:count") == ["plain", '{"a":1}', "7"]
        await client.set("org_a:theirs", "not { json")
        await client.rpush("org_a:list", "x")
        await client.set("org_a:bytes", b"\xff\xfe")
    assert (await ask(service, {"operation": "get", "key": "theirs"})).json()["value"] == "not { json"
    for key in ("list", "bytes"):
        answer = await ask(service, {"operation": "get", "key": key})
        assert (answer.status_code, answer.json()["code"]) == (400, "wrong_type")
    answer = await ask(service, {"operation": "incr", "key": "list"})
    assert (answer.status_code, answer.json()["code"]) == (400, "wrong_type")


async def test_nothing_else_can_be_done_with_them(service: ModuleType, server: Redis) -> None:
    async with redis.asyncio.Redis.from_url(server.url, decode_responses=True) as admin:
        await admin.set("org_b:secret", "b")
        await credentials(service, "org_b")
        async with client_of(await credentials(service)) as client:
            await client.set("org_a:own", "1")
            for line in FORBIDDEN.split(";"):
                with pytest.raises(
                    (NoPermissionError, ResponseError), match=r"no permissions|DEBUG command not allowed"
                ):
                    await client.execute_command(*line.split())
            await client.execute_command("SELECT", 1)
            with pytest.raises(NoPermissionError):
                await client.execute_command("GET", "org_b:secret")
        async with client_of(await credentials(service)) as client:
            assert await client.get("org_a:own") == "1"
        assert await admin.get("org_b:secret") == "b"
        assert sorted(await admin.acl_users()) == ["default", "org_a", "org_b"]


async def test_they_stay_the_same_until_they_are_reset(server: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    one, another = coordinator(server, monkeypatch), coordinator(server, monkeypatch)
    first, b = await credentials(one, "org_reset"), await credentials(one, "org_b")
    assert await credentials(another, "org_reset") == first
    both = await asyncio.gather(*(credentials(which, "org_new") for which in (one, another) * 5))
    assert all(each == both[0] for each in both)
    async with client_of(first) as client, client_of(b) as other:
        await client.set("org_reset:kept", "1")
        await other.ping()
        second = await credentials(another, "org_reset", {"operation": "reset_password"})
        assert second["redis_password"] != first["redis_password"]
        with pytest.raises((RedisAway, AuthenticationError)):
            await client.get("org_reset:kept")  # its connection was ended, and another can't be had
        await other.ping()
    with pytest.raises(AuthenticationError):
        async with client_of(first) as client:
            await client.ping()
    assert await credentials(one, "org_reset") == second
    assert await credentials(one, "org_b") == b
    async with client_of(second) as client:
        assert await client.get("org_reset:kept") == "1"


async def test_a_redis_that_has_forgotten_its_users_is_told_again(service: ModuleType, server: Redis) -> None:
    found = await credentials(service)
    async with redis.asyncio.Redis.from_url(server.url) as redis_admin:
        admin: Any = redis_admin
        await admin.acl_deluser("org_a")
        await admin.execute_command("ACL", "SETUSER", "org_a", "on", "allkeys", "+@all", ">planted")
    assert await credentials(service) == found
    async with client_of(found) as client:
        await client.ping()
        with pytest.raises((NoPermissionError, ResponseError)):
            await client.get("org_b:x")
    with pytest.raises(AuthenticationError):
        async with client_of(found | {"redis_password": "planted"}) as client:
            await client.ping()


async def test_where_workflows_reach_it(server: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    found = await credentials(coordinator(server, monkeypatch))
    assert (found["redis_host"], found["redis_port"]) == ("127.0.0.1", server.port)
    found = await credentials(coordinator(server, monkeypatch, REDIS_HOST="redis.example"))
    assert (found["redis_host"], found["redis_port"]) == ("redis.example", server.port)
    found = await credentials(coordinator(server, monkeypatch, REDIS_HOST="redis.example:6390"))
    assert (found["redis_host"], found["redis_port"]) == ("redis.example", 6390)


async def test_a_server_that_isnt_who_it_should_be_hears_no_password(
    server: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its certificate is of an authority that nobody named."""
    service = coordinator(server, monkeypatch, REDIS_URL=server.url.partition("?")[0])
    answer = await ask(service)
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert server.password not in answer.text
    plain = server.url.replace("ssl_ca_data", "ssl_cert_reqs=none&x_ca")  # a setting that there is none of
    answer = await ask(coordinator(server, monkeypatch, REDIS_URL=plain))
    assert (answer.status_code, answer.json()["code"]) == (424, "missing_secret")


async def test_a_wrong_password_is_not_the_callers_business(server: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    service = coordinator(server, monkeypatch, REDIS_URL=server.url.replace(server.password, "wrong"))
    answer = await ask(service, {"operation": "get", "key": "a"})
    assert answer.status_code in {502, 503}
    assert "wrong" not in answer.text
