"""/logs: from the start or after a time, live or archived, and always to an end."""

import hashlib
import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from edge.http import Request
from edge.loglines import Ndjson, entry
from edge.logs import Logs
from edge.model import Principal
from edge.reading import Reading
from edge.run_model import LogLine, RunRecord, Status
from kit.clock import FakeClock
from kit.errors import Conflict, Invalid, NotFound, Unavailable
from kit.names import new_id
from tests.fakes.edge_runs import (
    CALLER,
    KEY,
    NOW,
    OWN_KEY,
    OWNER,
    FakeLogBus,
    FakeRuns,
    MemoryBlobs,
    a_record,
    a_request,
    body_of,
)

END = LogLine(NOW, end=True)


def line(number: int, message: str = "") -> LogLine:
    return LogLine(NOW + timedelta(milliseconds=number), number, "stdout", "info", message or f"line {number}")


class Mesh:
    def __init__(self, record: RunRecord) -> None:
        self.runs, self.bus, self.blobs, self.clock = FakeRuns(), FakeLogBus(), MemoryBlobs(), FakeClock(NOW)
        self.logs = Logs(Reading(self.runs, self.clock), self.bus, self.blobs, self.clock)
        self.record = self.runs.put(record)

    async def say(self, *lines: LogLine) -> None:
        for each in lines:
            await self.bus.say(self.record.id, each)

    def change(self, **changes: Any) -> None:
        self.record = self.runs.put(replace(self.runs.records[self.record.id], **changes))

    def archive(self, *lines: LogLine) -> str:
        return self.blobs.keep(b"".join(Ndjson().line(entry(each)) for each in lines))

    def asked(self, who: Principal = OWN_KEY, query: str = "", **headers: str) -> Request:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return a_request(method="GET", query=query, who=who, request_id=self.record.id, headers=given)

    async def read(self, who: Principal = OWN_KEY, query: str = "", **headers: str) -> list[dict[str, Any]]:
        """The lines of an NDJSON log; a blank one is {}."""
        raw = await body_of(await self.logs.logs(self.asked(who, query, **headers)))
        return [json.loads(text) if text else {} for text in raw.decode().split("\n")[:-1]]

    def at_silence(self, *steps: Callable[[], None]) -> None:
        """What happens when the reader has read all, one step a silence."""
        left = list(steps)

        async def next_step() -> None:
            assert left, "the reader waits for ever"
            left.pop(0)()

        self.bus.on_silence = next_step


def messages(lines: list[dict[str, Any]]) -> list[str]:
    return [each.get("message", "") for each in lines]


async def test_a_live_log_goes_on_to_its_end_marker() -> None:
    mesh = Mesh(a_record())
    await mesh.say(line(1), line(2), END)
    lines = await mesh.read()
    assert messages(lines) == ["line 1", "line 2"]
    assert lines[0] == {
        "createdAt": "2030-01-31T12:00:00.124Z",
        "seq": 1,
        "stream": "stdout",
        "level": "info",
        "message": "line 1",
        "data": {},
    }


async def test_a_log_so_far_ends_with_what_there_is() -> None:
    mesh = Mesh(a_record())
    await mesh.clock.advance(0.005)
    await mesh.say(line(1), line(2))
    assert messages(await mesh.read(query="follow=false")) == ["line 1", "line 2"]
    await mesh.say(line(6), line(7))  # a run that is never silent
    assert messages(await mesh.read(query="follow=false")) == ["line 1", "line 2"]
    assert messages(await mesh.read(query="follow=false&after=2030-01-31T12:00:00.124Z")) == ["line 2"]
    mesh.change(status=Status.SUCCEEDED, log_digest=mesh.archive(line(1), line(9)))
    assert messages(await mesh.read(query="follow=false")) == ["line 1", "line 9"]
    with pytest.raises(Invalid):
        await mesh.read(query="follow=no")


async def test_a_line_is_a_chunk() -> None:
    mesh = Mesh(a_record())
    await mesh.say(*(line(number) for number in range(1, 51)), END)
    answer = await mesh.logs.logs(mesh.asked())
    assert not isinstance(answer.body, bytes)
    found = [chunk async for chunk in answer.body]
    assert len(found) == 50
    assert all(chunk.endswith(b"\n") and json.loads(chunk) for chunk in found)


async def test_silence_is_a_blank_line() -> None:
    mesh = Mesh(a_record())
    mesh.at_silence(lambda: None, lambda: mesh.bus.lines.update({mesh.record.id: [line(1), END]}))
    assert messages(await mesh.read()) == ["", "", "line 1"]


async def test_server_sent_events_end_with_an_event() -> None:
    mesh = Mesh(a_record())
    mesh.at_silence(lambda: mesh.bus.lines.update({mesh.record.id: [line(1), line(2), END]}))
    answer = await mesh.logs.logs(mesh.asked(accept="text/event-stream", last_event_id="1"))
    raw = (await body_of(answer)).decode()
    assert dict(answer.headers)["content-type"].startswith("text/event-stream")
    comment, event, end = raw.split("\n\n")[:-1]
    assert comment.startswith(":")
    assert event.startswith("id: 2\ndata: {")
    assert end == "event: end\ndata: {}"


async def test_a_finished_log_comes_from_the_archive() -> None:
    mesh = Mesh(a_record(Status.SUCCEEDED))
    mesh.change(log_digest=mesh.archive(line(1), line(2), line(3)))
    assert messages(await mesh.read()) == ["line 1", "line 2", "line 3"]
    assert messages(await mesh.read(query="after=2030-01-31T12:00:00.125Z")) == ["line 3"]


async def test_a_finished_log_without_a_line_is_stored_nowhere() -> None:
    mesh = Mesh(a_record(Status.SUCCEEDED))
    mesh.change(log_digest=hashlib.sha256(b"").hexdigest())
    assert messages(await mesh.read()) == []


async def test_the_attempts_of_a_run_are_one_log() -> None:
    mesh = Mesh(a_record(Status.SUCCEEDED))
    first, second = mesh.archive(line(1)), mesh.archive(line(1_000_000_001))
    mesh.change(log_digest=second, earlier_logs=(first,))
    assert [each["seq"] for each in await mesh.read()] == [1, 1_000_000_001]


@pytest.mark.parametrize("archived", [True, False])
async def test_after_a_time_only_what_is_later(archived: bool) -> None:
    mesh = Mesh(a_record(Status.SUCCEEDED if archived else Status.RUNNING))
    if archived:
        mesh.change(log_digest=mesh.archive(line(1), line(2)))
    else:
        await mesh.say(line(1), line(2), END)
    assert messages(await mesh.read(query="after=2030-01-31T12:00:00.124Z")) == ["line 2"]


async def test_a_line_that_comes_twice_is_told_once() -> None:
    mesh = Mesh(a_record())
    await mesh.say(line(1), line(2), line(1), line(2), line(3), END)
    assert messages(await mesh.read()) == ["line 1", "line 2", "line 3"]


async def test_a_run_that_died_without_a_word_ends_the_log() -> None:
    mesh = Mesh(a_record())
    await mesh.say(line(1))
    mesh.at_silence(lambda: mesh.change(status=Status.FAILED), lambda: None)
    assert messages(await mesh.read()) == ["line 1"]


async def test_what_the_bus_lost_comes_from_the_archive() -> None:
    mesh = Mesh(a_record())
    await mesh.say(line(1))
    digest = mesh.archive(line(1), line(2))
    mesh.at_silence(lambda: mesh.change(status=Status.FAILED, log_digest=digest), lambda: None)
    assert messages(await mesh.read()) == ["line 1", "line 2"]


async def test_a_finished_log_that_was_never_archived_is_on_the_bus() -> None:
    mesh = Mesh(a_record(Status.SUCCEEDED))
    await mesh.say(line(1))
    assert messages(await mesh.read()) == ["line 1"]


async def test_a_scheduler_that_is_away_does_not_end_a_log() -> None:
    mesh = Mesh(a_record())
    mesh.logs = Logs(Reading(mesh.runs, Hurried(NOW)), mesh.bus, mesh.blobs, mesh.clock)

    def away() -> None:
        mesh.runs.away = 2

    mesh.at_silence(away, lambda: mesh.bus.lines.update({mesh.record.id: [line(1), END]}))
    assert messages(await mesh.read()) == ["", "", "line 1"]


async def test_another_caller_of_a_public_workflow_gets_one_system_line() -> None:
    mesh = Mesh(a_record())
    await mesh.say(line(1, "classified"), END)
    (only,) = await mesh.read(KEY)
    assert only["stream"] == "system"
    assert "classified" not in json.dumps(only)


async def test_a_template_shows_its_log_to_its_caller_not_to_its_owner() -> None:
    mesh = Mesh(a_record(acting_id=CALLER))
    await mesh.say(line(1), END)
    assert messages(await mesh.read(KEY)) == ["line 1"]
    with pytest.raises(NotFound):
        await mesh.read(OWN_KEY)


async def test_another_organizations_log_is_not_found() -> None:
    mesh = Mesh(a_record())
    stranger = Principal("key_9", "org_stranger", "standard", frozenset({"run"}))
    with pytest.raises(NotFound):
        await mesh.read(stranger)


class Provisioned(Mesh):
    """An id that OWN_KEY's organization provisioned; nothing runs under it yet."""

    def __init__(self) -> None:
        super().__init__(RunRecord(new_id("run"), Status.PROVISIONED, NOW, caller_id=OWNER))

    def start(self, acting_id: str = OWNER) -> None:
        self.change(status=Status.RUNNING, acting_id=acting_id, service_id="greet", owner_id=acting_id)


async def test_a_provisioned_id_is_followed_into_its_run() -> None:
    mesh = Provisioned()

    def run() -> None:
        mesh.start()
        mesh.bus.lines[mesh.record.id] = [line(1), END]

    mesh.at_silence(lambda: None, run)
    assert messages(await mesh.read()) == ["", "", "line 1"]


async def test_lines_of_a_run_that_one_may_not_see_stay_private_though_its_id_was_ones_own() -> None:
    mesh = Provisioned()

    def run() -> None:
        mesh.start(acting_id="org_third")
        mesh.bus.lines[mesh.record.id] = [line(1, "classified"), END]

    mesh.at_silence(run)
    lines = await mesh.read()
    assert [each["stream"] for each in lines] == ["system"]
    assert "classified" not in json.dumps(lines)


async def test_a_provisioned_id_that_expires_ends_its_log() -> None:
    mesh = Provisioned()
    mesh.at_silence(mesh.runs.records.clear)
    assert await mesh.read() == []


async def test_a_refused_run_ends_the_log_of_its_provisioned_id() -> None:
    mesh = Provisioned()
    await mesh.logs.refuse(OWN_KEY, mesh.record.id, NotFound("there is no such workflow"))
    (only,) = await mesh.read()
    assert (only["stream"], only["level"], only["data"]) == ("system", "error", {"code": "not_found"})
    assert "there is no such workflow" in only["message"]


async def test_a_second_attempt_is_not_spoiled_by_a_refused_first_one() -> None:
    mesh = Provisioned()
    await mesh.logs.refuse(OWN_KEY, mesh.record.id, NotFound("there is no such workflow"))
    mesh.start()
    await mesh.say(line(1), END)
    assert messages(await mesh.read()) == ["line 1"]


@pytest.mark.parametrize("who", [KEY, OWN_KEY])
async def test_nobody_ends_a_log_that_is_not_theirs_or_has_begun(who: Principal) -> None:
    mesh = Provisioned()
    if who is OWN_KEY:
        mesh.start()
    await mesh.logs.refuse(who, mesh.record.id, NotFound("no"))
    await mesh.logs.refuse(who, "log.>", NotFound("no"))
    assert mesh.bus.lines == {}


def naming(provisioned_id: str, who: Principal = OWN_KEY) -> Request:
    """A request, not for a run, that wants its steps told."""
    return a_request(who=who, headers={"x-provisioned-request-id": provisioned_id})


async def test_steps_are_told_under_a_provisioned_id_and_end() -> None:
    mesh = Provisioned()
    for told in ("once", "again"):
        with pytest.raises(Invalid) if told == "again" else nullcontext():
            async with mesh.logs.steps(naming(mesh.record.id)) as log_id:
                assert log_id == mesh.record.id
                await mesh.bus.say(log_id, replace(line(0, told), stream="system"))
                if told == "again":
                    raise Invalid("it isn't deployed")
        assert mesh.bus.lines[mesh.record.id][-1].end
    assert messages(await mesh.read()) == ["once"]
    mesh.start()
    await mesh.say(line(1), END)
    assert messages(await mesh.read()) == ["line 1"]
    async with mesh.logs.steps(naming("")) as log_id:
        assert log_id == ""


async def test_a_bus_that_is_away_spoils_nothing_that_was_done(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = Provisioned()

    async def away(_run_id: str, _line: LogLine) -> None:
        raise Unavailable("the event bus doesn't take it")

    monkeypatch.setattr(mesh.bus, "say", away)
    async with mesh.logs.steps(naming(mesh.record.id)) as log_id:
        assert log_id == mesh.record.id
    with pytest.raises(Invalid):
        async with mesh.logs.steps(naming(mesh.record.id)):
            raise Invalid("it isn't deployed")


@pytest.mark.parametrize(("who", "started"), [(KEY, False), (OWN_KEY, True)])
async def test_steps_are_told_under_no_id_that_is_not_theirs_or_has_its_run(who: Principal, started: bool) -> None:
    mesh = Provisioned()
    if started:
        mesh.start()
    with pytest.raises(Conflict if started else NotFound):
        async with mesh.logs.steps(naming(mesh.record.id, who)):
            raise AssertionError
    with pytest.raises(NotFound):
        async with mesh.logs.steps(naming("log.>")):
            raise AssertionError
    assert mesh.bus.lines == {}


class Hurried(FakeClock):
    """Sleeps no longer than it takes to move its hands."""

    async def sleep(self, seconds: float) -> None:
        await self.advance(seconds)
