"""redis_coordinator in this process, on a real nats-server with the accounts of `runmesh up` and on a real Redis."""

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from tests.library_rig import Nats, Redis, ask, loaded, nats_of_up, redis_with_tls

ODD: list[Any] = [
    "",
    "5",
    "-7",
    '"quoted"',
    "null",
    "Zoë 🦊\n",
    "NaN",
    5,
    2**63 - 1,
    -1.5,
    True,
    None,
    [1, {"a": None}],
    {"a": "5"},
]


@pytest.fixture(scope="module")
def nats() -> Iterator[Nats]:
    with nats_of_up() as server:
        yield server


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    with redis_with_tls() as server:
        yield server


def coordinator(monkeypatch: pytest.MonkeyPatch, **settings: str) -> ModuleType:
    unset = {"NATS_URL": "", "REDIS_URL": "", "REDIS_HOST": "", "BYTES": "16777216"}
    prefixed = {f"RUNMESH_REDIS_COORDINATOR_{name}": value for name, value in (unset | settings).items()}
    return loaded("redis_coordinator", monkeypatch, prefixed)


@pytest.fixture(params=["jetstream", "redis"])
def backend(request: pytest.FixtureRequest, nats: Nats, redis: Redis) -> dict[str, str]:
    """The settings that it is told by."""
    if request.param == "redis":
        return {"REDIS_URL": redis.url}
    return {"NATS_URL": nats.address("redis_coordinator")}


@pytest.fixture
def service(backend: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return coordinator(monkeypatch, **backend)


async def told(service: ModuleType, by: str = "org_a", **command: Any) -> Any:
    """Its value."""
    answer = await ask(service, command, by=by)
    assert answer.status_code == 200, answer.text
    assert answer.json().keys() == {"success", "value"}
    assert answer.json()["success"] is True
    return answer.json()["value"]


def refused(answer: httpx.Response, status: int, code: str) -> str:
    assert (answer.status_code, answer.json()["code"], answer.json()["success"]) == (status, code, False), answer.text
    detail: str = answer.json()["detail"]
    return detail


async def test_what_is_set_is_what_one_gets(service: ModuleType) -> None:
    """A string stays one, even if it looks like a number; so does everything else."""
    for number, value in enumerate(ODD):
        assert await told(service, operation="set", key=f"odd {number}.*>", value=value) == value
        found = await told(service, action="get", key=f"odd {number}.*>")
        assert (type(found), found) == (type(value), value)
    assert await told(service, operation="get", key="odd") is None


async def test_a_value_that_is_nested_too_deeply(service: ModuleType) -> None:
    """It would be kept, and never told again."""
    value = json.loads("[" * 200 + "]" * 200)
    assert await told(service, operation="set", key="deep", value=value) == value
    assert "deeply" in refused(
        await ask(service, {"operation": "set", "key": "deep", "value": [value]}), 400, "bad_request"
    )
    assert await told(service, operation="get", key="deep") == value


async def test_what_isnt_understood_is_told_alike(service: ModuleType) -> None:
    for depth in (5_000, 100_000):
        raw = '{"operation": "set", "key": "deep", "value": ' + "[" * depth + "]" * depth + "}"
        refused(await ask(service, content=raw, headers={"content-type": "application/json"}), 400, "bad_request")
    assert "PUT /" in refused(await ask(service, {}, method="PUT"), 405, "method_not_allowed")
    assert "/nothing" in refused(await ask(service, {}, path="/nothing"), 404, "not_found")


async def test_an_organization_has_its_own(service: ModuleType) -> None:
    for by in ("org_a", "org_b"):
        await told(service, by, operation="set", key="mine", value=by)
    assert await told(service, "org_b", operation="delete", key="mine") == 1
    assert await told(service, "org_b", operation="delete", key="mine") == 0
    assert await told(service, "org_b", operation="get", key="mine") is None
    assert await told(service, operation="get", key="mine") == "org_a"


async def test_a_key_goes_when_its_time_is_over(service: ModuleType) -> None:
    await told(service, operation="set", key="brief", value="x", ttl=0.7)
    await told(service, operation="set", key="counted", value=1, ttl=0.7)
    await told(service, operation="set", key="kept", value="x", ttl=0.7)
    await told(service, operation="set", key="kept", value="y")  # as in Redis, it has no end any more
    assert await told(service, operation="incr", key="counted") == 2  # and this one keeps its own
    assert await told(service, operation="incr", key="new", ttl=0.7) == 1
    assert await told(service, operation="incr", key="new", ttl=500) == 2
    assert await told(service, operation="get", key="brief") == "x"
    await asyncio.sleep(0.8)
    for key in ("brief", "counted", "new"):
        assert await told(service, operation="get", key=key) is None
        assert await told(service, operation="delete", key=key) == 0
    assert await told(service, operation="get", key="kept") == "y"
    assert await told(service, operation="incr", key="counted") == 1


async def test_expire(service: ModuleType) -> None:
    assert await told(service, operation="expire", key="absent", ttl=5) == 0
    await told(service, operation="set", key="there", value={"a": 1})
    assert await told(service, operation="expire", key="there", ttl=500) == 1
    assert await told(service, operation="get", key="there") == {"a": 1}
    assert await told(service, operation="expire", key="there", ttl=0) == 1
    assert await told(service, operation="get", key="there") is None


async def test_two_hundred_increments_are_two_hundred(backend: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several instances, fifty at once."""
    services, at_once = [coordinator(monkeypatch, **backend) for _ in range(5)], asyncio.Semaphore(50)

    async def more(number: int) -> int:
        async with at_once:
            return int(await told(services[number % 5], operation="incr", key="hot"))

    assert sorted(await asyncio.gather(*map(more, range(200)))) == list(range(1, 201))
    assert await told(services[0], operation="get", key="hot") == 200


async def test_numbers_that_came_as_text_are_counted_and_others_are_not(service: ModuleType) -> None:
    await told(service, operation="set", key="text", value="41", ttl=500)
    assert await told(service, operation="incr", key="text") == 42
    assert await told(service, operation="incr", key="text", value=-50) == -8
    values: list[Any] = ["4.5", 4.5, True, [], "x", "9" * 19, "9" * 500]
    for value in values:
        await told(service, operation="set", key="none", value=value)
        refused(await ask(service, {"operation": "incr", "key": "none"}), 400, "not_an_integer")
        assert await told(service, operation="get", key="none") == value
    await told(service, operation="set", key="most", value=2**63 - 1)
    refused(await ask(service, {"operation": "incr", "key": "most"}), 400, "not_an_integer")
    assert await told(service, operation="get", key="most") == 2**63 - 1


CANT_BE_MEANT: list[tuple[Any, str]] = [
    ({"operation": "flush", "key": "a"}, "operation"),
    ({"key": "a"}, "operation is missing"),
    ({"operation": "get"}, "key"),
    ({"operation": "get", "key": ""}, "key"),
    ({"operation": "get", "key": "é" * 257}, "512 bytes"),
    ({"operation": "get", "key": 5}, "key"),
    ({"operation": "get", "key": "a", "namespace": "org_b"}, "namespace"),
    ({"operation": "set", "key": "a"}, "value is missing"),
    ({"operation": "set", "key": "a", "value": 1, "ttl": 0}, "ttl"),
    ({"operation": "set", "key": "a", "value": 1, "ttl": 1e12}, "ttl"),
    ({"operation": "set", "key": "a", "value": 1, "ttl": "soon"}, "ttl"),
    ({"operation": "expire", "key": "a"}, "ttl is missing"),
    ({"operation": "incr", "key": "a", "value": "1"}, "integer"),
    ({"operation": "incr", "key": "a", "value": True}, "integer"),
    ([], "body"),
]


async def test_what_cant_be_meant(nats: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    service = coordinator(monkeypatch, NATS_URL=nats.address("redis_coordinator"))
    for command, says in CANT_BE_MEANT:
        assert says in refused(await ask(service, command), 400, "bad_request")


SET_A = b'{"operation":"set","key":"a","value":'


NO_JSON = [
    *(b"{", b"nonsense", SET_A + b"NaN}", b'{"operation":"get","key":"\\ud800"}', SET_A + b'"\\udc00"}'),
    *(SET_A + b"[" * 5000 + b"]" * 5000 + b"}", SET_A + b"9" * 5000 + b"}"),
]


async def test_what_is_no_json(service: ModuleType) -> None:
    for raw in NO_JSON:
        answer = await ask(service, content=raw, headers={"content-type": "application/json"})
        assert answer.status_code == 400, answer.text
    assert await told(service, operation="get", key="a") is None


async def test_how_much_may_be_kept(service: ModuleType) -> None:
    most = "x" * 256 * 1024
    assert await told(service, operation="set", key="large", value=most) == most
    assert await told(service, operation="get", key="large") == most
    assert "download_uri" in refused(
        await ask(service, {"operation": "set", "key": "large", "value": most + "x"}), 413, "too_large"
    )
    assert await told(service, operation="get", key="large") == most
    key = "k" * 512
    await told(service, operation="set", key=key, value=1)
    assert await told(service, operation="get", key=key) == 1


async def test_an_organization_has_so_much_room_and_others_are_not_told(
    nats: Nats, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_room(size: int) -> ModuleType:
        return coordinator(monkeypatch, NATS_URL=nats.address("redis_coordinator"), BYTES=str(size))

    service = with_room(300_000)
    await told(service, "org_full", operation="set", key="a", value="x" * 200_000)
    full = {"operation": "set", "key": "b", "value": "x" * 200_000}
    assert "300000 bytes in all" in refused(await ask(service, full, by="org_full"), 413, "too_large")
    assert await told(service, "org_full", operation="get", key="b") is None
    await told(service, "org_other", operation="set", key="b", value="x" * 200_000)
    assert await told(service, "org_full", operation="delete", key="a") == 1
    await told(service, "org_full", operation="set", key="b", value="x" * 200_000)
    roomier = with_room(900_000)  # as the operator says from now on
    await told(roomier, "org_full", operation="set", key="a", value="x" * 200_000)


async def test_what_a_time_has_run_out_for_leaves_the_store(nats: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    service = coordinator(monkeypatch, NATS_URL=nats.address("redis_coordinator"), BYTES="300000")
    await told(service, "org_ttl", operation="set", key="a", value="x" * 200_000, ttl=1)
    until = time.monotonic() + 10
    while (
        await ask(service, {"operation": "set", "key": "b", "value": "x" * 200_000}, by="org_ttl")
    ).status_code == 413:
        assert time.monotonic() < until
        await asyncio.sleep(0.2)


async def test_it_comes_back_with_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    with nats_of_up() as server:
        service = coordinator(monkeypatch, NATS_URL=server.address("redis_coordinator"))
        await told(service, operation="set", key="a", value="kept")
        server.stop()
        away = await ask(service, {"operation": "get", "key": "a"})
        assert "try again" in refused(away, 503, "unavailable")
        assert away.headers["retry-after"] == "2"
        waiting = asyncio.create_task(ask(service, {"operation": "get", "key": "a"}))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(server.start)
        assert (await waiting).json()["value"] == "kept"


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 \r\n\r\n", b"INFO {}\r\n-ERR 'Authorization Violation'\r\n"])
async def test_no_connection_is_left_of_an_attempt_that_failed(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """As by a server that is just starting, or has another password: it was collected much later, unclosed."""

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        service = coordinator(monkeypatch, NATS_URL=f"nats://a:b@127.0.0.1:{port}")
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(3):
            refused(await ask(service, {"operation": "get", "key": "a"}), 503, "unavailable")
        await asyncio.sleep(0.2)
        assert len(list(Path("/proc/self/fd").iterdir())) <= before


@pytest.mark.parametrize("body", [None, {}, {"operation": "reset_password"}])
async def test_without_a_redis_there_is_no_way_to_one(body: Any, nats: Nats, monkeypatch: pytest.MonkeyPatch) -> None:
    service = coordinator(monkeypatch, NATS_URL=nats.address("redis_coordinator"))
    assert "set RUNMESH_REDIS_COORDINATOR_REDIS_URL" in refused(await ask(service, body), 424, "missing_secret")
    plain = coordinator(monkeypatch, REDIS_URL="redis://default:x@redis.example:6379")
    assert "rediss://" in refused(await ask(plain, body), 424, "missing_secret")
    near = coordinator(monkeypatch, REDIS_URL="rediss://default:x@provider.internal:6379")
    assert "set RUNMESH_REDIS_COORDINATOR_REDIS_HOST" in refused(await ask(near, body), 424, "missing_secret")


async def test_without_anything_nothing_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = coordinator(monkeypatch)
    detail = refused(await ask(nothing, {"operation": "get", "key": "a"}), 424, "missing_secret")
    assert "RUNMESH_REDIS_COORDINATOR_NATS_URL" in detail


async def test_the_answer_is_json_that_any_client_reads(service: ModuleType) -> None:
    await told(service, operation="set", key="z", value="Zoë")
    answer = await ask(service, {"operation": "get", "key": "z"})
    assert json.loads(answer.content.decode()) == {"success": True, "value": "Zoë"}
