"""Which record is sent when, and to whom it is told."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from mesh.runs.v1 import deliveries_pb2

from kit.errors import Invalid, NotFound
from scheduler import delivery_wire as wire
from scheduler.deliver import Deliver
from scheduler.delivery import LEASE, RETRIES, Delivery, Settlement, State, Verdict, check_url, host_of
from scheduler.model import CANCELLED, Asker, Run
from scheduler.settings import delays
from scheduler.settle import settle
from tests.fakes.scheduler_rig import Scheduler
from tests.fakes.scheduling import START, a_run, a_submission

URL = "https://a.example/hook?token=1"
ME = Asker("org_caller")


class Mesh(Scheduler):
    """With a use case for each of two schedulers, on one store."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.one, self.two = (Deliver(self.store, self.watch.get, RETRIES, self.clock) for _ in range(2))

    async def over(self, **changes: Any) -> Run:
        """A run that asked for its record, and is over."""
        run = a_run(**{"callback_url": URL, **changes})
        await self.accepted(run)
        await self.store.write(lambda tx: settle(tx, [run.id], CANCELLED, self.clock.now()))
        return self.run(run.id)

    async def claim(self, who: Deliver | None = None, limit: int = 10) -> list[Delivery]:
        return await (who or self.one).claim(limit=limit, without_hosts=(), without_organizations=())

    async def of(self, run: Run, asker: Asker = ME) -> Delivery:
        (found,) = await self.one.of(asker, run.id)
        return found

    async def said(self, claimed: Delivery, verdict: Verdict, status: int = 0, error: str = "") -> bool:
        return await self.one.settle(Settlement(claimed.id, claimed.attempts, verdict, status, error))


async def test_the_address_travels_from_submit_to_the_end() -> None:
    mesh = Mesh()
    run, _ = await mesh.submit(a_submission(callback_url=URL))
    await mesh.store.write(lambda tx: settle(tx, [run.id], CANCELLED, START))
    assert (await mesh.of(run)).url == URL


async def test_every_failure_waits_longer_and_the_last_one_is_the_end() -> None:
    mesh = Mesh()
    run = await mesh.over()
    waits = []
    for attempt in range(1, 8):
        (claimed,) = await mesh.claim()
        assert claimed.attempts == attempt
        await mesh.said(claimed, Verdict.FAILED, 500, "it answered 500")
        found = await mesh.of(run)
        assert (found.last_status, found.last_error) == (500, "it answered 500")
        if found.next_attempt_at is not None:
            waits.append((found.next_attempt_at - mesh.clock.now()).total_seconds())
            await mesh.clock.advance(waits[-1] - 0.001)
            assert await mesh.claim() == []
            await mesh.clock.advance(0.001)
    assert waits == [5, 30, 120, 600, 3600, 21600]
    assert (found.state, found.attempts, found.next_attempt_at) == (State.FAILED, 7, None)
    await mesh.clock.advance(10**6)
    assert await mesh.claim() == []


async def test_what_is_taken_is_taken_once_and_for_all() -> None:
    mesh = Mesh()
    run = await mesh.over()
    (claimed,) = await mesh.claim()
    assert await mesh.said(claimed, Verdict.DELIVERED, 204)
    found = await mesh.of(run)
    assert (found.state, found.last_status, found.delivered_at) == (State.DELIVERED, 204, START)
    assert not await mesh.said(claimed, Verdict.FAILED, 500)
    assert await mesh.of(run) == found


async def test_a_refusal_is_the_end_at_once() -> None:
    mesh = Mesh()
    run = await mesh.over()
    (claimed,) = await mesh.claim()
    await mesh.said(claimed, Verdict.REFUSED, 410, "gone")
    found = await mesh.of(run)
    assert (found.state, found.attempts, found.last_status, found.last_error) == (State.FAILED, 1, 410, "gone")


async def test_what_was_put_back_was_no_attempt() -> None:
    mesh = Mesh()
    run = await mesh.over()
    (claimed,) = await mesh.claim()
    await mesh.said(claimed, Verdict.PUT_BACK)
    assert (await mesh.of(run)).attempts == 0
    assert await mesh.claim() == []
    await mesh.clock.advance(5)
    assert [each.attempts for each in await mesh.claim()] == [1]


async def test_two_schedulers_hand_a_delivery_out_once() -> None:
    mesh = Mesh()
    look = mesh.store.due_deliveries

    async def all_see_the_same(*args: Any, **options: Any) -> list[str]:
        ids = await look(*args, **options)
        await asyncio.sleep(0)
        return ids

    mesh.store.due_deliveries = all_see_the_same  # type: ignore[method-assign]
    runs = {(await mesh.over()).id for _ in range(20)}
    claims = await asyncio.gather(*(mesh.claim(who, 3) for who in (mesh.one, mesh.two) * 10))
    taken = [each.run_id for claim in claims for each in claim]
    assert len(taken) == len(set(taken))
    rest = [each.run_id for each in await mesh.claim(limit=100)]
    assert {*taken, *rest} == runs


async def test_a_lost_sender_costs_the_lease_and_an_attempt() -> None:
    mesh = Mesh()
    run = await mesh.over()
    (first,) = await mesh.claim()
    await mesh.clock.advance(LEASE.total_seconds() - 0.001)
    assert await mesh.claim(mesh.two) == []
    await mesh.clock.advance(0.001)
    (second,) = await mesh.claim(mesh.two)
    assert (second.id, second.attempts) == (first.id, 2)
    # It lives after all: its failure is no news any more, its success is.
    assert not await mesh.said(first, Verdict.FAILED, 500)
    assert not await mesh.said(first, Verdict.PUT_BACK)
    assert await mesh.said(first, Verdict.DELIVERED, 200)
    assert not await mesh.said(second, Verdict.FAILED, 500)
    assert (await mesh.of(run)).state is State.DELIVERED


async def test_senders_that_always_die_are_not_fed_for_ever() -> None:
    mesh = Mesh()
    run = await mesh.over()
    for _ in range(7):
        assert len(await mesh.claim()) == 1
        await mesh.clock.advance(LEASE.total_seconds())
    assert await mesh.claim() == []
    found = await mesh.of(run)
    assert (found.state, found.attempts) == (State.FAILED, 7)
    assert "lost" in found.last_error


async def test_one_that_went_with_its_run_is_no_news() -> None:
    mesh = Mesh()
    await mesh.over()
    (claimed,) = await mesh.claim()
    await mesh.store.write(lambda tx: tx.delete_runs(START + timedelta(days=1), 10))
    assert not await mesh.said(claimed, Verdict.DELIVERED, 200)


async def test_who_sees_deliveries() -> None:
    mesh = Mesh()
    run = await mesh.over(one_time_key_id="key_1")
    assert (await mesh.of(run)).url == URL
    assert (await mesh.of(run, Asker("org_caller", "key_1"))).url == URL
    # The owner of a public workflow sees the run, and nothing of the address that may be a secret.
    assert (await mesh.of(run, Asker("org_owner"))).url == "https://a.example"
    for stranger in (Asker("org_x"), Asker("org_caller", "key_2")):
        with pytest.raises(NotFound):
            await mesh.one.of(stranger, run.id)
    provision = await mesh.submit.provision("org_caller", "key_2")
    assert await mesh.one.of(ME, provision.id) == []


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://A.example/x", "a.example:443"),
        ("http://a.example:8080", "a.example:8080"),
        ("http://[::1]/", "::1:80"),
    ],
)
def test_the_host_that_senders_count_by(url: str, host: str) -> None:
    assert host_of(url) == host


@pytest.mark.parametrize("url", ["ftp://a", "a.example", "https://" + "a" * 2050])
def test_an_address_that_no_edge_sends(url: str) -> None:
    with pytest.raises(Invalid):
        check_url(url)


def test_what_comes_over_the_wire_is_bounded() -> None:
    good = deliveries_pb2.ClaimDeliveriesRequest(limit=1)
    wire.check_claim(good)
    for limit, hosts in ((0, 0), (101, 0), (1, 1001)):
        with pytest.raises(Invalid):
            wire.check_claim(deliveries_pb2.ClaimDeliveriesRequest(limit=limit, without_hosts=["a"] * hosts))
    with pytest.raises(Invalid):
        wire.settlement(deliveries_pb2.SettleDeliveryRequest(id="dlv_1"))


def test_the_setting() -> None:
    assert delays("0.5, 30,") == (0.5, 30)
    assert delays("") == ()
    for bad in ("5,x", "-1", "inf", "86401", ",".join(["1"] * 21)):
        with pytest.raises(ValueError, match="is not"):
            delays(bad)
