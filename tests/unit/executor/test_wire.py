import base64
import hmac
from dataclasses import replace
from datetime import UTC, timedelta
from typing import Literal

import pytest
from mesh.executor.v1 import executor_pb2
from mesh.runs.v1 import identity_pb2, run_pb2
from mesh.workflows.v1 import workflows_pb2

from executor import wire
from executor.bill import Budget
from executor.model import (
    SYSTEM,
    AnswerHead,
    BodyComplete,
    KeptAnswer,
    Limits,
    LogLine,
    Outcome,
    Status,
    Usage,
    Version,
)
from executor.report import Ended, Started
from executor.request import head_for
from executor.validate import Report
from kit.errors import Invalid
from tests.fakes.executor import START, make_spec


def message() -> run_pb2.RunSpec:
    return run_pb2.RunSpec(
        run_id="run_1",
        owner_id="org_owner",
        caller_id="org_caller",
        acting_id="org_acting",
        service_id="hello",
        version_id="ver_1",
        request=run_pb2.RequestHead(
            method="PUT", path="/p", query="q", headers=[run_pb2.Header(name="a", value=b"\xff")]
        ),
        correlation_id="corr",
        root_id="run_0",
        depth=2,
        deadline=wire.to_time(START),
        traceparent="tp",
        attempt=3,
        epoch=4,
        key_id="key_1",
    )


def test_a_spec() -> None:
    spec = wire.from_spec(message())
    assert (spec.run_id, spec.version_id, spec.acting_id, spec.caller_id) == (
        "run_1",
        "ver_1",
        "org_acting",
        "org_caller",
    )
    assert (spec.request.method, spec.request.path, spec.request.query) == ("PUT", "/p", "q")
    assert spec.request.headers == (("a", b"\xff"),)
    assert (spec.requester_id, spec.may_deploy) == ("org_caller", False)
    assert (spec.depth, spec.root_id, spec.deadline, spec.attempt, spec.epoch) == (2, "run_0", START, 3, 4)


@pytest.mark.parametrize(
    ("requester", "depth", "told"), [("", 0, b""), ("", 1, b"org_caller"), ("org_a", 0, b"org_caller")]
)
def test_nobody_is_taken_for_who_pays(requester: str, depth: int, told: bytes) -> None:
    asked = message()
    asked.requester_id, asked.depth = requester, depth
    assert dict(head_for(wire.from_spec(asked), "").headers)[b"codewords-caller-id"] == told


def test_a_root_is_its_own_root() -> None:
    bare = message()
    bare.root_id = ""
    bare.request.Clear()
    spec = wire.from_spec(bare)
    assert spec.root_id == "run_1"
    assert (spec.request.method, spec.request.path) == ("GET", "/")


@pytest.mark.parametrize("field", ["deadline", "version_id"])
def test_a_spec_that_cant_be_run(field: Literal["deadline", "version_id"]) -> None:
    lacking = message()
    lacking.ClearField(field)
    with pytest.raises(Invalid):
        wire.from_spec(lacking)


def test_a_direct_run_is_reported_whole_and_a_known_one_by_its_id() -> None:
    spec = wire.from_spec(message())
    report = wire.to_report("unix:/x", "inc", [Started(spec, START, known=False), Started(spec, START, known=True)])
    assert (report.executor, report.incarnation) == ("unix:/x", "inc")
    whole, known = report.started
    assert whole.spec == message()
    assert known.spec == run_pb2.RunSpec(run_id="run_1", attempt=3, epoch=4)
    assert known.started_at.ToDatetime(UTC) == START


def test_an_end() -> None:
    kept = KeptAnswer(AnswerHead(201, (("a", b"1"),)), 3, content=b"abc")
    outcome = Outcome(Status.FAILED, "workflow_crashed", "died", ("last",))
    (ended,) = wire.to_report("x", "i", [Ended("run_1", 3, 4, outcome, kept, "d" * 64, START)]).ended
    assert (ended.run_id, ended.attempt, ended.epoch, ended.log_digest) == ("run_1", 3, 4, "d" * 64)
    assert ended.outcome.status == run_pb2.RUN_STATUS_FAILED
    assert list(ended.outcome.log_tail) == ["last"]
    assert (ended.answer.head.status, ended.answer.content, ended.answer.size) == (201, b"abc", 3)
    assert not ended.refused
    (refused,) = wire.to_report("x", "i", [Ended("run_1", 3, 4, outcome, kept, "", START, refused=True)]).ended
    assert refused.refused
    (bare,) = wire.to_report("x", "i", [Ended("run_1", 3, 4, outcome, None, "", START)]).ended
    assert not bare.HasField("answer")
    assert bare.usage == run_pb2.Usage()


def test_an_end_says_what_was_used() -> None:
    used = Usage(cpu_seconds=1.5, wall_seconds=2.25, memory_peak=3 << 30, egress_bytes=4 << 30)
    fact = Ended("run_1", 1, 0, Outcome(Status.SUCCEEDED), None, "", START, used)
    (ended,) = wire.to_report("x", "i", [fact]).ended
    assert ended.usage == run_pb2.Usage(
        cpu_seconds=1.5, wall_seconds=2.25, memory_peak_bytes=3 << 30, egress_bytes=4 << 30
    )


@pytest.mark.parametrize("status", list(Status))
def test_outcomes_there_and_back(status: Status) -> None:
    outcome = Outcome(status, "code", "detail", ("a", "b"))
    assert run_pb2.RunStatus.Name(wire.to_outcome(outcome).status) == f"RUN_STATUS_{status.name}"
    assert wire.from_outcome(wire.to_outcome(outcome)) == outcome


def test_an_outcome_that_is_none() -> None:
    with pytest.raises(Invalid):
        wire.from_outcome(run_pb2.Outcome(status=run_pb2.RUN_STATUS_RUNNING))


def test_events() -> None:
    assert wire.to_event(AnswerHead(200)).head.status == 200
    assert wire.to_event(b"x").body == b"x"
    assert wire.to_event(BodyComplete()).body_complete
    assert wire.to_event(Outcome(Status.CANCELLED)).ended.status == run_pb2.RUN_STATUS_CANCELLED


def test_a_version() -> None:
    version = workflows_pb2.Version(
        id="ver_1",
        source_digest="d",
        file_name="hello.py",
        python="3.11",
        lock="a==1",
        env_vars=[workflows_pb2.EnvVar(name="A"), workflows_pb2.EnvVar(name="B", default="")],
        limits=workflows_pb2.Limits(max_response_bytes=5),
    )
    assert wire.from_version(version) == Version(
        "ver_1", "d", "hello.py", "3.11", "a==1", {"A": None, "B": ""}, Limits(response_bytes=5)
    )


def test_limits_of_a_version() -> None:
    limits = workflows_pb2.Limits(
        sync_timeout_ms=9,
        max_request_bytes=1,
        max_response_bytes=2,
        max_stream_bytes=3,
        max_log_bytes=4,
        memory_bytes=5 << 30,
        cpu_millis=1500,
        processes=7,
        disk_bytes=8 << 30,
    )
    assert wire.from_limits(limits) == Limits(1, 2, 3, 4, 5 << 30, 1.5, 7, 8 << 30)


def test_what_a_header_gives_goes_to_the_scheduler() -> None:
    limits = Limits(memory_bytes=1 << 30, cpu=0.333, processes=9, disk_bytes=2 << 30)
    report = Report(python="3.11", isolation="run", timeout=timedelta(seconds=3), concurrency=2, limits=limits)
    sent = wire.to_validation(report)
    assert (sent.python, sent.isolation) == ("3.11", "run")
    assert sent.limits == workflows_pb2.Limits(
        sync_timeout_ms=3000,
        async_timeout_ms=3000,
        concurrency=2,
        memory_bytes=1 << 30,
        cpu_millis=333,
        processes=9,
        disk_bytes=2 << 30,
    )
    assert wire.to_validation(Report()).limits == workflows_pb2.Limits()


def test_a_log_line() -> None:
    line = wire.to_line(LogLine(START, 1, "stdout", "info", "hi", '{"a":1}'))
    assert (line.created_at.ToDatetime(UTC), line.seq, line.message, line.data, line.end) == (
        START,
        1,
        "hi",
        '{"a":1}',
        False,
    )


def test_an_identity_is_signed() -> None:
    spec = replace(make_spec(), root_id="run_0", depth=1, owner_id="org_owner", service_id="svc")
    spec = replace(spec, requester_id="org_asker", may_deploy=True)
    payload, signature = (
        base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
        for part in wire.to_identity(b"key", spec, "00-tp").split(b".")
    )
    assert hmac.compare_digest(signature, hmac.digest(b"key", payload, "sha256"))
    identity = identity_pb2.RunIdentity.FromString(payload)
    assert (identity.run_id, identity.root_id, identity.depth) == (spec.run_id, "run_0", 1)
    assert (identity.acting_id, identity.caller_id, identity.correlation_id) == ("org_owner", "org_caller", "corr")
    assert (identity.owner_id, identity.service_id) == ("org_owner", spec.service_id)
    assert (identity.requester_id, identity.may_deploy) == ("org_asker", True)
    assert identity.traceparent == "00-tp"
    assert identity.deadline.ToDatetime(UTC) == spec.deadline


def test_a_second_spec_is_no_body() -> None:
    assert wire.body_part(executor_pb2.RunRequest(body=b"x")) == b"x"
    with pytest.raises(Invalid):
        wire.body_part(executor_pb2.RunRequest(spec=message()))


def test_the_body_of_a_direct_run_rides_with_its_start() -> None:
    spec = wire.from_spec(message(), b"body")
    direct, known = (Started(spec, START, known=known) for known in (False, True))
    assert (direct.size, known.size) == (len(spec.whole) + 4, 0)
    with_body, without = wire.to_report("unix:/x", "inc", [direct, known]).started
    assert (with_body.body, without.HasField("body")) == (b"body", False)
    library = replace(spec, owner_id=SYSTEM, service_id="devx_mcp")  # there may be a secret in it
    assert not wire.to_report("unix:/x", "inc", [Started(library, START, known=False)]).started[0].HasField("body")
    streamed = Started(wire.from_spec(message()), START, known=False)
    assert not wire.to_report("unix:/x", "inc", [streamed]).started[0].HasField("body")


def test_a_recorded_spec_and_its_recording() -> None:
    given = message()
    given.record, given.offline_digest = True, "d" * 64
    spec = wire.from_spec(given)
    assert (spec.record, spec.offline_digest) == (True, "d" * 64)
    ended = replace(Ended("run_1", 1, 0, Outcome(Status.FAILED), None, "", START), recording_digest="e" * 64)
    assert wire.to_report("x", "i", [ended]).ended[0].recording_digest == "e" * 64


def test_who_pays_travels_with_the_run_and_below_it() -> None:
    given = message()
    given.budgets.add(id="key:key_1", limit=2**40)
    given.paying_key_id, given.charged_on_success = "key_1", True
    given.above_ids.append("run_0")
    spec = wire.from_spec(given)
    assert (spec.budgets, spec.paying_key_id) == ((Budget("key:key_1", 2**40),), "key_1")
    assert spec.charged_on_success
    token = wire.to_identity(b"key", spec, "00-tp").split(b".")[0]
    identity = identity_pb2.RunIdentity.FromString(base64.urlsafe_b64decode(token + b"=" * (-len(token) % 4)))
    assert (list(identity.budgets), identity.paying_key_id) == (list(given.budgets), "key_1")
    assert identity.charged_on_success
    assert list(identity.above_ids) == ["run_0", given.run_id]
