from dataclasses import fields, replace
from datetime import timedelta

import pytest
from mesh.events.v1 import events_pb2
from mesh.executor.v1 import executor_pb2
from mesh.ledger.v1 import ledger_pb2
from mesh.runs.v1 import run_pb2, runs_pb2
from mesh.schedules.v1 import schedules_pb2
from mesh.workflows.v1 import workflows_pb2

from kit.errors import Invalid
from scheduler import schedule_wire, wire, workflow_wire
from scheduler.billing import Billing, Budget
from scheduler.model import CANCELLED, Asker, Event, Outcome, Provision, Queued, RunEnded, RunQueued, Status, Trigger
from scheduler.model import WorkflowChanged as Changed
from scheduler.result import Answer, Result
from scheduler.usage import Usage
from scheduler.workflow import Check, EnvVar, Limits, Report, Visibility
from tests.fakes.scheduling import HOME, INPUT, START, VERSION, WORKFLOW, a_run

BUDGET = ledger_pb2.Budget(id="key:key_0", limit=5)
TRACEPARENT = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
HEAD = run_pb2.RequestHead(
    method="POST", path="/x", query="a=b", headers=[run_pb2.Header(name="x", value=b"\xff"), run_pb2.Header(name="x")]
)

ABOVE = ("run_root", "run_parent")


def a_spec(**changes: object) -> run_pb2.RunSpec:
    spec = run_pb2.RunSpec(
        owner_id="org_owner",
        caller_id="org_caller",
        service_id="hello",
        version_id="ver_1",
        request=HEAD,
        trigger=run_pb2.TRIGGER_NESTED,
        depth=1,
        parent_id="run_parent",
        root_id="run_root",
        correlation_id="corr",
    )
    spec.MergeFrom(run_pb2.RunSpec(**changes))  # type: ignore[arg-type]
    return spec


@pytest.mark.parametrize("above", [["run_0", "run_0"], [""], ["r" * 41], [f"run_{number}" for number in range(17)]])
def test_runs_above_that_cant_be(above: list[str]) -> None:
    with pytest.raises(Invalid):
        wire.billing(a_spec(above_ids=above))


def test_a_submission_and_what_the_executor_gets() -> None:
    request = runs_pb2.SubmitRequest(
        spec=a_spec(may_deploy=True, budgets=[BUDGET], paying_key_id="key_0", charged_on_success=True, above_ids=ABOVE),
        provisioned_id="run_p",
        one_time_key_id="key_1",
        body=b"body",
        timeout_ms=1500,
    )
    submission = wire.submission(request, TRACEPARENT)
    assert (submission.acting_id, submission.requester_id) == ("org_owner", "org_caller")
    assert (submission.trigger, submission.timeout) == (Trigger.NESTED, timedelta(milliseconds=1500))
    assert (submission.provisioned_id, submission.one_time_key_id) == ("run_p", "key_1")
    assert (submission.trace_id, submission.may_deploy) == ("a" * 32, True)
    assert submission.billing == Billing((Budget("key:key_0", 5),), "key_0", charged_on_success=True, above=ABOVE)
    run = a_run(trigger=Trigger.NESTED, depth=1, traceparent=TRACEPARENT, epoch=2, billing=submission.billing)
    start = wire.start_request(Queued(run, submission.input))
    assert list(start.spec.budgets) == [BUDGET]
    assert (start.spec.paying_key_id, start.spec.charged_on_success) == ("key_0", True)
    assert tuple(start.spec.above_ids) == ABOVE
    assert start.spec.request == HEAD
    assert (start.spec.run_id, start.spec.traceparent, start.spec.epoch) == (run.id, TRACEPARENT, 2)
    assert start.spec.deadline.ToDatetime() == run.deadline.replace(tzinfo=None)
    assert (start.body, start.body_digest) == (b"body", "")


def test_a_whole_spec_makes_the_same_run_as_the_one_that_was_sent() -> None:
    run = a_run(trigger=Trigger.NESTED, depth=1, traceparent=TRACEPARENT, root_id="run_root", parent_id="run_root")
    run = replace(run, trace_id="a" * 32, correlation_id="c", key_id="key_1", synchronous=True, requester_id="org_p")
    run = replace(run, may_deploy=True, billing=Billing((Budget("run:a", 0), Budget("run:b", 1)), "key_9"))
    spec = wire.start_request(Queued(run, INPUT)).spec
    started = wire.started(runs_pb2.RunStarted(spec=spec, started_at=wire.timestamp(START)))
    assert started.run == run
    assert started.at == START


@pytest.mark.parametrize(
    "budgets",
    [
        [ledger_pb2.Budget(id="", limit=1)],
        [ledger_pb2.Budget(id="x" * 61, limit=1)],
        [ledger_pb2.Budget(id="run:a", limit=-1)],
        [ledger_pb2.Budget(id="run:a", limit=2**53)],
        [BUDGET, BUDGET],
        [ledger_pb2.Budget(id=f"run:{n}", limit=1) for n in range(18)],
    ],
)
def test_budgets_that_cant_be_are_refused(budgets: list[ledger_pb2.Budget]) -> None:
    with pytest.raises(Invalid, match="budget"):
        wire.submission(runs_pb2.SubmitRequest(spec=a_spec(budgets=budgets)), "")


def test_a_schedule_bears_its_makers_budget() -> None:
    request = schedules_pb2.CreateScheduleRequest(created_by="run_1", budgets=[BUDGET], paying_key_id="key_0")
    assert schedule_wire.wish(request).billing == Billing((Budget("key:key_0", 5),), "key_0")


def test_a_known_run_needs_no_spec() -> None:
    started = wire.started(runs_pb2.RunStarted(spec=run_pb2.RunSpec(run_id="run_1", attempt=3)))
    assert (started.run, started.run_id, started.attempt, started.at) == (None, "run_1", 3, None)


@pytest.mark.parametrize(
    "request_",
    [
        runs_pb2.SubmitRequest(spec=a_spec(), body=b"x" * 65537),
        runs_pb2.SubmitRequest(spec=a_spec(), body=b"x", body_digest="d"),
        runs_pb2.SubmitRequest(spec=a_spec(correlation_id="c" * 257)),
        runs_pb2.SubmitRequest(spec=run_pb2.RunSpec(caller_id="org")),
        runs_pb2.SubmitRequest(spec=a_spec(request=run_pb2.RequestHead(query="x" * 300_000))),
    ],
)
def test_submissions_are_bounded(request_: runs_pb2.SubmitRequest) -> None:
    with pytest.raises(Invalid):
        wire.submission(request_, "")


def test_an_end_is_bounded() -> None:
    outcome = run_pb2.Outcome(
        status=run_pb2.RUN_STATUS_FAILED, code="timeout", detail="d" * 99_999, log_tail=["l" * 9999] * 99
    )
    kept = run_pb2.KeptAnswer(head=run_pb2.AnswerHead(status=200), content=b"x", size=1)
    ended = wire.ended(runs_pb2.RunEnded(run_id="run_1", attempt=1, outcome=outcome, answer=kept, log_digest="f" * 64))
    assert ended.outcome.status is Status.FAILED
    assert len(ended.outcome.detail) == 16_000
    assert {len(line) for line in ended.outcome.log_tail} == {2000}
    assert len(ended.outcome.log_tail) == 50
    record = wire.record(replace(a_run(), status=Status.FAILED, answer=ended.result.answer))
    assert record.answer == kept
    with pytest.raises(Invalid):
        wire.ended(runs_pb2.RunEnded(outcome=run_pb2.Outcome(status=run_pb2.RUN_STATUS_RUNNING)))
    big = run_pb2.KeptAnswer(content=b"x" * 65537)
    with pytest.raises(Invalid):
        wire.ended(runs_pb2.RunEnded(outcome=outcome, answer=big))


@pytest.mark.parametrize(
    ("status", "said", "refused"), [(200, False, False), (399, True, True), (400, False, True), (0, False, False)]
)
def test_what_is_no_success_under_api(status: int, said: bool, refused: bool) -> None:
    outcome = run_pb2.Outcome(status=run_pb2.RUN_STATUS_SUCCEEDED)
    kept = run_pb2.KeptAnswer(head=run_pb2.AnswerHead(status=status)) if status else None
    ended = wire.ended(runs_pb2.RunEnded(run_id="run_1", outcome=outcome, answer=kept, refused=said))
    assert ended.result.refused is refused


def test_what_was_used_arrives_and_is_bounded() -> None:
    outcome = run_pb2.Outcome(status=run_pb2.RUN_STATUS_SUCCEEDED)
    used = run_pb2.Usage(cpu_seconds=0.25, wall_seconds=1.5, memory_peak_bytes=1 << 40, egress_bytes=9)
    ended = wire.ended(runs_pb2.RunEnded(run_id="run_1", outcome=outcome, usage=used))
    assert ended.result.usage == Usage(0.25, 1.5, 1 << 40, 9)
    record = wire.record(a_run().ended(ended.outcome, at=START, result=ended.result))
    assert record.usage == used
    assert wire.ended(runs_pb2.RunEnded(outcome=outcome)).result.usage is None
    assert not wire.record(a_run()).HasField("usage")
    odd = run_pb2.Usage(cpu_seconds=float("nan"), wall_seconds=float("inf"), memory_peak_bytes=-1, egress_bytes=-1)
    assert wire.ended(runs_pb2.RunEnded(outcome=outcome, usage=odd)).result.usage == Usage()


def test_records() -> None:
    run = a_run().started(executor=HOME, incarnation="one", at=START)
    record = wire.record(run.ended(CANCELLED, at=START, result=Result(Answer(b"", digest="f" * 64, size=9))))
    assert (record.status, record.code, record.executor) == (run_pb2.RUN_STATUS_CANCELLED, "cancelled", HOME)
    assert (record.answer.digest, record.answer.size) == ("f" * 64, 9)
    assert not wire.record(run).HasField("completed_at")
    assert not wire.record(run).HasField("answer")
    provision = wire.record(Provision("run_p", "org_a", "key_1", START))
    assert (provision.id, provision.status, provision.caller_id) == ("run_p", run_pb2.RUN_STATUS_PROVISIONED, "org_a")


def test_cancels() -> None:
    assert wire.cancel_outcome(runs_pb2.CancelRunRequest()) == CANCELLED
    wanted = runs_pb2.CancelRunRequest(status=run_pb2.RUN_STATUS_TIMED_OUT, detail="120 s")
    assert wire.cancel_outcome(wanted) == Outcome(Status.TIMED_OUT, "timeout", "120 s")
    with pytest.raises(Invalid):
        wire.cancel_outcome(runs_pb2.CancelRunRequest(status=run_pb2.RUN_STATUS_SUCCEEDED))
    stop = wire.stop_request("run_1", CANCELLED)
    assert (stop.run_id, stop.outcome.status, stop.outcome.code) == ("run_1", run_pb2.RUN_STATUS_CANCELLED, "cancelled")


def test_questions() -> None:
    asked = runs_pb2.GetRunRequest(organization_id="org_a", one_time_key_id="key_1", exact=True)
    assert wire.asker(asked) == Asker("org_a", "key_1", exact=True)
    query = wire.history_query(runs_pb2.ListRunsRequest(organization_id="org_a", status=run_pb2.RUN_STATUS_FAILED))
    assert (query.limit, query.status, query.trace_id) == (100, Status.FAILED, "")
    assert wire.history_query(runs_pb2.ListRunsRequest(organization_id="org_a", trace_id="a1")).trace_id == "a1"
    with pytest.raises(Invalid):
        wire.history_query(runs_pb2.ListRunsRequest(status=run_pb2.RunStatus.ValueType(77)))
    for limit in (-1, 1001):
        with pytest.raises(Invalid):
            wire.page_limit(limit)


def test_events() -> None:
    run = a_run().ended(CANCELLED, at=START)
    queued = events_pb2.RunsQueued(run_ids=["run_1", "run_2"])
    changed = events_pb2.WorkflowChanged(organization_id="org_a", service_id="svc")
    ended = events_pb2.RunEnded(run_id=run.id, caller_id=run.caller_id, status=run_pb2.RUN_STATUS_CANCELLED)
    assert wire.messages([]) == []
    told: list[Event] = [RunEnded(run), RunQueued("run_1"), Changed("org_a", "svc"), RunEnded(run), RunQueued("run_2")]
    assert wire.messages(told) == [
        ("event.workflow.changed", changed),
        ("event.runs.queued", queued),
        ("event.runs.ended", events_pb2.RunsEnded(runs=[ended, ended])),
    ]


def test_workflows_and_versions() -> None:
    limits = Limits(**{item.name: number for number, item in enumerate(fields(Limits), 1)})
    message = workflow_wire.workflow(replace(WORKFLOW, limits=limits, visibility=Visibility.TEMPLATE), "{}")
    assert (message.visibility, message.openapi) == (workflows_pb2.VISIBILITY_TEMPLATE, "{}")
    assert workflow_wire.limits(message.limits) == limits
    version = workflow_wire.version(replace(VERSION, env_vars=(EnvVar("A"), EnvVar("B", ""))))
    assert [item.HasField("default") for item in version.env_vars] == [False, True]
    assert version.created_at.ToDatetime() == START.replace(tzinfo=None)


def test_a_report_round_trips() -> None:
    check = Check("secrets", passed=False, detail="X", line=2, advisory=True)
    response = executor_pb2.ValidateResponse(
        report=workflow_wire.checks([check]),
        python="3.11",
        env_vars=[workflows_pb2.EnvVar(name="A"), workflows_pb2.EnvVar(name="B", default="")],
        isolation="run",
        limits=workflows_pb2.Limits(memory_bytes=1 << 30, cpu_millis=500, processes=9, disk_bytes=1 << 31),
    )
    limits = Limits(memory_bytes=1 << 30, cpu_millis=500, processes=9, disk_bytes=1 << 31)
    wanted = Report((check,), python="3.11", isolation="run", env_vars=(EnvVar("A"), EnvVar("B", "")), limits=limits)
    assert workflow_wire.report(response) == wanted


def test_changes() -> None:
    nothing = workflow_wire.change(workflows_pb2.UpdateWorkflowRequest())
    assert (nothing.name, nothing.visibility, nothing.limits) == (None, None, Limits())
    request = workflows_pb2.UpdateWorkflowRequest(name="n", visibility=workflows_pb2.VISIBILITY_PUBLIC)
    assert workflow_wire.change(request).visibility is Visibility.PUBLIC
    with pytest.raises(Invalid):
        workflow_wire.visibility(9)


def test_a_replay_goes_there_and_comes_back() -> None:
    spec = a_spec(replay_of="run_1", offline_digest="d" * 64, record=True, trigger=run_pb2.TRIGGER_REPLAY)
    submission = wire.submission(runs_pb2.SubmitRequest(spec=spec), "")
    assert (submission.replay_of, submission.offline_digest, submission.record) == ("run_1", "d" * 64, True)
    run = a_run(replay_of="run_1", offline_digest="d" * 64, record=True, recording_digest="e" * 64)
    started = wire.start_request(Queued(run, INPUT)).spec
    assert (started.replay_of, started.offline_digest, started.record) == ("run_1", "d" * 64, True)
    record = wire.record(run)
    assert (record.replay_of, record.offline, record.recording_digest) == ("run_1", True, "e" * 64)
    ended = runs_pb2.RunEnded(outcome=run_pb2.Outcome(status=run_pb2.RUN_STATUS_FAILED), recording_digest="f" * 64)
    assert wire.ended(ended).result.recording_digest == "f" * 64


def test_the_input_of_a_direct_run_comes_with_its_start() -> None:
    spec = wire.start_request(Queued(a_run(), INPUT)).spec
    spec.request.CopyFrom(HEAD)
    for body, kept in ((b"", b""), (b"body", b"body"), (b"x" * 65_537, None), (None, None)):
        given = wire.started(runs_pb2.RunStarted(spec=spec, body=body)).given
        assert (given.body if given else None) == kept
        assert given is None or wire.given(given).request == HEAD
    known = runs_pb2.RunStarted(spec=run_pb2.RunSpec(run_id="run_1"), body=b"body")
    assert wire.started(known).given is None
