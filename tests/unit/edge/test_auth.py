"""edge.auth: what is asked of keys, how often, and when open calls end."""

import asyncio
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from edge.auth import BROKE_SECONDS, FRESH_SECONDS, LIMIT, REFUSED_SECONDS, SWEEP_SECONDS, Auth, key_of, without_key
from edge.http import Request
from edge.model import SYSTEM, Access, Principal, RunIdentity
from kit.clock import FakeClock
from kit.errors import Denied, Unauthenticated, Unavailable
from tests.fakes.anyone import Nobody

NOW = datetime(2030, 1, 1, tzinfo=UTC)
RUN = RunIdentity("run_1", "run_1", "org_a", "org_c", 1, "", "", NOW)


def principal(key: str = "cwk-a") -> Principal:
    return Principal(f"id of {key}", "org_1", "standard", frozenset({"run"}))


@dataclass
class FakeKeys:
    valid: set[str] = field(default_factory=lambda: {"cwk-a"})
    asked: list[str] = field(default_factory=list)
    answering: asyncio.Event | None = None
    broken: Exception | None = None
    left: dict[str, Any] = field(default_factory=dict)

    async def verify(self, key: str) -> Principal:
        self.asked.append(key)
        valid = key in self.valid
        if self.answering:
            await self.answering.wait()
        if self.broken:
            raise self.broken
        if not valid:
            raise Unauthenticated("no")
        return replace(principal(key), **self.left)


class World:
    def __init__(self) -> None:
        self.keys = FakeKeys()
        self.clock = FakeClock(NOW)
        self.auth = Auth(
            self.keys,
            lambda _: None,
            Nobody(),
            clock=self.clock,
            now=lambda: (self.clock.now() - NOW).total_seconds() + 100,
        )


@pytest.fixture
def world() -> World:
    return World()


async def asked(world: World) -> None:
    """Until keys has been asked."""
    for _ in range(100):
        if world.keys.asked:
            return
        await asyncio.sleep(0)
    raise AssertionError


def bearing(key: str) -> Request:
    return Request("GET", "/", headers=[("authorization", key)], principal=principal(key))


async def test_an_answer_is_fresh_for_a_while(world: World) -> None:
    for _ in range(3):
        assert await world.auth.principal("cwk-a") == principal()
    assert world.keys.asked == ["cwk-a"]
    await world.clock.advance(FRESH_SECONDS)
    await world.auth.principal("cwk-a")
    assert len(world.keys.asked) == 2


@pytest.mark.parametrize("left", [{"credit": 0}, {"credit": -1}, {"credit": 5, "budget_left": 0}])
async def test_who_cant_pay_is_asked_of_again_almost_at_once(world: World, left: dict[str, int]) -> None:
    """Credits that were granted are there for the next call."""
    world.keys.left = left
    await world.auth.principal("cwk-a")
    await world.auth.principal("cwk-a")
    await world.clock.advance(2 * BROKE_SECONDS)
    world.keys.left = {"credit": 5, "budget_left": 5}
    for _ in range(2):
        assert (await world.auth.principal("cwk-a")).credit == 5
        await world.clock.advance(BROKE_SECONDS)
    assert len(world.keys.asked) == 2


async def test_a_refusal_is_fresh_for_less(world: World) -> None:
    for _ in range(3):
        with pytest.raises(Unauthenticated):
            await world.auth.principal("cwk-b")
    assert world.keys.asked == ["cwk-b"]
    world.keys.valid.add("cwk-b")
    await world.clock.advance(REFUSED_SECONDS)
    assert await world.auth.principal("cwk-b") == principal("cwk-b")


async def test_freshness_counts_from_the_question(world: World) -> None:
    world.keys.answering = asyncio.Event()
    asking = asyncio.create_task(world.auth.principal("cwk-a"))
    await asked(world)
    await world.clock.advance(FRESH_SECONDS)
    world.keys.answering.set()
    await asking
    await world.auth.principal("cwk-a")
    assert len(world.keys.asked) == 2


async def test_many_at_once_ask_once_and_one_who_leaves_spoils_nothing(world: World) -> None:
    world.keys.answering = asyncio.Event()
    asking = [asyncio.create_task(world.auth.principal("cwk-a")) for _ in range(5)]
    await asyncio.sleep(0)
    asking[0].cancel()
    await asyncio.sleep(0)
    world.keys.answering.set()
    assert await asyncio.gather(*asking[1:]) == [principal()] * 4
    assert world.keys.asked == ["cwk-a"]


@pytest.mark.parametrize("broken", [Unavailable("down"), RuntimeError("a bug")])
async def test_trouble_is_not_remembered(world: World, broken: Exception) -> None:
    world.keys.broken = broken
    with pytest.raises(Unavailable):
        await world.auth.principal("cwk-a")
    world.keys.broken = None
    assert await world.auth.principal("cwk-a") == principal()


async def test_memory_is_bounded(world: World) -> None:
    world.keys.valid = {f"cwk-{number}" for number in range(LIMIT + 5)}
    for key in sorted(world.keys.valid):
        await world.auth.principal(key)
    for number in range(LIMIT):
        with pytest.raises(Unauthenticated):
            await world.auth.principal(f"cwk-no-{number}")
    assert len(world.auth._known) == LIMIT
    assert len(world.auth._refused) == LIMIT // 10


async def test_an_event_forgets_the_key(world: World) -> None:
    await world.auth.principal("cwk-a")
    world.keys.valid.clear()
    await world.auth.revoked(principal().key_id)
    with pytest.raises(Unauthenticated):
        await world.auth.principal("cwk-a")


async def test_an_answer_that_an_event_overtook_is_not_remembered(world: World) -> None:
    world.keys.answering = asyncio.Event()
    asking = asyncio.create_task(world.auth.principal("cwk-a"))
    await asked(world)
    await world.clock.advance(0.1)
    world.keys.valid.clear()
    await world.auth.revoked(principal().key_id)
    world.keys.answering.set()
    await asking
    with pytest.raises(Unauthenticated):
        await world.auth.principal("cwk-a")


async def test_open_calls_end_within_a_second_without_any_event(world: World) -> None:
    ended: list[str] = []
    sweeping = asyncio.create_task(world.auth.sweep())
    world.keys.valid.add("cwk-b")
    for key in ("cwk-a", "cwk-b"):
        await world.auth.principal(key)
    with (
        world.auth.watching(bearing("cwk-a"), lambda: ended.append("a")),
        world.auth.watching(bearing("cwk-a"), lambda: ended.append("a too")),
        world.auth.watching(bearing("cwk-b"), lambda: ended.append("b")),
    ):
        world.keys.valid.remove("cwk-a")
        for _ in range(round(0.7 / SWEEP_SECONDS)):
            await world.clock.advance(SWEEP_SECONDS)
        assert sorted(set(ended)) == ["a", "a too"]
    assert world.auth._open == {}
    sweeping.cancel()


async def test_open_calls_survive_a_keys_service_that_is_away(world: World) -> None:
    ended: list[str] = []
    sweeping = asyncio.create_task(world.auth.sweep())
    await world.auth.principal("cwk-a")
    world.keys.broken = Unavailable("restarting")
    with world.auth.watching(bearing("cwk-a"), lambda: ended.append("a")):
        for _ in range(30):
            await world.clock.advance(SWEEP_SECONDS)
    assert ended == []
    sweeping.cancel()


async def test_an_event_ends_open_calls_at_once(world: World) -> None:
    ended = asyncio.Event()
    await world.auth.principal("cwk-a")
    with world.auth.watching(bearing("cwk-a"), ended.set):
        world.keys.valid.clear()
        await world.auth.revoked(principal().key_id)
        await asyncio.wait_for(ended.wait(), 1)


async def test_admission(world: World) -> None:
    request = bearing("cwk-a")
    assert await world.auth.admit(Request("GET", "/"), Access.OPEN, None) is None
    assert await world.auth.admit(request, Access.START, None) == principal()
    with pytest.raises(Denied):
        await world.auth.admit(request, Access.ADMIN, None)
    with pytest.raises(Unauthenticated):
        await world.auth.admit(Request("GET", "/"), Access.START, None)


async def test_a_run_acts_as_the_organization_of_its_secrets(world: World) -> None:
    who = await world.auth.admit(Request("GET", "/"), Access.START, RUN)
    assert who is not None
    assert (who.kind, who.organization_id, who.caller_id) == ("run", "org_a", "org_c")
    assert who.scopes == {"run", "files"}
    assert world.keys.asked == []
    with pytest.raises(Denied):
        await world.auth.admit(Request("GET", "/"), Access.DEPLOY, RUN)


LIBRARY = replace(RUN, acting_id=SYSTEM, owner_id=SYSTEM, requester_id="org_r", service_id="schedule_runs")


async def test_a_library_service_acts_as_who_asked_for_it(world: World) -> None:
    """Not as who pays: somebody else's workflow, which asked, mustn't act for its caller through it."""
    who = await world.auth.admit(Request("GET", "/"), Access.START, LIBRARY)
    assert who is not None
    assert (who.organization_id, who.caller_id) == ("org_r", "org_c")
    assert who.scopes == {"run", "files"}
    with pytest.raises(Denied):
        await world.auth.admit(Request("GET", "/"), Access.SCHEDULE, LIBRARY)


async def test_schedule_runs_makes_schedules_where_the_key_could_and_no_more_than_that(world: World) -> None:
    run = replace(LIBRARY, may_deploy=True)
    who = await world.auth.admit(Request("GET", "/"), Access.SCHEDULE, run)
    assert who is not None
    assert who.scopes == {"run", "files", "schedules"}
    for access in (Access.DEPLOY, Access.ADMIN, Access.FIRST_ADMIN):
        with pytest.raises(Denied):
            await world.auth.admit(Request("GET", "/"), access, run)


@pytest.mark.parametrize(
    "change",
    [
        {"owner_id": "org_a"},
        {"owner_id": "org_a", "acting_id": SYSTEM},
        {"owner_id": ""},
        {"service_id": "openai"},
        {"service_id": ""},
        {"may_deploy": False},
    ],
)
async def test_no_other_run_makes_schedules(world: World, change: dict[str, Any]) -> None:
    run = replace(LIBRARY, **{"may_deploy": True, **change})
    with pytest.raises(Denied):
        await world.auth.admit(Request("GET", "/"), Access.SCHEDULE, run)


async def test_devx_mcp_may_deploy_where_the_key_that_called_it_could(world: World) -> None:
    """Not where a workflow calls it, be it the organization's own."""
    run = replace(LIBRARY, service_id="devx_mcp", may_deploy=True, depth=0)
    who = await world.auth.admit(Request("GET", "/"), Access.DEPLOY, run)
    assert who is not None
    assert who.organization_id == "org_r"
    assert who.scopes == {"run", "files", "deploy"}
    changes: list[dict[str, Any]] = [
        {"depth": 1},
        {"may_deploy": False},
        {"owner_id": "org_r"},
        {"service_id": "openai"},
    ]
    for change in changes:
        with pytest.raises(Denied):
            await world.auth.admit(Request("GET", "/"), Access.DEPLOY, replace(run, **change))
    for access in (Access.ADMIN, Access.FIRST_ADMIN):
        with pytest.raises(Denied):
            await world.auth.admit(Request("GET", "/"), access, run)


@pytest.mark.parametrize(
    ("scopes", "kind", "admitted"),
    [
        ({"deploy"}, "standard", True),
        ({"run", "files", "admin"}, "standard", False),
        ({"run", "deploy"}, "one_time", False),
    ],
)
def test_which_keys_make_schedules(scopes: set[str], kind: str, admitted: bool) -> None:
    key = Principal("key_1", "org_1", kind, frozenset(scopes))
    assert key.may_deploy is admitted
    if admitted:
        Access.SCHEDULE.check(key)
    else:
        with pytest.raises(Denied):
            Access.SCHEDULE.check(key)


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([("authorization", "cwk-a")], "cwk-a"),
        ([("authorization", "BEARER   cwotk-a")], "cwotk-a"),
        ([("authorization", ""), ("x-api-key", "cwk-b")], "cwk-b"),
        ([("x-goog-api-key", " cwk-c ")], "cwk-c"),
    ],
)
def test_where_a_key_is_found(headers: list[tuple[str, str]], key: str) -> None:
    assert key_of(Request("GET", "/", headers=headers)) == key


@pytest.mark.parametrize("value", ["", "Bearer ", "sk-a", "cwk-run-a", "Basic cwk-a", "cwk-é", "cwk-" + "a" * 300])
def test_what_is_no_key(value: str) -> None:
    with pytest.raises(Unauthenticated):
        key_of(Request("GET", "/", headers=[("authorization", value)]))


def test_a_key_goes_no_further_where_it_doesnt_belong() -> None:
    """Another one may be an input as good as any."""
    bearer = ("authorization", "Bearer cwk-abc")
    headers = [bearer, ("cookie", "a=cwk-abc; b=2"), ("x-other", "cwk-xyz"), ("x-other", "cwk-abc")]
    request = without_key(Request("GET", "/run/x", "key=cwk-abc&more=cwk-xyz", headers=headers))
    assert request.query == "key=cwk-***&more=cwk-xyz"
    assert request.headers == [bearer, ("cookie", "a=cwk-***; b=2"), ("x-other", "cwk-xyz"), ("x-other", "cwk-***")]
    assert key_of(request) == "cwk-abc"
    plain = Request("GET", "/run/x", "a=1", headers=[bearer])
    assert without_key(plain) is plain
