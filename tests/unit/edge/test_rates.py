"""Which buckets a call takes from, and what its caller is told."""

from contextlib import ExitStack
from dataclasses import replace
from datetime import timedelta

import pytest

from edge.http import Request
from edge.model import Principal, Rates
from edge.permits import Stocks
from edge.rates import Defaults, RateLimits
from edge.run_model import Limits, Target
from kit.errors import Exhausted, Unavailable
from tests.fakes.edge_runs import a_request, nested
from tests.fakes.permits import FakePermits

WHO = Principal("key_1", "org_1", "standard", frozenset({"run"}))


class Limited:
    """A key of 5 calls a second, 3 a minute under /api/v1."""

    def __init__(self) -> None:
        self.keys = FakePermits()
        self.now = 100.0
        self.rates = RateLimits(Stocks(self.keys, lambda: self.now), Defaults(5, 3))

    async def call(self, path: str = "/run/greet", who: Principal | None = WHO) -> Request:
        request = Request("POST", path, principal=who)
        await self.rates.admit(request)
        return request


def of_api(request: Request) -> dict[str, str]:
    return {name.removeprefix("x-ratelimit-"): value for name, value in request.told}


async def test_calls_are_counted_by_key_and_kind() -> None:
    it = Limited()
    for _ in range(5):
        assert (await it.call()).told == []
    for _ in range(3):
        await it.call("/api/v1/run/greet")
    for path, often in (("/run/greet", "5 times a second"), ("/api/v1/run/greet", "3 times a minute under /api/v1")):
        with pytest.raises(Exhausted, match=f"this key may call {often}; try again in ") as refused:
            await it.call(path)
        assert refused.value.code == "rate_limited"
        assert refused.value.retry_after in {timedelta(seconds=1), timedelta(seconds=20)}
    await it.call(who=replace(WHO, key_id="key_2"))
    assert it.keys.taken == {"key:key_1": 5, "key:key_1:api": 3, "key:key_2": 1}


async def test_a_rotated_key_and_its_successor_count_together() -> None:
    it = Limited()
    keys = [replace(WHO, key_id=f"key_{number}", lineage_id="key:key_1") for number in (1, 2)]
    for _ in range(5):
        await it.call(who=keys[0])
    with pytest.raises(Exhausted, match="this key may call 5 times a second"):
        await it.call(who=keys[1])
    assert it.keys.taken == {"key:key_1": 5}


async def test_the_keys_own_limits_count_before_the_settings() -> None:
    it = Limited()
    who = replace(WHO, rates=Rates(per_second=1, api_per_minute=2))
    await it.call(who=who)
    with pytest.raises(Exhausted, match="1 times a second"):
        await it.call(who=who)
    assert of_api(await it.call("/api/v1/run/greet", who)) == {"limit": "2", "remaining": "1", "reset": "30"}


async def test_an_organizations_limit_is_for_all_of_its_keys() -> None:
    it = Limited()
    rates = Rates(organization_per_second=2, organization_api_per_minute=1)
    keys = [replace(WHO, key_id=f"key_{number}", rates=rates) for number in range(3)]
    for who in keys[:2]:
        await it.call(who=who)
    with pytest.raises(Exhausted, match="this key's organization may call 2 times a second"):
        await it.call(who=keys[2])
    told = of_api(await it.call("/api/v1/run/greet", keys[0]))
    assert told == {"limit": "1", "remaining": "0", "reset": "60"}  # of the one that has less


async def test_a_limit_of_nothing_lets_nothing_in() -> None:
    it = Limited()
    with pytest.raises(Exhausted):
        await it.call(who=replace(WHO, rates=Rates(per_second=0)))
    assert it.keys.asked == []


async def test_what_needs_no_key_and_what_runs_call_is_not_counted() -> None:
    it = Limited()
    for _ in range(10):
        await it.call(who=None)
        await it.call(who=nested())
    assert it.keys.asked == []


async def test_answers_under_api_v1_tell_what_is_left() -> None:
    it = Limited()
    told = [of_api(await it.call("/api/v1/run/greet")) for _ in range(3)]
    assert told == [{"limit": "3", "remaining": str(left), "reset": str(20 * (3 - left))} for left in (2, 1, 0)]
    request = Request("POST", "/api/v1/run/greet", principal=WHO)
    it.now += 5.5
    with pytest.raises(Exhausted) as refused:
        await it.rates.admit(request)
    assert of_api(request) == {"limit": "3", "remaining": "0", "reset": "55"}
    assert refused.value.retry_after == timedelta(seconds=15)


async def test_a_workflows_limit_is_for_all_of_its_callers() -> None:
    it = Limited()
    target = Target("org_9", "greet", "ver_1", limits=Limits(calls_per_second=2, api_calls_per_minute=1))
    await it.rates.called(a_request(), target)
    await it.rates.called(a_request(who=nested()), target)
    for request in (a_request(), a_request(who=nested())):
        with pytest.raises(Exhausted, match=r"the workflow org_9\.greet may be called 2 times a second"):
            await it.rates.called(request, target)
    request = await it.call("/api/v1/run/greet")
    await it.rates.called(request, target)
    assert of_api(request) == {"limit": "1", "remaining": "0", "reset": "60"}
    assert it.keys.taken["service:org_9.greet:api"] == 1
    await it.rates.called(a_request(), replace(target, limits=Limits()))


async def test_keys_that_does_not_answer_is_told() -> None:
    it = Limited()
    it.keys.away = Unavailable("keys is away")
    with pytest.raises(Unavailable):
        await it.call()
    with pytest.raises(Unavailable):
        await it.call("/api/v1/run/greet")


async def test_what_is_expected_is_asked_for_beside_verify() -> None:
    it = Limited()
    it.rates = RateLimits(Stocks(it.keys, lambda: it.now), Defaults(1000, 100))
    it.rates.expect(a_request(), WHO)
    await it.call()
    assert it.keys.asked == [{"key:key_1": 10}]


def test_those_without_a_key_leave_room_for_those_with_one() -> None:
    rates = RateLimits(Stocks(FakePermits()), Defaults(5, 3, open_at_once=4))

    def call(name: str) -> Request:
        anyone = Principal("", "", "open", frozenset({f"run:{name}"}), lineage_id=f"open:{name}")
        return Request("POST", f"/run/{name}", principal=anyone)

    def refused(name: str) -> bool:
        with pytest.raises(Exhausted, match="calls without a key are under way") as error, rates.place(call(name)):
            pass
        return error.value.code == "too_many_runs"

    with ExitStack() as under_way:
        first = [rates.place(call("org_a.form")) for _ in range(2)]
        for place in first:
            under_way.enter_context(place)
        assert refused("org_a.form")
        for _ in range(2):
            under_way.enter_context(rates.place(call("org_b.form")))
        assert refused("org_c.form")
        for _ in range(10):
            under_way.enter_context(rates.place(Request("POST", "/run/greet", principal=WHO)))
            under_way.enter_context(rates.place(Request("GET", "/docs")))
    with pytest.raises(ZeroDivisionError), rates.place(call("org_c.form")):
        _ = 1 / 0
    for _ in range(4):
        with rates.place(call("org_c.form")), rates.place(call("org_c.form")):
            pass
