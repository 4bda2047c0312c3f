"""What a receipt says, and when there is one."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from edge.model import Principal
from edge.reading import Reading
from edge.receipts import WRITTEN_DOWN, ReceiptHandlers, ReceiptKey, receipt_of
from edge.run_model import AnswerHead, KeptAnswer, RunRecord, Status, Usage, VersionOf
from kit.clock import FakeClock
from kit.names import new_id
from tests.fakes.edge_runs import CALLER, FakeRuns, a_request

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
RECORD = RunRecord(
    "run_1",
    Status.SUCCEEDED,
    NOW,
    owner_id="org_o",
    caller_id="org_c",
    service_id="greet",
    version_id="ver_1",
    trace_id="a" * 32,
    attempt=1,
    started_at=NOW,
    completed_at=NOW,
    answer=KeptAnswer(AnswerHead(200), b"{}", size=2),
    usage=Usage(0.5, 1, 1024, 7),
    egress_digest="e" * 64,
    cost_own=30,
    cost_nested=12,
    input_sha256="1" * 64,
    output_sha256="2" * 64,
)
VERSION = VersionOf("wfl_1", 3, "c" * 64, "d" * 64)


def test_it_tells_of_the_whole_run() -> None:
    told = receipt_of(RECORD, VERSION, NOW)
    assert told["format"] == "runmesh.receipt.v1"
    assert told["digests"] == {
        "code": "c" * 64,
        "lock": "d" * 64,
        "input": "1" * 64,
        "output": "2" * 64,
        "egress": "e" * 64,
    }
    assert told["cost"] == {"own": 30, "nested": 12, "total": 42, "currency": "micro_credits"}
    assert (told["runId"], told["organizationId"], told["ownerId"]) == ("run_1", "org_c", "org_o")
    assert (told["status"], told["responseStatus"], told["version"]) == ("succeeded", 200, 3)
    assert told["usage"]["cpuSeconds"] == 0.5
    assert told["issuedAt"] == told["completedAt"] == "2026-01-01T12:00:00.000Z"


def test_what_there_was_not_is_null() -> None:
    dead = replace(
        RECORD,
        status=Status.CANCELLED,
        code="cancelled",
        answer=None,
        usage=None,
        started_at=None,
        egress_digest="",
        input_sha256="",
        output_sha256="",
    )
    told = receipt_of(dead, VERSION, NOW)
    assert told["digests"] == {"code": "c" * 64, "lock": "d" * 64, "input": None, "output": None, "egress": None}
    assert (told["responseStatus"], told["usage"], told["startedAt"]) == (None, None, None)


class FakeKeys:
    """receipts.Versions and Signer."""

    async def version(self, _version_id: str) -> VersionOf:
        return VERSION

    async def sign(self, payload: bytes) -> str:
        return payload.decode()

    async def keys(self) -> list[ReceiptKey]:
        return []

    async def rotate(self, who: Principal) -> ReceiptKey:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"status": Status.RUNNING}, "has not ended"),
        ({"cost_open": True}, "goes on"),
        ({"completed_at": NOW - WRITTEN_DOWN + timedelta(milliseconds=1)}, "just ended"),
    ],
)
async def test_there_is_none_while_its_cost_may_change(changes: dict[str, Any], why: str) -> None:
    runs, clock, run_id = FakeRuns(), FakeClock(NOW), new_id("run")
    ended = replace(RECORD, id=run_id, caller_id=CALLER, completed_at=NOW - WRITTEN_DOWN)
    runs.records[run_id] = replace(ended, **changes)
    handlers = ReceiptHandlers(Reading(runs, clock), FakeKeys(), FakeKeys(), clock)
    answer = await handlers.receipt(a_request(request_id=run_id))
    assert isinstance(answer.body, bytes)
    assert answer.status == (408 if why else 200)
    if why:
        assert dict(answer.headers)["retry-after"] == "1"
        assert why in answer.body.decode()
