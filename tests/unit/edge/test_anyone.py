"""edge.anyone: who is let in without a key."""

import pytest

from edge.anyone import Anyone
from edge.http import Request
from edge.model import Access
from edge.run_model import Limits, Target
from kit.errors import Denied, NotFound, Unauthenticated


class FakeWorkflows:
    """What nobody in particular can see."""

    def __init__(self, **found: Target) -> None:
        self.found = found

    async def resolve(self, organization_id: str, reference: str) -> Target:
        assert organization_id == ""
        target = self.found.get(reference.partition("@")[0].replace(".", "_"))
        if target is None:
            raise NotFound("no")
        return target


def called(reference: str, *headers: tuple[str, str]) -> Request:
    return Request("POST", f"/run/{reference}", headers=list(headers), params={"service_id": reference})


ANYONE = Anyone(
    FakeWorkflows(
        a_open=Target("a", "open", "ver_1", "open"),
        a_busy=Target("a", "busy", "ver_1", "open", Limits(calls_per_second=500)),
        a_public=Target("a", "public", "ver_1", "public"),
    ),
    10,
)


async def test_an_open_workflow_is_called_on_its_owners_account() -> None:
    who = await ANYONE.principal(called("a.open@2", ("traceparent", "x")))
    assert who is not None
    assert (who.organization_id, who.caller_id, who.key_id, who.may_deploy) == ("", "a", "", False)
    assert (who.rates.per_second, who.lineage_id) == (10, "open:a.open")
    Access.CALL.check(who)
    who.check_run("a.open")
    who.check_run("a.open@3")
    with pytest.raises(Denied):
        who.check_run("a.busy")
    with pytest.raises(Denied):
        Access.FILES.check(who)


async def test_its_own_rate_goes_first() -> None:
    who = await ANYONE.principal(called("a.busy"))
    assert who is not None
    assert who.rates.per_second == 500


@pytest.mark.parametrize("reference", ["a.public", "a.private", "open", "a.op en", "", "." * 400])
async def test_all_else_needs_a_key(reference: str) -> None:
    assert await ANYONE.principal(called(reference)) is None


@pytest.mark.parametrize("name", ["idempotency-key", "x-callback-url", "run-as-template", "x-record", "x-budget"])
async def test_what_is_for_those_who_can_be_told_apart(name: str) -> None:
    with pytest.raises(Unauthenticated, match="needs an API key"):
        await ANYONE.principal(called("a.open", (name, "1")))
