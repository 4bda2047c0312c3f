"""/result and /request: when they answer, and with what."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from edge.http import Answer, Request
from edge.model import Principal
from edge.reading import Reading
from edge.results import Results
from edge.run_model import AnswerHead, KeptAnswer, RunRecord, Status
from kit.clock import FakeClock
from kit.errors import Invalid, NotFound
from kit.names import made_at, new_id
from tests.fakes.edge_runs import (
    CALLER,
    KEY,
    NOW,
    OWN_KEY,
    FakeRuns,
    MemoryBlobs,
    a_record,
    a_request,
    made,
)

JSON = AnswerHead(200, (("content-type", "application/json"),))
DONE = a_record(Status.SUCCEEDED, answer=KeptAnswer(JSON, b'{"n":1}', "", 7))


class Mesh:
    def __init__(self, record: RunRecord) -> None:
        self.runs, self.blobs, self.clock = FakeRuns(), MemoryBlobs(), FakeClock(NOW)
        self.results = Results(Reading(self.runs, self.clock), self.blobs, self.clock)
        self.record = self.runs.put(record)

    def asked(self, query: str = "", who: Principal = KEY, agent: str = "") -> Request:
        headers = {"user-agent": agent}
        return a_request(method="GET", query=query, who=who, request_id=self.record.id, headers=headers)

    async def result(self, query: str = "", agent: str = "") -> Answer:
        return await self.results.result(self.asked(query, agent=agent))


def told(answer: Answer) -> dict[str, object]:
    assert isinstance(answer.body, bytes)
    body = json.loads(answer.body)
    assert isinstance(body, dict)
    return body


@pytest.mark.parametrize("query", ["", "timeout=0", "timeout=10"])
async def test_a_run_that_is_over_is_told_at_once(query: str) -> None:
    answer = await Mesh(DONE).result(query)
    assert (answer.status, told(answer)["n"]) == (200, 1)


@pytest.mark.parametrize("status", [Status.FAILED, Status.TIMED_OUT, Status.CANCELLED, Status.DEAD])
async def test_every_outcome_is_a_200(status: Status) -> None:
    answer = await Mesh(a_record(status, code="timeout")).result()
    assert (answer.status, told(answer)["status"]) == (200, status.text)


@pytest.mark.parametrize("status", [Status.PROVISIONED, Status.QUEUED, Status.RUNNING])
async def test_without_a_timeout_an_unfinished_run_is_pending(status: Status) -> None:
    mesh = Mesh(a_record(status))
    answer = await mesh.result()
    assert (answer.status, told(answer)["code"], told(answer)["request_id"]) == (408, "pending", mesh.record.id)
    assert f"GET /result/{mesh.record.id}?timeout=SECONDS" in str(told(answer)["detail"])  # of /egress and /diff too
    assert int(dict(answer.headers)["retry-after"]) >= 1


async def test_a_timeout_of_zero_answers_at_once() -> None:
    answer = await Mesh(a_record()).result("timeout=0")
    assert (answer.status, told(answer)["code"]) == (504, "timeout")


@pytest.mark.parametrize(
    ("query", "agent", "seconds"),
    [
        ("timeout=110", "python-httpx/0.28", 110),
        ("timeout=0.5", "", 0.5),
        ("timeout=1800", "", 1800),
        ("timeout=600000", "", 600),
        ("timeout=1801", "", 1.801),
        ("timeout=500", "axios/1.7.2", 0.5),
        ("timeout=99999999999", "", 1800),
    ],
)
async def test_how_long_it_waits(query: str, agent: str, seconds: float) -> None:
    mesh = Mesh(a_record())
    task = asyncio.create_task(mesh.result(query, agent))
    await mesh.clock.advance(0)
    await mesh.clock.advance(seconds - 0.01)
    assert not task.done()
    await mesh.clock.advance(0.02)
    assert (await task).status == 504


async def test_it_ends_with_the_run() -> None:
    mesh = Mesh(a_record())
    task = asyncio.create_task(mesh.result("timeout=600"))
    await mesh.clock.advance(0)
    await mesh.clock.advance(599)
    mesh.runs.put(replace(DONE, id=mesh.record.id))
    assert (await asyncio.wait_for(task, 5)).status == 200


@pytest.mark.parametrize("text", ["-1", "nan", "inf", "soon", "", "1" * 41])
async def test_a_timeout_that_is_no_number(text: str) -> None:
    with pytest.raises(Invalid):
        await Mesh(DONE).result(f"timeout={text}")


async def test_an_id_of_another_shape_never_reaches_the_scheduler() -> None:
    mesh = Mesh(DONE)
    with pytest.raises(NotFound):
        await mesh.results.result(a_request(request_id="../x"))


@pytest.mark.parametrize("query", ["", "timeout=10"])
async def test_another_organization_finds_nothing(query: str) -> None:
    mesh = Mesh(DONE)
    stranger = Principal("key_9", "org_stranger", "standard", frozenset({"run"}))
    for request in (mesh.asked(query, who=stranger), a_request(query=query, request_id=new_id("run"))):
        with pytest.raises(NotFound):
            await mesh.results.result(request)


@pytest.mark.parametrize("query", ["", "timeout=10"])
async def test_a_key_of_another_service_finds_nothing(query: str) -> None:
    mesh = Mesh(DONE)
    other = Principal("key_9", CALLER, "standard", frozenset({"run:other"}))
    with pytest.raises(NotFound):
        await mesh.results.result(mesh.asked(query, who=other))
    mine = Principal("key_9", CALLER, "standard", frozenset({"run:greet"}))
    assert (await mesh.results.result(mesh.asked(query, who=mine))).status == 200


async def test_request_tells_the_record_as_it_stands() -> None:
    mesh = Mesh(a_record(Status.QUEUED))
    answer = await mesh.results.request(mesh.asked())
    assert (answer.status, told(answer)["status"], told(answer)["responseContent"]) == (200, "queued", None)


async def test_a_large_answer_comes_from_the_filestore() -> None:
    mesh = Mesh(DONE)
    raw = json.dumps({"big": "x" * 100_000}).encode()
    kept = KeptAnswer(JSON, b"", mesh.blobs.keep(raw), len(raw))
    mesh.runs.put(replace(mesh.record, answer=kept))
    assert told(await mesh.result())["big"] == "x" * 100_000


@pytest.mark.parametrize("kept", [KeptAnswer(JSON, size=99_999), KeptAnswer(JSON, digest="gone", size=99_999)])
async def test_an_answer_that_is_not_there_any_more(kept: KeptAnswer) -> None:
    body = told(await Mesh(replace(DONE, answer=kept)).result())
    assert (body["responseStatus"], body["responseContent"], body["responseJson"]) == (200, None, None)


async def test_an_answer_that_cannot_be_json_is_still_text() -> None:
    body = told(await Mesh(replace(DONE, answer=KeptAnswer(JSON, b"[1e999]", "", 7))).result())
    assert (body["responseContent"], body["responseJson"]) == ("[1e999]", None)


async def test_details_are_for_the_organization_whose_secrets_it_used() -> None:
    mesh = Mesh(a_record(Status.FAILED, code="workflow_crashed", detail="KeyError: secret"))
    assert told(await mesh.results.request(mesh.asked()))["detail"] is None
    assert told(await mesh.results.request(mesh.asked(who=OWN_KEY)))["detail"] == "KeyError: secret"


async def test_waiting_costs_no_more_than_the_limit_when_the_scheduler_is_away() -> None:
    mesh = Mesh(a_record())
    mesh.runs.away = 1_000
    task = asyncio.create_task(mesh.result("timeout=5"))
    for _ in range(6):
        await mesh.clock.advance(timedelta(seconds=1).total_seconds())
    assert (await task).status == 504


async def test_a_time_that_is_too_short_for_a_look_gets_one(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = Mesh(DONE)

    async def slow(*_: object, **__: object) -> AsyncIterator[RunRecord]:
        await mesh.clock.sleep(3600)
        yield DONE

    monkeypatch.setattr(mesh.runs, "watch", slow)
    task = asyncio.create_task(mesh.result("timeout=0.00006"))
    for _ in range(2):
        await mesh.clock.advance(0.1)
    assert (await task).status == 200


@pytest.mark.parametrize("written", [True, False])
@pytest.mark.parametrize("query", ["", "timeout=10"])
async def test_a_run_that_may_not_be_written_down_yet_is_waited_for(query: str, written: bool) -> None:
    mesh = Mesh(DONE)
    mesh.record = replace(DONE, id=made(NOW))
    asking = asyncio.create_task(mesh.result(query))
    for _ in range(5):
        await mesh.clock.advance(0.1)
    assert not asking.done()
    if written:
        mesh.runs.put(mesh.record)
        await mesh.clock.advance(0.1)
        assert told(await asking)["n"] == 1
        return
    for _ in range(6):
        await mesh.clock.advance(0.1)
    with pytest.raises(NotFound):
        await asking


def test_when_an_id_was_made() -> None:
    assert abs(made_at(new_id("run")) - datetime.now(UTC)) < timedelta(minutes=1)
    assert made_at(made(NOW)) == NOW.replace(microsecond=123000)
    assert made_at("run_" + "z" * 26).year == 9999
