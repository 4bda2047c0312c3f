"""Schedules made, listed, deleted; and what becomes of them with their workflow."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from kit.errors import Exhausted, Invalid, NotFound
from scheduler.billing import Billing
from scheduler.catalog import Catalog
from scheduler.plan import MOST_PAGE_BYTES, Plan, Wish
from scheduler.schedule import MOST_INPUT_BYTES
from scheduler.workflow import Version, Visibility, Workflow
from tests.fakes.scheduler_rig import Scheduler
from tests.fakes.scheduling import START, WORKFLOW, a_schedule

WISH = Wish("org_owner", "hello", "*/5 * * * *", "Europe/Berlin", b"{}", "key_1", Billing(paying_key_id="key_1"))


class Planning:
    def __init__(self, scheduler: Scheduler) -> None:
        self.store = scheduler.store
        self.catalog = Catalog(scheduler.store, scheduler.clock)
        self.changes: list[int] = []
        self.plan = Plan(scheduler.store, self.catalog, lambda: self.changes.append(1), scheduler.clock, most=3)

    async def listed(self, organization_id: str = "org_owner", limit: int = 100, after: str = "") -> list[str]:
        found, _ = await self.plan.page(organization_id, limit=limit, after=after)
        return [one.id for one in found]


@pytest.fixture
def planning(scheduler: Scheduler) -> Planning:
    return Planning(scheduler)


async def test_it_is_kept_and_fires_next_when_it_should(planning: Planning) -> None:
    made = await planning.plan.create(replace(WISH, cron_expression=" */5  * * * * "))
    assert planning.store.state.schedules == {made.id: made}
    assert made.billing == WISH.billing
    assert (made.cron_expression, made.timezone, made.workflow_id) == ("*/5 * * * *", "Europe/Berlin", WORKFLOW.id)
    assert made.next_fire_at == START + timedelta(minutes=5)
    assert planning.changes == [1]


@pytest.mark.parametrize(
    ("change", "error", "why"),
    [
        ({"cron_expression": "* * * * * *"}, Invalid, "6 fields"),
        ({"cron_expression": "0 0 */31 2 MON#5"}, Invalid, "never comes true"),
        ({"timezone": "Mars"}, Invalid, "IANA"),
        ({"organization_id": ""}, Invalid, "organization"),
        ({"input": b" " * (MOST_INPUT_BYTES + 1)}, Invalid, "/file"),
        ({"reference": "nothing"}, NotFound, "no such workflow"),
        ({"reference": "../hello"}, NotFound, "no such workflow"),
        ({"reference": "hello@7"}, NotFound, "has no version 7"),
        ({"organization_id": "org_caller"}, NotFound, "no such workflow"),
        ({"organization_id": "org_caller", "reference": "org_owner.hello"}, NotFound, "no such workflow"),
    ],
)
async def test_what_is_refused_leaves_nothing(
    planning: Planning, change: dict[str, Any], error: type[Exception], why: str
) -> None:
    with pytest.raises(error, match=why):
        await planning.plan.create(replace(WISH, **change))
    assert planning.store.state.schedules == {}
    assert planning.changes == []


async def test_an_input_at_its_limit(planning: Planning) -> None:
    await planning.plan.create(replace(WISH, input=b" " * MOST_INPUT_BYTES))


async def test_somebody_elses_public_workflow(planning: Planning) -> None:
    planning.store.state.workflows[WORKFLOW.id] = replace(WORKFLOW, visibility=Visibility.PUBLIC)
    made = await planning.plan.create(replace(WISH, organization_id="org_caller", reference="org_owner.hello@1"))
    assert (made.organization_id, made.reference) == ("org_caller", "org_owner.hello@1")


async def test_an_organization_has_so_many(planning: Planning) -> None:
    for _ in range(3):
        await planning.plan.create(WISH)
    with pytest.raises(Exhausted, match="at most 3"):
        await planning.plan.create(WISH)
    planning.store.state.workflows[WORKFLOW.id] = replace(WORKFLOW, visibility=Visibility.PUBLIC)
    await planning.plan.create(replace(WISH, organization_id="org_other", reference="org_owner.hello"))
    await planning.plan.delete("org_owner", (await planning.listed())[0])
    await planning.plan.create(WISH)


async def test_pages(planning: Planning) -> None:
    made = [(await planning.plan.create(WISH)).id for _ in range(3)]
    found, after = await planning.plan.page("org_owner", limit=2, after="")
    assert ([one.id for one in found], after) == (sorted(made)[:2], sorted(made)[1])
    found, after = await planning.plan.page("org_owner", limit=2, after=after)
    assert ([one.id for one in found], after) == (sorted(made)[2:], "")
    assert await planning.listed("org_other") == []
    assert (await planning.plan.page("org_owner", limit=3, after=""))[1] == ""


async def test_large_inputs_make_pages_short_and_nothing_is_missed(planning: Planning) -> None:
    """A page travels as one message."""
    whole = b" " * MOST_INPUT_BYTES
    many = [a_schedule(input=whole, id=f"sch_{number:03}") for number in range(150)]
    planning.store.state.schedules.update({one.id: one for one in many})
    found, after = await planning.plan.page("org_owner", limit=1000, after="")
    assert len(found) == MOST_PAGE_BYTES // MOST_INPUT_BYTES
    seen = [one.id for one in found]
    while after:
        found, after = await planning.plan.page("org_owner", limit=1000, after=after)
        seen += [one.id for one in found]
    assert seen == sorted(one.id for one in many)


async def test_nobody_elses_is_deleted(planning: Planning) -> None:
    made = await planning.plan.create(WISH)
    for organization, schedule_id in [("org_caller", made.id), ("org_owner", "sch_nothing"), ("", made.id)]:
        with pytest.raises(NotFound):
            await planning.plan.delete(organization, schedule_id)
    await planning.plan.delete("org_owner", made.id)
    with pytest.raises(NotFound):
        await planning.plan.delete("org_owner", made.id)


async def test_a_deleted_workflow_takes_its_owners_schedules_along(planning: Planning) -> None:
    """A later workflow of this name isn't what they were made for. Somebody else's are told at their next time."""
    planning.store.state.workflows[WORKFLOW.id] = replace(WORKFLOW, visibility=Visibility.PUBLIC)
    await planning.plan.create(WISH)
    await planning.plan.create(replace(WISH, reference="org_owner.hello@1"))
    theirs = await planning.plan.create(replace(WISH, organization_id="org_caller", reference="org_owner.hello"))
    await planning.catalog.delete("org_owner", "hello")
    assert list(planning.store.state.schedules) == [theirs.id]


async def test_none_is_made_for_a_workflow_that_is_deleted_meanwhile(planning: Planning) -> None:
    class Slow(Catalog):
        async def resolve(self, organization_id: str, text: str) -> tuple[Workflow, Version]:
            found = await super().resolve(organization_id, text)
            await self.delete("org_owner", "hello")
            return found

    slow = Slow(planning.store, planning.catalog._clock)
    plan = Plan(planning.store, slow, lambda: None, planning.catalog._clock, most=3)
    with pytest.raises(NotFound):
        await plan.create(WISH)
    assert planning.store.state.schedules == {}
