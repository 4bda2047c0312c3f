"""GET /request/{id}/diff: what differs between a replay and what it repeats, and who is told."""

import json
from typing import Any

import pytest

from edge.diff import Diffs
from edge.http import Answer
from edge.model import Principal
from edge.reading import Reading
from edge.recording import Outbound, compared
from edge.run_model import AnswerHead, KeptAnswer, RunRecord, Status
from kit.clock import FakeClock
from kit.errors import Conflict, NotFound
from tests.fakes.edge_runs import CALLER, KEY, NOW, OWN_KEY, FakeRuns, MemoryBlobs, a_record, a_request

OK = (("content-type", "application/json"), ("date", "today"), ("x-own", "1"))


def answered(body: bytes, *headers: tuple[str, str], status: int = 200) -> KeptAnswer:
    return KeptAnswer(AnswerHead(status, headers or OK), body, "", len(body))


class World:
    def __init__(self) -> None:
        self.runs, self.blobs = FakeRuns(), MemoryBlobs()
        self.diffs = Diffs(Reading(self.runs, FakeClock(NOW)), self.blobs)

    def pair(self, before: dict[str, Any], after: dict[str, Any]) -> RunRecord:
        """A run and its replay, both over."""
        first = self.runs.put(a_record(**{"status": Status.SUCCEEDED, **before}))
        return self.runs.put(a_record(**{"status": Status.SUCCEEDED, "replay_of": first.id, **after}))

    async def told(self, record: RunRecord, who: Principal = KEY) -> dict[str, Any]:
        answer: Answer = await self.diffs.diff(a_request(method="GET", request_id=record.id, who=who))
        assert isinstance(answer.body, bytes)
        body: dict[str, Any] = json.loads(answer.body)
        return {**body, "http": answer.status}

    def recording(self, *requests: tuple[str, str, str]) -> str:
        exchanges = [
            {"method": method, "scheme": "http", "host": "a.example", "port": 80, "target": target, "status": 200}
            | {"requestDigest": digest}
            for method, target, digest in requests
        ]
        return self.blobs.keep(json.dumps({"exchanges": exchanges}).encode())


async def test_equal_but_for_what_means_nothing() -> None:
    world = World()
    other = (("content-type", "application/json"), ("date", "tomorrow"), ("x-own", "1"))
    told = await world.told(world.pair({"answer": answered(b"{}")}, {"answer": answered(b"{}", *other)}))
    assert told["same"]
    assert (told["headers"], told["outbound"], told["mode"]) == ({"same": True, "changed": {}}, None, "live")
    assert "diff" not in told["body"]


async def test_status_headers_and_body_are_compared() -> None:
    world = World()
    before = {"answer": answered(b'{"a": 1, "b": 2}')}
    after = {"answer": answered(b'{"a":1,"b":3}', ("x-own", "2"), status=500), "status": Status.FAILED, "offline": True}
    told = await world.told(world.pair(before, after))
    assert (told["same"], told["mode"]) == (False, "offline")
    assert told["status"]["before"] == {"status": "succeeded", "code": None, "responseStatus": 200}
    assert told["status"]["after"] == {"status": "failed", "code": None, "responseStatus": 500}
    assert told["headers"]["changed"]["x-own"] == {"before": ["1"], "after": ["2"]}
    assert told["headers"]["changed"]["content-type"]["after"] == []
    assert [line for line in told["body"]["diff"][2:] if line[0] in "+-"] == ['-  "b": 2', '+  "b": 3']


@pytest.mark.parametrize("body", [b"\xff\x00", b"x\n" * 600, b"y" * 40_000])
async def test_bodies_that_are_not_compared_by_lines(body: bytes) -> None:
    world = World()
    told = await world.told(world.pair({"answer": answered(b"a")}, {"answer": answered(body)}))
    assert (told["body"]["same"], told["body"]["diff"]) == (False, None)


async def test_a_long_answer_is_compared_by_its_digest_and_a_lost_one_not_at_all() -> None:
    world = World()
    head = AnswerHead(200, OK)
    long, lost = KeptAnswer(head, b"", "d" * 64, 10**6), KeptAnswer(head, b"", "", 10**6)
    assert (await world.told(world.pair({"answer": long}, {"answer": long})))["body"]["same"] is True
    told = await world.told(world.pair({"answer": lost}, {"answer": lost}))
    assert (told["body"]["same"], told["same"]) == (None, False)
    none = await world.told(world.pair({"code": "timeout"}, {"code": "timeout"}))
    assert (none["body"]["same"], none["same"]) == (True, True)


async def test_what_left_the_runs_is_for_whose_secrets_they_use() -> None:
    world = World()
    record = world.pair(
        {"acting_id": CALLER, "recording_digest": world.recording(("GET", "/a", "1"), ("GET", "/b", "1"))},
        {"acting_id": CALLER, "recording_digest": world.recording(("GET", "/b", "2"), ("POST", "/c?d=1", "1"))},
    )
    told = await world.told(record)
    assert not told["same"]
    assert [(item["change"], item["method"], item["url"]) for item in told["outbound"]["items"]] == [
        ("changed", "GET", "http://a.example/b"),
        ("added", "POST", "http://a.example/c?d=1"),
        ("removed", "GET", "http://a.example/a"),
    ]
    foreign = world.pair({"recording_digest": "x"}, {"recording_digest": "x"})  # it uses its owner's secrets
    assert (await world.told(foreign))["outbound"] is None
    gone = world.pair({"acting_id": CALLER, "recording_digest": "0" * 64}, {"acting_id": CALLER})
    assert (await world.told(gone))["outbound"] is None


def test_order_and_number_of_requests() -> None:
    a, b = Outbound("GET", "http://x/", "1", 200), Outbound("GET", "http://x/", "2", 200)
    assert compared([a, b, a], [b, a, a])["same"]
    assert [item["change"] for item in compared([a], [a, a])["items"]] == ["same", "added"]
    assert [item["change"] for item in compared([a, a], [b])["items"]] == ["changed", "removed"]


async def test_what_can_not_be_compared() -> None:
    world = World()
    with pytest.raises(Conflict, match="no replay"):
        await world.told(world.runs.put(a_record(Status.SUCCEEDED)))
    with pytest.raises(NotFound, match="kept no longer"):
        await world.told(world.runs.put(a_record(Status.SUCCEEDED, replay_of="run_gone")))
    assert (await world.told(world.pair({}, {"status": Status.RUNNING})))["http"] == 408
    with pytest.raises(NotFound):
        await world.told(world.pair({}, {}), Principal("key_9", "org_stranger", "standard", frozenset({"run"})))
    assert (await world.told(world.pair({}, {}), OWN_KEY))["same"]
