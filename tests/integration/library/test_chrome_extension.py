"""chrome_extension in this process, on a real nats-server: who gets a job, once, and what is told where nobody does."""

import asyncio
import time
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import httpx
import pytest
from nats import connect
from nats.js.errors import APIError

from tests.library_rig import Nats, ask, loaded, nats_of_up

NAVIGATE = [{"type": "navigate", "url": "https://a.example/"}]
FIRST, SECOND = "browser-1", "browser-2"


@pytest.fixture(scope="module")
def nats() -> Iterator[Nats]:
    with nats_of_up() as server:
        yield server


@pytest.fixture
def by(request: pytest.FixtureRequest) -> str:
    """An organization of the test's own."""
    return f"org_{abs(hash(request.node.name))}"


@pytest.fixture
def service(nats: Nats, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    settings = {"NATS_URL": nats.address("chrome_extension"), "BYTES": str(64 << 20)}
    prefixed = {f"RUNMESH_CHROME_EXTENSION_{name}": value for name, value in settings.items()}
    return loaded("chrome_extension", monkeypatch, prefixed)


async def post(service: ModuleType, path: str, by: str, status: int = 200, **body: Any) -> Any:
    answer: httpx.Response = await ask(service, body, path=f"/{path}", by=by)
    assert answer.status_code == status, answer.text
    return answer.json()


async def poll(service: ModuleType, by: str, session: str = FIRST, wait: float = 5) -> Any:
    return (await post(service, "poll", by, session=session, wait=wait))["job"]


def held(job: Any) -> dict[str, Any]:
    return {"id": job["id"], "lease": job["lease"]}


async def test_it_is_done_and_told(service: ModuleType, by: str) -> None:
    assert await poll(service, by, wait=0) is None
    asked = asyncio.create_task(post(service, "actions", by, actions=NAVIGATE))
    job = await poll(service, by)
    assert (job["actions"], job["attempt"]) == (NAVIGATE, 1)
    assert 50 < job["seconds"] <= 60
    html = "<html>" + "é" * 1_000_000  # in several messages
    assert await post(service, "result", by, **held(job), success=True, data={"html": html}) == {"accepted": True}
    assert await asked == {"success": True, "data": {"html": html}}
    answer = await ask(service, path="/status", method="GET", by=by)
    assert answer.json() == {"browsers": [FIRST], "jobs": 0}


async def test_a_failure_is_told(service: ModuleType, by: str) -> None:
    await poll(service, by, wait=0)
    asked = asyncio.create_task(post(service, "actions", by, actions=NAVIGATE))
    job = await poll(service, by)
    await post(service, "result", by, **held(job), success=False, data={"html": "x"}, error="no such thing")
    assert await asked == {"success": False, "data": {"html": "x"}, "error": "no such thing", "detail": "no such thing"}


async def test_what_is_too_large_is_told(service: ModuleType, by: str) -> None:
    await poll(service, by, wait=0)
    asked = asyncio.create_task(post(service, "actions", by, actions=NAVIGATE))
    job = await poll(service, by)
    await post(service, "result", by, **held(job), success=True, data={"html": "x" * (9 << 20)})
    assert "more than 8 MiB" in (await asked)["detail"]


async def test_a_job_is_one_browsers(service: ModuleType, by: str) -> None:
    """However many wait for it."""
    await poll(service, by, wait=0)
    waiting = [asyncio.create_task(poll(service, by, f"browser-{number}", wait=2)) for number in range(6)]
    asked = [asyncio.create_task(post(service, "actions", by, actions=NAVIGATE)) for _ in range(3)]
    found = [job for job in await asyncio.gather(*waiting) if job]
    assert len(found) == len({job["id"] for job in found}) == 3
    for job in found:
        await post(service, "result", by, **held(job), success=True, data={"html": job["id"]})
    assert sorted([(await each)["data"]["html"] for each in asked]) == sorted(job["id"] for job in found)


async def test_a_browser_that_falls_silent_loses_its_job(service: ModuleType, by: str) -> None:
    vars(service)["LEASE_SECONDS"], vars(service)["LOOK_SECONDS"] = 0.6, 0.1
    await poll(service, by, wait=0)
    asked = asyncio.create_task(post(service, "actions", by, actions=NAVIGATE))
    first = await poll(service, by)
    for _ in range(3):  # it keeps what it renews
        await asyncio.sleep(0.3)
        await post(service, "renew", by, **held(first))
    assert await poll(service, by, SECOND, wait=0.2) is None
    second = await poll(service, by, SECOND, wait=5)
    assert (second["id"], second["attempt"]) == (first["id"], 2)
    for path, more in (("renew", {}), ("result", {"success": True, "data": {"html": "of the first"}})):
        assert (await post(service, path, by, 409, **held(first), **more))["code"] == "lease_lost"
    await post(service, "result", by, **held(second), success=True, data={"html": "of the second"})
    assert (await asked)["data"]["html"] == "of the second"
    assert (await post(service, "result", by, 409, **held(second), success=True))["code"] == "lease_lost"


async def test_what_mustnt_be_done_twice_isnt(service: ModuleType, by: str) -> None:
    vars(service)["LEASE_SECONDS"], vars(service)["LOOK_SECONDS"] = 0.2, 0.1
    await poll(service, by, wait=0)
    asked = asyncio.create_task(post(service, "actions", by, 504, actions=NAVIGATE, attempts=1, timeout=1.5))
    assert await poll(service, by)
    assert await poll(service, by, SECOND, wait=0.6) is None
    assert "a browser began" in (await asked)["detail"]
    assert (await ask(service, path="/status", method="GET", by=by)).json()["jobs"] == 0


async def test_nobody_is_there(service: ModuleType, by: str) -> None:
    told = await post(service, "actions", by, 424, actions=NAVIGATE)
    assert told["code"] == "no_browser"
    assert "load the extension" in told["detail"]
    vars(service)["GRACE_SECONDS"] = 0.2
    await poll(service, by, wait=0)
    assert (await post(service, "actions", by, 504, actions=NAVIGATE, timeout=1))["code"] == "timeout"
    await asyncio.sleep(0.2)  # it has gone since
    assert (await post(service, "actions", by, 424, actions=NAVIGATE))["code"] == "no_browser"


async def test_others_have_no_part_in_it(service: ModuleType, by: str) -> None:
    await poll(service, by, wait=0)
    other = by + "2"
    assert (await post(service, "actions", other, 424, actions=NAVIGATE))["code"] == "no_browser"
    asked = asyncio.create_task(post(service, "actions", by, actions=NAVIGATE))
    await asyncio.sleep(0.2)
    assert await poll(service, other, wait=0.3) is None
    job = await poll(service, by)
    for path, more in (("renew", {}), ("result", {"success": True, "data": {"html": "forged"}})):
        assert (await post(service, path, other, 409, **held(job), **more))["code"] == "lease_lost"
    await post(service, "result", by, **held(job), success=True, data={"html": "true"})
    assert (await asked)["data"]["html"] == "true"


async def full(nats: Nats, size: int) -> bool:
    """Whether somebody else can't put so many bytes into what all organizations share."""
    client = await connect(nats.address("chrome_extension"), inbox_prefix="_INBOX_chrome_extension")
    try:
        info = await client.jetstream(timeout=5).publish("$KV.chrome_extension.test.room", b"x" * size)
        return info.stream != "KV_chrome_extension"
    except APIError:
        return True
    finally:
        await client.close()


async def test_whoever_is_refused_leaves_nothing(nats: Nats, service: ModuleType, by: str) -> None:
    """Else anybody could fill the bucket, without a browser, and nobody's would work any more."""
    large = [{"type": "type", "selector": "a", "text": "x" * 100_000}] * 2
    await poll(service, by, wait=0)  # makes the bucket
    await ask(service, {"actions": large, "timeout": 1}, path="/actions", by=by)
    for _ in range(340):
        await post(service, "actions", by + "2", 424, actions=large)
    assert not await full(nats, 900_000)


async def test_an_organization_takes_a_part_of_the_bucket(nats: Nats, service: ModuleType, by: str) -> None:
    """By what nobody fetches any more: who asked has hung up."""
    await poll(service, by, wait=0)
    html, statuses = "x" * (7 << 20), []
    for _ in range(10):
        asked = asyncio.create_task(post(service, "actions", by, actions=NAVIGATE))
        job = await poll(service, by)
        service.__dict__["_withdraw"] = service.__dict__["_answer"] = never  # as a run does that was killed
        answer = await ask(service, {**held(job), "success": True, "data": {"html": html}}, path="/result", by=by)
        statuses.append(answer.status_code)
        asked.cancel()
    assert statuses[0] == 200
    assert statuses[-1] == 413
    assert not await full(nats, 900_000)


async def never(*_: Any, **__: Any) -> None:
    await asyncio.sleep(600)


async def test_only_so_many_browsers(service: ModuleType, by: str) -> None:
    vars(service)["MOST_BROWSERS"] = 2
    for session in (FIRST, SECOND, FIRST):
        assert await poll(service, by, session, wait=0) is None
    assert (await post(service, "poll", by, 429, session="browser-3", wait=0))["code"] == "too_many_runs"


async def test_only_so_many_wait(service: ModuleType, by: str) -> None:
    vars(service)["MOST_WAITING"] = 2
    await poll(service, by, wait=0)
    asked = [asyncio.create_task(post(service, "actions", by, 504, actions=NAVIGATE, timeout=2)) for _ in range(2)]
    await asyncio.sleep(0.5)
    answer = await ask(service, {"actions": NAVIGATE}, path="/actions", by=by)
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (429, "too_many_runs", "5")
    await asyncio.gather(*asked)


@pytest.mark.parametrize(
    ("action", "told"),
    [
        ({"type": "navigate"}, "navigate needs url"),
        ({"type": "navigate", "url": "file:///etc/passwd"}, "url"),
        ({"type": "navigate", "url": "javascript:1"}, "url"),
        ({"type": "click"}, "click needs selector"),
        ({"type": "type", "selector": "a"}, "type needs text"),
        ({"type": "wait"}, "wait needs ms or selector"),
        ({"type": "evaluate", "text": "1"}, "type"),
        ({"type": "click", "selector": "a", "force": True}, "force"),
    ],
)
async def test_what_is_no_action(service: ModuleType, by: str, action: dict[str, Any], told: str) -> None:
    refused = await post(service, "actions", by, 400, actions=[action])
    assert refused["code"] == "bad_request"
    assert told in refused["detail"]


async def test_a_poll_ends_in_time(service: ModuleType, by: str) -> None:
    began = time.monotonic()
    assert await poll(service, by, wait=0.5) is None
    assert 0.4 < time.monotonic() - began < 3
    assert (await post(service, "poll", by, 400, session=FIRST, wait=100))["code"] == "bad_request"
    assert (await post(service, "poll", by, 400, session="x", wait=1))["code"] == "bad_request"
