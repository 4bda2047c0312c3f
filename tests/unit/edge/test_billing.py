"""Who pays, what a run may cost, what a key is bound to: as it goes into a run's spec, or why there is no run."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from edge.billing import MOST_BUDGETS
from edge.calls import Call, Calls
from edge.direct import Direct
from edge.durable import Durable
from edge.http import Request
from edge.model import SYSTEM, Binding, Budget, Principal
from edge.patience import Errands
from edge.reading import Reading
from edge.run_model import INLINE_BYTES, AnswerHead, BodyComplete, Outcome, Status, Target
from kit.clock import FakeClock
from kit.errors import Denied, Exhausted, Invalid
from tests.fakes.edge_runs import (
    CALLER,
    KEY,
    NOW,
    ONE_TIME,
    OWNER,
    TARGET,
    FakeExecutor,
    FakeRuns,
    FakeWorkflows,
    MemoryBlobs,
    a_request,
    nested,
)
from tests.fakes.permits import UNLIMITED

BUDGET = Budget("key:key_0", 50)
ABOVE = (BUDGET, Budget("run:run_0", 9))
SHA = hashlib.sha256(b"input").hexdigest()
LIBRARY, OWN = Target(SYSTEM, "greet", "ver_1", "public"), Target(CALLER, "greet", "ver_1")


async def read(request: Request, target: Target = TARGET, *, synchronous: bool = True) -> Call:
    return await Calls(FakeWorkflows(greet=target), UNLIMITED, FakeClock(NOW)).read(request, synchronous=synchronous)


async def test_a_key_pays_and_its_budget_counts() -> None:
    spec = (await read(a_request())).spec
    assert (spec.budgets, spec.paying_key_id, spec.charged_on_success, spec.above) == ((), "key_1", False, ())
    spec = (await read(a_request(who=replace(KEY, budget=BUDGET)))).spec
    assert (spec.budgets, spec.paying_key_id) == ((BUDGET,), "key_1")


async def test_a_nested_call_inherits_all_of_it() -> None:
    who = nested(budgets=ABOVE, paying_key_id="key_0", charged_on_success=True, above=("run_0", "run_1"))
    spec = (await read(a_request(who=who))).spec
    assert spec.above == ("run_0", "run_1")
    assert (spec.budgets, spec.paying_key_id, spec.charged_on_success) == (ABOVE, "key_0", True)
    assert spec.key_id == ""


@pytest.mark.parametrize("text", ["-1", "+1", "1.0", "1e3", "a", "", "0x1", str(2**53), "1" * 17, "¹", "1 2"])
async def test_what_is_no_budget(text: str) -> None:
    with pytest.raises(Invalid, match="X-Budget"):
        await read(a_request(headers={"x-budget": text}))


async def test_two_budgets_are_none() -> None:
    request = a_request(headers={"x-budget": "5"})
    request.headers.append(("x-budget", "6"))
    with pytest.raises(Invalid, match="more than once"):
        await read(request)


async def test_a_budget_of_nothing_pays_for_nothing() -> None:
    with pytest.raises(Exhausted) as refused:
        await read(a_request(headers={"x-budget": "0"}))
    assert refused.value.code == "payment_required"


async def test_there_is_an_end_to_budgets() -> None:
    budgets = tuple(Budget(f"run:{n}", 1) for n in range(MOST_BUDGETS - 1))
    request = a_request(who=nested(budgets=budgets), headers={"x-budget": "5"})
    assert (await read(request)).budget == 5
    full = nested(budgets=(*budgets, BUDGET))
    assert (await read(a_request(who=full))).budget is None
    with pytest.raises(Invalid, match="at most 17"):
        await read(a_request(who=full, headers={"x-budget": "5"}))


class Mesh:
    def __init__(self, errands: Errands) -> None:
        self.clock, self.runs, self.blobs = FakeClock(NOW), FakeRuns(), MemoryBlobs()
        head = AnswerHead(200, (("content-length", "0"),))
        self.executor = FakeExecutor(head, BodyComplete(), Outcome(Status.SUCCEEDED))
        self.direct = Direct(self.executor, self.clock, errands, "http://public.test")
        reading = Reading(self.runs, self.clock)
        self.durable = Durable(self.runs, reading, self.executor, self.blobs, self.clock, errands, "http://public.test")

    async def submit(self, who: Principal, *body: bytes, target: Target = TARGET, path: str = "/", **more: Any) -> None:
        call = await read(a_request(path, *body, who=who, **more), target)
        assert call.durable
        await self.durable.submit(call)


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    async with Errands(grace=5) as errands:
        yield Mesh(errands)


async def test_a_runs_own_budget_is_added(mesh: Mesh) -> None:
    who = nested(budgets=ABOVE)
    await mesh.direct.run(await read(a_request(who=who, headers={"x-budget": "5", "content-length": "0"})))
    (spec,) = mesh.executor.specs
    assert spec.budgets == (*ABOVE, Budget(f"run:{spec.run_id}", 5))


async def test_on_the_durable_way_each_has_a_name_of_its_own(mesh: Mesh) -> None:
    for _ in range(2):
        headers = {"x-budget": "5", "x-on-timeout": "continue"}
        await mesh.submit(replace(KEY, budget=BUDGET), headers=headers)
    (key, first), (_, second) = (one.spec.budgets for one in mesh.runs.submissions)
    assert key == BUDGET
    assert first.limit == second.limit == 5
    assert first.id.startswith("run:bud_")
    assert first.id != second.id


async def test_without_credit_nothing_is_begun() -> None:
    for who in (replace(KEY, credit=0), replace(KEY, credit=-1)):
        for synchronous in (True, False):
            with pytest.raises(Exhausted, match="POST /credits") as refused:
                await read(a_request(who=who), synchronous=synchronous)
            assert refused.value.code == "payment_required"
    for credit in (1, None):
        await read(a_request(who=replace(KEY, credit=credit)))


async def test_a_spent_budget_is_the_executors_to_judge_where_it_is_asked_at_once() -> None:
    """What it has drawn and doesn't need any more can be spent there, though it is counted as used."""
    spent = replace(KEY, credit=100, budget=BUDGET, budget_left=0)
    await read(a_request(who=spent))
    with pytest.raises(Exhausted, match="budget of this key") as refused:
        await read(a_request(who=spent), synchronous=False)
    assert refused.value.code == "payment_required"
    await read(a_request(who=replace(spent, budget_left=1)), synchronous=False)


async def test_what_was_asked_for_before_is_answered_without_credit() -> None:
    poor = replace(KEY, credit=0, budget_left=0)
    assert (await read(a_request(who=poor, headers={"idempotency-key": "a"}))).idempotency_key == "a"


def bound(**bind: str) -> Principal:
    return replace(ONE_TIME, bind=Binding(**bind))


@pytest.mark.parametrize(
    ("service", "target"),
    [
        *(("greet", OWN), (f"{CALLER}.greet", OWN), (f"{OWNER}.greet", TARGET)),
        *(("greet", LIBRARY), (f"{SYSTEM}.greet", LIBRARY)),
    ],
)
async def test_a_bound_key_calls_its_service(mesh: Mesh, service: str, target: Target) -> None:
    await mesh.submit(bound(service_id=service), target=target)


@pytest.mark.parametrize(
    ("service", "target"),
    [
        *(("other", OWN), ("greet", TARGET), (f"{OWNER}.greet", OWN)),
        *((f"{CALLER}.greet", LIBRARY), (f"{OWNER}.other", TARGET)),
    ],
)
async def test_a_bound_key_calls_no_other(mesh: Mesh, service: str, target: Target) -> None:
    with pytest.raises(Denied, match="bound to the service"):
        await mesh.submit(bound(service_id=service), target=target)
    assert mesh.runs.submissions == []


async def test_a_bound_key_takes_its_path_only(mesh: Mesh) -> None:
    for path in ("/", "/a", "/a%2Fb/", "/a/b/x", "/A%2fb"):
        with pytest.raises(Denied, match="bound to the path"):
            await mesh.submit(bound(path="/a%2Fb"), path=path)
    assert mesh.runs.submissions == []
    await mesh.submit(bound(path="/a%2Fb"), path="/a%2Fb", query="free=1")


async def test_another_body_is_refused_and_the_key_not_spent(mesh: Mesh) -> None:
    who = bound(body_sha256=SHA)
    for body in ((), (b"inpu",), (b"input", b"\n"), (b"Input",)):
        with pytest.raises(Denied, match="SHA-256"):
            await mesh.submit(who, *body)
    assert mesh.runs.submissions == []
    assert mesh.runs.spent == set()
    await mesh.submit(who, b"in", b"put")
    assert mesh.runs.spent == {ONE_TIME.key_id}
    assert mesh.runs.submissions[0].body == b"input"


async def test_a_large_body_is_judged_before_it_is_kept(mesh: Mesh) -> None:
    large = b"x" * (INLINE_BYTES + 1)
    who = bound(body_sha256=hashlib.sha256(large).hexdigest())
    with pytest.raises(Denied):
        await mesh.submit(who, large, b"y")
    assert mesh.blobs.content == {}
    assert mesh.runs.submissions == []
    await mesh.submit(who, large)
    assert list(mesh.blobs.content.values()) == [large]


async def test_an_empty_body_can_be_bound(mesh: Mesh) -> None:
    await mesh.submit(bound(body_sha256=hashlib.sha256(b"").hexdigest()))


async def test_a_bound_key_is_spent_once_whoever_races(mesh: Mesh) -> None:
    who = bound(body_sha256=SHA)
    tries = (mesh.submit(who, body) for body in [b"input", b"other"] * 10)
    found = await asyncio.gather(*tries, return_exceptions=True)
    assert [type(one).__name__ for one in found].count("NoneType") == 1
    assert [type(one).__name__ for one in found].count("Denied") == 10
