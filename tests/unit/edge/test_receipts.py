"""What a receipt says, and when there is one."""

from dataclasses import replace
from datetime import UTC, datetime

from edge.receipts import receipt_of
from edge.run_model import AnswerHead, KeptAnswer, RunRecord, Status, Usage, VersionOf

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
