"""Protobuf ⇄ nouns: nothing is lost on the way."""

from dataclasses import fields, replace
from datetime import timedelta

import pytest
from mesh.events.v1 import events_pb2
from mesh.runs.v1 import run_pb2, runs_pb2
from mesh.workflows.v1 import workflows_pb2

from edge import run_wire as wire
from edge.model import Budget
from edge.run_model import (
    AnswerHead,
    BodyComplete,
    Limits,
    LogLine,
    Outcome,
    RequestHead,
    RunSpec,
    Status,
    Submission,
    Trigger,
    Usage,
)
from tests.fakes.edge_runs import NOW

SPEC = RunSpec(
    owner_id="org_1",
    caller_id="org_2",
    acting_id="org_3",
    requester_id="org_4",
    may_deploy=True,
    service_id="greet",
    version_id="ver_1",
    request=RequestHead("PUT", "/a%2F", "q=1", (("x", "caf\xe9"), ("x", "2"))),
    created_at=NOW,
    run_id="run_1",
    deadline=NOW + timedelta(seconds=5),
    correlation_id="corr",
    parent_id="run_0",
    root_id="run_00",
    depth=3,
    trigger=Trigger.NESTED,
    traceparent="00-…",
    key_id="key_1",
    synchronous=True,
    budgets=(Budget("key:key_1", 0), Budget("run:run_1", 2**53 - 1)),
    paying_key_id="key_0",
    charged_on_success=True,
    above=("run_00", "run_0"),
)


def test_a_spec_arrives_whole() -> None:
    sent = wire.to_spec(SPEC)
    assert [(one.id, one.limit) for one in sent.budgets] == [("key:key_1", 0), ("run:run_1", 2**53 - 1)]
    assert list(sent.above_ids) == ["run_00", "run_0"]
    for field in fields(RunSpec):
        if field.name not in {"request", "created_at", "deadline", "trigger", "budgets", "above"}:
            assert getattr(sent, field.name) == getattr(SPEC, field.name), field.name
    assert sent.trigger == run_pb2.TRIGGER_NESTED
    assert wire.from_time(sent.created_at) == NOW
    assert wire.from_time(sent.deadline) == NOW + timedelta(seconds=5)
    assert [(each.name, each.value) for each in sent.request.headers] == [("x", b"caf\xe9"), ("x", b"2")]
    assert (sent.request.method, sent.request.path, sent.request.query) == ("PUT", "/a%2F", "q=1")


def test_a_submission_leaves_the_deadline_to_the_scheduler() -> None:
    spec = replace(SPEC, run_id="", deadline=None)
    sent = wire.to_submission(Submission(spec, timedelta(seconds=1.5), b"x", "", "run_2", "key_3"))
    assert (sent.timeout_ms, sent.body, sent.provisioned_id, sent.one_time_key_id) == (1500, b"x", "run_2", "key_3")
    assert not sent.spec.HasField("deadline")
    assert sent.spec.attempt == 0


@pytest.mark.parametrize(
    ("event", "noun"),
    [
        (run_pb2.RunEvent(body=b"x"), b"x"),
        (run_pb2.RunEvent(body_complete=True), BodyComplete()),
        (
            run_pb2.RunEvent(head=run_pb2.AnswerHead(status=201, headers=[run_pb2.Header(name="A", value=b"\xe9")])),
            AnswerHead(201, (("A", "é"),)),
        ),
        (
            run_pb2.RunEvent(
                ended=run_pb2.Outcome(status=run_pb2.RUN_STATUS_FAILED, code="c", detail="d", log_tail=["l"])
            ),
            Outcome(Status.FAILED, "c", "d", ("l",)),
        ),
        (run_pb2.RunEvent(), None),
    ],
)
def test_events(event: run_pb2.RunEvent, noun: object) -> None:
    assert wire.from_event(event) == noun


def test_a_record_of_a_provisioned_id_says_little() -> None:
    sent = runs_pb2.RunRecord(id="run_1", status=run_pb2.RUN_STATUS_PROVISIONED, created_at=wire.to_time(NOW))
    record = wire.from_record(sent)
    assert (record.status, record.answer, record.started_at, record.completed_at, record.usage) == (
        Status.PROVISIONED,
        None,
        None,
        None,
        None,
    )


def test_a_record_with_an_answer() -> None:
    sent = runs_pb2.RunRecord(
        id="run_1",
        status=run_pb2.RUN_STATUS_SUCCEEDED,
        created_at=wire.to_time(NOW),
        started_at=wire.to_time(NOW),
        completed_at=wire.to_time(NOW + timedelta(seconds=1)),
        trigger=run_pb2.TRIGGER_HOOK,
        log_tail=["a"],
        answer=run_pb2.KeptAnswer(head=run_pb2.AnswerHead(status=200), content=b"hi", size=2),
        usage=run_pb2.Usage(cpu_seconds=1.5, wall_seconds=2.5, memory_peak_bytes=3 << 30, egress_bytes=4),
    )
    record = wire.from_record(sent)
    assert record.usage == Usage(1.5, 2.5, 3 << 30, 4)
    assert record.answer is not None
    assert record.answer.whole
    assert (record.trigger, record.completed_at, record.log_tail) == (Trigger.HOOK, NOW + timedelta(seconds=1), ("a",))


def test_limits_are_the_workflows_then_the_versions_then_ours() -> None:
    reply = workflows_pb2.ResolveResponse(
        workflow=workflows_pb2.Workflow(
            organization_id="org_1",
            service_id="greet",
            visibility=workflows_pb2.VISIBILITY_TEMPLATE,
            limits=workflows_pb2.Limits(sync_timeout_ms=1000, calls_per_second=5),
        ),
        version=workflows_pb2.Version(
            id="ver_1",
            limits=workflows_pb2.Limits(sync_timeout_ms=9, async_timeout_ms=2000, api_calls_per_minute=6),
        ),
    )
    ((target, percent),) = wire.from_resolved(reply).shares
    assert percent == 100
    assert (target.owner_id, target.service_id, target.version_id, target.visibility) == (
        "org_1",
        "greet",
        "ver_1",
        "template",
    )
    limits = Limits(
        timedelta(seconds=1),
        timedelta(seconds=2),
        10 * 1024 * 1024,
        api_timeout=timedelta(seconds=1),
        calls_per_second=5,
        api_calls_per_minute=6,
    )
    assert target.limits == limits


def test_versions_that_share_a_name() -> None:
    reply = workflows_pb2.ResolveResponse(workflow=workflows_pb2.Workflow(service_id="greet"))
    reply.version.id = "ver_2"
    for number, percent in ((1, 90), (2, 10)):
        reply.shares.add(percent=percent).version.id = f"ver_{number}"
    found = wire.from_resolved(reply).shares
    assert [(target.version_id, target.service_id, percent) for target, percent in found] == [
        ("ver_1", "greet", 90),
        ("ver_2", "greet", 10),
    ]


def test_log_lines_there_and_back() -> None:
    line = LogLine(NOW, 3, "stdout", "info", "hello", '{"a":1}', end=True)
    assert wire.from_line(events_pb2.LogLine.FromString(wire.to_line(line).SerializeToString())) == line
