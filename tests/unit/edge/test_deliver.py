"""Sending records: what is sent, what an answer means, and that nobody holds the others up."""

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from edge.deliver import MOST, MOST_OF_ORGANIZATION, MOST_TO_HOST, Deliver
from edge.deliveries import DeliveryHandlers
from edge.delivery import Attempt, Verdict, WebhookSecret
from edge.model import Principal
from edge.post import Failed, Refused
from edge.reading import Reading
from edge.results import Results
from edge.run_model import AnswerHead, KeptAnswer, Status
from edge.telling import Telling
from edge.webhooks import WebhookHandlers
from kit.clock import FakeClock
from kit.errors import NotFound
from tests.fakes.edge_deliveries import SECRET, FakeDeliveries, FakePost, FakeWebhooks, a_delivery
from tests.fakes.edge_runs import CALLER, KEY, NOW, OWNER, FakeRuns, MemoryBlobs, a_record, a_request, body_of

JSON = AnswerHead(200, (("content-type", "application/json"),))
DONE = a_record(Status.SUCCEEDED, answer=KeptAnswer(JSON, b'{"n":1}', "", 7), detail="it says", acting_id=OWNER)


class Mesh:
    def __init__(self, answer: Callable[[str], int | Exception | None] = lambda _: 200) -> None:
        self.clock, self.runs, self.blobs = FakeClock(NOW), FakeRuns(), MemoryBlobs()
        self.deliveries, self.webhooks, self.post = FakeDeliveries(), FakeWebhooks(), FakePost(answer)
        self.deliver = Deliver(self.deliveries, self.runs, self.webhooks, Telling(self.blobs), self.post, self.clock)
        self.record = self.runs.put(DONE)

    async def once(self, **changes: Any) -> Attempt:
        """One delivery, from claim to settlement."""
        delivery = a_delivery(self.record.id, **changes)
        self.deliveries.due.append(delivery)
        await self.deliver.once()
        await self.idle()
        ((settled_id, attempt, how),) = self.deliveries.settled
        assert (settled_id, attempt) == (delivery.id, delivery.attempts)
        return how

    async def idle(self) -> None:
        """Until nothing is being sent."""
        await until(lambda: not self.deliver._sending)

    async def begun(self, count: int) -> None:
        await until(lambda: len(self.post.now) >= count)


async def test_the_record_goes_out_as_request_tells_it() -> None:
    mesh = Mesh()
    assert await mesh.once() == Attempt(Verdict.DELIVERED, 200)
    ((url, headers, body),) = mesh.post.sent
    assert url == "https://a.example/hook"
    results = Results(Reading(mesh.runs, mesh.clock), mesh.blobs, mesh.clock)
    asked = await results.request(a_request(method="GET", request_id=mesh.record.id))
    assert body == await body_of(asked)
    assert json.loads(body)["responseJson"] == {"n": 1}
    assert headers["content-type"] == "application/json"
    assert headers["webhook-id"] == mesh.deliveries.settled[0][0]
    assert headers["webhook-timestamp"] == str(int(NOW.timestamp()))
    assert headers["webhook-signature"].startswith("v1,")


async def test_each_organization_is_told_what_it_may_see() -> None:
    mesh = Mesh()
    await mesh.once()
    assert json.loads(mesh.post.sent[0][2])["detail"] is None
    mesh = Mesh()
    mesh.record = mesh.runs.put(replace(DONE, acting_id=CALLER))
    await mesh.once()
    assert json.loads(mesh.post.sent[0][2])["detail"] == "it says"


async def test_a_large_answer_comes_from_the_filestore() -> None:
    mesh = Mesh()
    raw = json.dumps({"big": "x" * 100_000}).encode()
    mesh.runs.put(replace(DONE, answer=KeptAnswer(JSON, b"", mesh.blobs.keep(raw), len(raw))))
    assert (await mesh.once()).verdict is Verdict.DELIVERED
    assert json.loads(mesh.post.sent[0][2])["responseJson"]["big"] == "x" * 100_000


async def test_after_a_rotation_both_secrets_sign() -> None:
    mesh = Mesh()
    mesh.webhooks.secret = WebhookSecret("whsec_" + "bHVy" * 8, NOW, SECRET.secret, NOW + timedelta(hours=1))
    await mesh.once()
    assert len(mesh.post.sent[0][1]["webhook-signature"].split(" ")) == 2


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (201, Attempt(Verdict.DELIVERED, 201)),
        (204, Attempt(Verdict.DELIVERED, 204)),
        (199, Attempt(Verdict.FAILED, 199, "the receiver answered 199")),
        (302, Attempt(Verdict.FAILED, 302, "the receiver answered 302, a redirect, which isn't followed")),
        (404, Attempt(Verdict.FAILED, 404, "the receiver answered 404")),
        (410, Attempt(Verdict.REFUSED, 410, "the receiver is gone (410)")),
        (500, Attempt(Verdict.FAILED, 500, "the receiver answered 500")),
        (Failed("no"), Attempt(Verdict.FAILED, 0, "no")),
        (Refused("private"), Attempt(Verdict.REFUSED, 0, "private")),
        (RuntimeError("a bug"), Attempt(Verdict.FAILED, 0, "the platform failed to send it")),
    ],
)
async def test_what_an_answer_means(answer: int | Exception, expected: Attempt) -> None:
    assert await Mesh(lambda _: answer).once() == expected


async def test_a_receiver_has_ten_seconds() -> None:
    mesh = Mesh(lambda _: None)
    mesh.deliveries.due.append(a_delivery(mesh.record.id))
    await mesh.deliver.once()
    await mesh.begun(1)
    await mesh.clock.advance(9.9)
    assert mesh.deliveries.settled == []
    await mesh.clock.advance(0.1)
    await mesh.idle()
    assert mesh.deliveries.settled[0][2] == Attempt(Verdict.FAILED, 0, "no answer within 10 s")
    assert mesh.post.now == []


async def test_a_run_that_is_kept_no_longer() -> None:
    mesh = Mesh()
    mesh.runs.records.clear()
    assert (await mesh.once()).verdict is Verdict.REFUSED
    assert mesh.post.sent == []


async def test_what_the_mesh_is_to_blame_for_is_no_attempt() -> None:
    mesh = Mesh()
    mesh.webhooks.away = True
    assert (await mesh.once()).verdict is Verdict.PUT_BACK
    mesh = Mesh()
    mesh.runs.away = 1
    assert (await mesh.once()).verdict is Verdict.PUT_BACK
    assert mesh.post.sent == []


async def test_a_settlement_is_repeated() -> None:
    mesh = Mesh()
    mesh.deliveries.due.append(a_delivery(mesh.record.id))
    await mesh.deliver.once()
    mesh.deliveries.away = 1
    await until(lambda: not mesh.deliveries.away)
    await mesh.clock.advance(0.5)
    await mesh.idle()
    assert mesh.deliveries.settled[0][2].verdict is Verdict.DELIVERED
    assert len(mesh.post.sent) == 1


async def test_a_slow_receiver_keeps_its_own_places_only() -> None:
    mesh = Mesh(lambda url: None if "slow" in url else 200)
    slow = [a_delivery(mesh.record.id, host="slow:443", url="https://slow/") for _ in range(50)]
    mesh.deliveries.due += [*slow, *(a_delivery(mesh.record.id) for _ in range(3))]
    await mesh.deliver.once()
    await mesh.begun(MOST_TO_HOST)
    await until(lambda: len(mesh.deliveries.settled) == 3)
    assert Counter(mesh.post.now) == {"https://slow/": MOST_TO_HOST}
    await mesh.deliver.once()
    assert len(mesh.deliveries.due) == 50 - MOST_TO_HOST
    await stop(mesh)


async def test_one_organization_doesnt_get_all_places() -> None:
    mesh = Mesh(lambda _: None)
    mesh.deliveries.due += [
        a_delivery(mesh.record.id, host=f"h{number}", url=f"https://h{number}/") for number in range(40)
    ]
    await mesh.deliver.once()
    await mesh.begun(MOST_OF_ORGANIZATION)
    assert len(mesh.post.now) == MOST_OF_ORGANIZATION
    assert mesh.deliveries.claims[-1][2] in {(CALLER,), ()}
    await stop(mesh)


async def test_all_places_together_are_bounded() -> None:
    mesh = Mesh(lambda _: None)
    mesh.webhooks.webhook_secret = any_secret  # type: ignore[method-assign,assignment]
    for number in range(200):
        record = mesh.runs.put(a_record(Status.SUCCEEDED, caller_id=f"org_{number}"))
        mesh.deliveries.due.append(
            a_delivery(record.id, organization_id=f"org_{number}", host=f"h{number}", url=f"https://h{number}/")
        )
    await mesh.deliver.once()
    await mesh.begun(MOST)
    assert len(mesh.post.now) == len(mesh.deliver._sending) == MOST
    assert len(mesh.deliveries.due) == 200 - MOST
    await stop(mesh)


async def test_large_records_are_few_at_once() -> None:
    mesh = Mesh(lambda _: None)
    raw = json.dumps("x" * 100_000).encode()
    mesh.runs.put(replace(DONE, answer=KeptAnswer(JSON, b"", mesh.blobs.keep(raw), len(raw))))
    hosts = ["a", "a", "b", "c", "d", "e"]
    mesh.deliveries.due += [a_delivery(mesh.record.id, host=host, url=f"https://{host}/") for host in hosts]
    await mesh.deliver.once()
    await until(lambda: len(mesh.deliveries.settled) == 2)
    await mesh.begun(4)
    assert {how.verdict for _, _, how in mesh.deliveries.settled} == {Verdict.PUT_BACK}
    assert sorted(mesh.post.now) == ["https://a/", "https://b/", "https://c/", "https://d/"]
    mesh.post.gate.set()
    await mesh.idle()
    assert mesh.deliver._large == set()


async def test_the_loop_wakes_polls_and_survives_an_absent_scheduler() -> None:
    mesh = Mesh()
    loop = asyncio.create_task(mesh.deliver.run())
    await mesh.clock.advance(0)
    mesh.deliveries.due.append(a_delivery(mesh.record.id))
    mesh.deliver.wake()
    await until(lambda: len(mesh.deliveries.settled) == 1)
    await mesh.clock.advance(0)
    mesh.deliveries.due.append(a_delivery(mesh.record.id))
    await mesh.clock.advance(1)
    await until(lambda: len(mesh.deliveries.settled) == 2)
    mesh.deliveries.away = 1
    await mesh.clock.advance(1)
    await until(lambda: mesh.deliveries.away == 0)
    mesh.deliveries.due.append(a_delivery(mesh.record.id))
    await mesh.clock.advance(5)
    await until(lambda: len(mesh.deliveries.settled) == 3)
    loop.cancel()
    with suppress(asyncio.CancelledError):
        await loop


async def test_what_is_under_way_at_the_end_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = Mesh(lambda url: None if "slow" in url else 200)
    mesh.deliveries.due += [a_delivery(mesh.record.id), a_delivery(mesh.record.id, host="slow", url="https://slow/")]
    loop = asyncio.create_task(mesh.deliver.run())
    await until(lambda: len(mesh.post.sent) == 2)
    monkeypatch.setattr("edge.deliver.LAST_SECONDS", 0.05)
    loop.cancel()
    with suppress(asyncio.CancelledError):
        await loop
    assert [how.verdict for _, _, how in mesh.deliveries.settled] == [Verdict.DELIVERED]
    assert mesh.post.now == []
    assert mesh.deliver._sending == {}


async def until(found: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not found():  # noqa: ASYNC110  # what it looks at has no event
            await asyncio.sleep(0)


async def stop(mesh: Mesh) -> None:
    mesh.post.gate.set()
    await mesh.idle()


async def any_secret(_organization_id: str) -> WebhookSecret:
    return SECRET


async def test_deliveries_are_listed_for_whoever_sees_the_run() -> None:
    mesh = Mesh()
    handlers = DeliveryHandlers(Reading(mesh.runs, mesh.clock), mesh.deliveries)
    delivery = a_delivery(mesh.record.id, state="delivered", last_status=200, delivered_at=NOW)
    mesh.deliveries.listed = [delivery, a_delivery("run_other")]
    answer = await handlers.deliveries(a_request(method="GET", request_id=mesh.record.id))
    assert json.loads(await body_of(answer)) == {
        "items": [
            {
                "id": delivery.id,
                "url": "https://a.example/hook",
                "state": "delivered",
                "attempts": 1,
                "next_attempt_at": None,
                "last_status": 200,
                "last_error": None,
                "created_at": "2030-01-31T12:00:00.123Z",
                "delivered_at": "2030-01-31T12:00:00.123Z",
            }
        ],
        "next": None,
    }
    for stranger in (
        Principal("key_9", "org_stranger", "standard", frozenset({"run"})),
        Principal("key_9", CALLER, "standard", frozenset({"run:other"})),
    ):
        with pytest.raises(NotFound):
            await handlers.deliveries(a_request(method="GET", who=stranger, request_id=mesh.record.id))


async def test_the_secret_is_shown_and_rotated() -> None:
    handlers = WebhookHandlers(FakeWebhooks())
    first = await handlers.secret(a_request(who=KEY))
    assert json.loads(await body_of(first)) == {
        "secret": SECRET.secret,
        "created_at": "2030-01-31T12:00:00.123Z",
        "previous_until": None,
    }
    assert ("cache-control", "no-store") in first.headers
    second = json.loads(await body_of(await handlers.rotate(a_request(who=KEY))))
    assert second["secret"] != SECRET.secret
    assert second["previous_until"] == "2030-01-31T12:00:00.123Z"
