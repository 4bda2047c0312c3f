"""Runs: protobuf ⇄ model. Pure functions; bounds what comes from outside."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from mesh.events.v1 import events_pb2
from mesh.executor.v1 import executor_pb2
from mesh.ledger.v1 import ledger_pb2
from mesh.runs.v1 import run_pb2, runs_pb2
from mesh.schedules.v1 import schedules_pb2

from kit import telemetry
from kit.errors import Invalid
from scheduler import bill_wire
from scheduler.billing import Billing, Budget, check_above, check_budgets
from scheduler.delivery import check_url
from scheduler.estimate import Waiting
from scheduler.fleet import Lease
from scheduler.model import (
    INLINE_BYTES,
    Asker,
    Event,
    History,
    Input,
    Outcome,
    Provision,
    Queued,
    Run,
    RunEnded,
    RunQueued,
    Status,
    Trigger,
    WorkflowChanged,
)
from scheduler.report import Ended, Started
from scheduler.result import Answer, Result
from scheduler.submit import Submission
from scheduler.usage import Usage

MOST_HEAD_BYTES = 256 * 1024
MOST_TAIL_LINES = 50
MOST_TAIL_CHARS = 2000
MOST_DETAIL_CHARS = 16_000
MOST_SECONDS = 1e9
MOST_RETRIES = 100
LEAST_PRIORITY, MOST_PRIORITY = -1, 1
MOST_IDEMPOTENCY_KEY = 256


def timestamp(at: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


def moment(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)


def page_limit(limit: int) -> int:
    """1 to 1000; 0 means 100. Errors: Invalid."""
    if not 0 <= limit <= 1000:
        raise Invalid("limit must be 1 to 1000")
    return limit or 100


def submission(request: runs_pb2.SubmitRequest, traceparent: str) -> Submission:
    """`traceparent` is of the span that the run hangs under. Errors: Invalid."""
    spec = request.spec
    head = spec.request.SerializeToString()
    if len(request.body) > INLINE_BYTES or len(head) > MOST_HEAD_BYTES:
        raise Invalid(f"a body over {INLINE_BYTES} bytes travels by digest", code="too_large")
    if request.body and request.body_digest:
        raise Invalid("a body is given inline or by digest, not both")
    if not (spec.owner_id and spec.caller_id and spec.service_id and spec.version_id):
        raise Invalid("a run needs owner, caller, service and version")
    if len(spec.correlation_id) > 256:
        raise Invalid("X-Correlation-Id has more than 256 characters")
    return Submission(
        owner_id=spec.owner_id,
        caller_id=spec.caller_id,
        acting_id=spec.acting_id or spec.owner_id,
        requester_id=spec.requester_id or spec.caller_id,
        service_id=spec.service_id,
        version_id=spec.version_id,
        input=Input(head, request.body, request.body_digest),
        timeout=timedelta(milliseconds=request.timeout_ms),
        trigger=_trigger(spec.trigger),
        correlation_id=spec.correlation_id,
        parent_id=spec.parent_id,
        root_id=spec.root_id,
        depth=spec.depth,
        traceparent=traceparent,
        trace_id=telemetry.trace_id(traceparent),
        key_id=spec.key_id,
        synchronous=spec.synchronous,
        provisioned_id=request.provisioned_id,
        one_time_key_id=request.one_time_key_id,
        retries=max(0, min(spec.retries, MOST_RETRIES)),
        priority=max(LEAST_PRIORITY, min(spec.priority, MOST_PRIORITY)),
        idempotency_key=request.idempotency_key[:MOST_IDEMPOTENCY_KEY],
        fingerprint=request.fingerprint[:64],
        may_deploy=spec.may_deploy,
        callback_url=check_url(request.callback_url),
        replay_of=spec.replay_of[:40],
        offline_digest=spec.offline_digest[:64],
        record=spec.record,
        billing=billing(spec),
    )


def billing(message: run_pb2.RunSpec | schedules_pb2.CreateScheduleRequest) -> Billing:
    """Errors: Invalid."""
    budgets = check_budgets([Budget(one.id, one.limit) for one in message.budgets])
    paid = Billing(budgets, message.paying_key_id[:40])
    if isinstance(message, run_pb2.RunSpec):
        return replace(paid, charged_on_success=message.charged_on_success, above=check_above(message.above_ids))
    return paid


def _trigger(number: int) -> Trigger:
    return Trigger(number) if number in Trigger.__members__.values() else Trigger.API


def start_request(queued: Queued) -> executor_pb2.StartRequest:
    run, given = queued.run, queued.input
    spec = run_pb2.RunSpec(
        run_id=run.id,
        owner_id=run.owner_id,
        caller_id=run.caller_id,
        acting_id=run.acting_id,
        requester_id=run.requester_id,
        service_id=run.service_id,
        version_id=run.version_id,
        request=run_pb2.RequestHead.FromString(given.request),
        correlation_id=run.correlation_id,
        parent_id=run.parent_id,
        root_id=run.root_id,
        depth=run.depth,
        trigger=run_pb2.Trigger.ValueType(int(run.trigger)),
        deadline=timestamp(run.deadline),
        traceparent=run.traceparent,
        attempt=run.attempt,
        epoch=run.epoch,
        created_at=timestamp(run.created_at),
        key_id=run.key_id,
        synchronous=run.synchronous,
        retries=run.retries,
        may_deploy=run.may_deploy,
        replay_of=run.replay_of,
        offline_digest=run.offline_digest,
        record=run.record,
        budgets=[ledger_pb2.Budget(id=one.id, limit=one.limit) for one in run.billing.budgets],
        paying_key_id=run.billing.paying_key_id,
        charged_on_success=run.billing.charged_on_success,
        above_ids=run.billing.above,
    )
    return executor_pb2.StartRequest(
        spec=spec, body=given.body, body_digest=given.body_digest, incarnation=run.incarnation
    )


def stop_request(run_id: str, outcome: Outcome) -> executor_pb2.StopRequest:
    status = run_pb2.RunStatus.ValueType(int(outcome.status))
    return executor_pb2.StopRequest(
        run_id=run_id, outcome=run_pb2.Outcome(status=status, code=outcome.code, detail=outcome.detail)
    )


def started(message: runs_pb2.RunStarted) -> Started:
    """Whole for a run of the direct way, else little more than its id."""
    spec = message.spec
    at = moment(message.started_at) if message.HasField("started_at") else None
    if not spec.version_id:
        return Started(spec.run_id, at, attempt=spec.attempt, epoch=spec.epoch)
    run = Run(
        id=spec.run_id,
        owner_id=spec.owner_id,
        caller_id=spec.caller_id,
        acting_id=spec.acting_id or spec.owner_id,
        requester_id=spec.requester_id or spec.caller_id,
        service_id=spec.service_id,
        version_id=spec.version_id,
        status=Status.QUEUED,
        created_at=moment(spec.created_at),
        deadline=moment(spec.deadline),
        trigger=_trigger(spec.trigger),
        correlation_id=spec.correlation_id[:256],
        parent_id=spec.parent_id,
        root_id=spec.root_id or spec.run_id,
        depth=spec.depth,
        traceparent=spec.traceparent,
        trace_id=telemetry.trace_id(spec.traceparent),
        attempt=spec.attempt,
        epoch=spec.epoch,
        key_id=spec.key_id,
        synchronous=spec.synchronous,
        due_at=moment(spec.created_at),
        may_deploy=spec.may_deploy,
        billing=billing(spec),
    )
    small = message.HasField("body") and len(message.body) <= INLINE_BYTES
    given = Input(spec.request.SerializeToString(), message.body) if small else None
    return Started(spec.run_id, at, attempt=spec.attempt, epoch=spec.epoch, run=run, given=given)


def ended(message: runs_pb2.RunEnded) -> Ended:
    """Errors: Invalid when its outcome is no end."""
    return Ended(
        run_id=message.run_id,
        attempt=message.attempt,
        epoch=message.epoch,
        outcome=outcome(message.outcome),
        at=moment(message.completed_at) if message.HasField("completed_at") else None,
        result=Result(
            answer=_answer(message.answer) if message.HasField("answer") else None,
            log_digest=message.log_digest[:64],
            egress_digest=message.egress_digest[:64],
            usage=_usage(message.usage) if message.HasField("usage") else None,
            recording_digest=message.recording_digest[:64],
            input_sha256=message.input_sha256[:64],
            output_sha256=message.output_sha256[:64],
            refused=message.refused or message.answer.head.status >= 400,
        ),
        handed_back=message.handed_back,
        bill=bill_wire.bill(message),
    )


def _usage(message: run_pb2.Usage) -> Usage:
    """What can't be counts as nothing."""
    cpu, wall = (value if 0 <= value <= MOST_SECONDS else 0.0 for value in (message.cpu_seconds, message.wall_seconds))
    counted = (message.memory_peak_bytes, message.egress_bytes, message.tokens_in, message.tokens_out)
    return Usage(cpu, wall, *(max(0, number) for number in counted))


def outcome(message: run_pb2.Outcome) -> Outcome:
    """Errors: Invalid."""
    if message.status < Status.SUCCEEDED or message.status > Status.DEAD:
        raise Invalid(f"{message.status} is not the end of a run")
    tail = tuple(line[:MOST_TAIL_CHARS] for line in message.log_tail[-MOST_TAIL_LINES:])
    return Outcome(Status(message.status), message.code[:40], message.detail[:MOST_DETAIL_CHARS], tail)


def _answer(message: run_pb2.KeptAnswer) -> Answer | None:
    if not (message.HasField("head") or message.content or message.digest):
        return None
    if len(message.content) > INLINE_BYTES:
        raise Invalid(f"an answer over {INLINE_BYTES} bytes is kept by digest", code="too_large")
    return Answer(message.head.SerializeToString(), message.content, message.digest[:64], message.size)


def asker(request: runs_pb2.GetRunRequest | runs_pb2.WatchRunRequest) -> Asker:
    return Asker(request.organization_id, request.one_time_key_id, exact=request.exact)


def cancel_outcome(request: runs_pb2.CancelRunRequest) -> Outcome:
    """Cancelled, or timed out. Errors: Invalid."""
    if request.status == run_pb2.RUN_STATUS_TIMED_OUT:
        return Outcome(Status.TIMED_OUT, "timeout", request.detail[:1000] or "the caller's time limit passed")
    if request.status in {run_pb2.RUN_STATUS_CANCELLED, run_pb2.RUN_STATUS_UNSPECIFIED}:
        return Outcome(Status.CANCELLED, "cancelled", request.detail[:1000] or "the run was cancelled")
    raise Invalid("a run is cancelled as cancelled or as timed_out")


def history_query(request: runs_pb2.ListRunsRequest) -> History:
    """Errors: Invalid."""
    if request.status not in {0, *map(int, Status)}:
        raise Invalid("status is none that a run can have")
    status = Status(request.status) if request.status else None
    return History(
        request.organization_id,
        request.service_id,
        status,
        page_limit(request.limit),
        request.after,
        request.trace_id,
    )


def record(run: Run | Provision, waiting: Waiting | None = None, nested: int = 0) -> runs_pb2.RunRecord:
    """As callers of the mesh see it; a provisioned id without a run has no more than its beginning. `nested`: what all
    below it were charged.
    """
    if isinstance(run, Provision):
        return runs_pb2.RunRecord(
            id=run.id,
            caller_id=run.organization_id,
            acting_id=run.organization_id,
            status=run_pb2.RUN_STATUS_PROVISIONED,
            created_at=timestamp(run.created_at),
            key_id=run.key_id,
        )
    return runs_pb2.RunRecord(
        id=run.id,
        owner_id=run.owner_id,
        caller_id=run.caller_id,
        acting_id=run.acting_id,
        service_id=run.service_id,
        version_id=run.version_id,
        status=run_pb2.RunStatus.ValueType(int(run.status)),
        code=run.code,
        detail=run.detail,
        log_tail=run.log_tail,
        correlation_id=run.correlation_id,
        parent_id=run.parent_id,
        root_id=run.root_id,
        trace_id=run.trace_id,
        attempt=run.attempt,
        trigger=run_pb2.Trigger.ValueType(int(run.trigger)),
        created_at=timestamp(run.created_at),
        started_at=timestamp(run.started_at) if run.started_at else None,
        completed_at=timestamp(run.completed_at) if run.completed_at else None,
        answer=_kept(run.answer),
        # Where it runs or ran: who wants its answer goes there.
        executor="" if run.status is Status.QUEUED else run.executor,
        log_digest=run.log_digest,
        earlier_logs=[one.log_digest for one in run.earlier if one.log_digest],
        key_id=run.key_id,
        usage=run_pb2.Usage(**vars(run.usage)) if run.usage else None,
        egress_digest=run.egress_digest,
        position=waiting.position if waiting else 0,
        wait_ms=_milliseconds(waiting.wait) if waiting and waiting.wait is not None else None,
        replay_of=run.replay_of,
        offline=bool(run.offline_digest),
        recording_digest=run.recording_digest,
        input_sha256=run.input_sha256,
        output_sha256=run.output_sha256,
        cost_own=run.cost_own,
        cost_nested=nested,
    )


def given(found: Input) -> runs_pb2.GetInputResponse:
    request = run_pb2.RequestHead.FromString(found.request)
    return runs_pb2.GetInputResponse(request=request, body=found.body, body_digest=found.body_digest)


def _milliseconds(span: timedelta) -> int:
    return round(span.total_seconds() * 1000)


def _kept(answer: Answer | None) -> run_pb2.KeptAnswer | None:
    if answer is None:
        return None
    head = run_pb2.AnswerHead.FromString(answer.head)
    return run_pb2.KeptAnswer(head=head, content=answer.content, digest=answer.digest, size=answer.size)


def messages(events: Iterable[Event]) -> list[tuple[str, Message]]:
    """(subject, message) each, on the bus; the beginnings of many runs are one message, and their ends another."""
    told: list[tuple[str, Message]] = []
    queued, ended = events_pb2.RunsQueued(), events_pb2.RunsEnded()
    for happened in events:
        match happened:
            case RunEnded(run):
                status = run_pb2.RunStatus.ValueType(int(run.status))
                ended.runs.append(events_pb2.RunEnded(run_id=run.id, caller_id=run.caller_id, status=status))
            case RunQueued(run_id):
                queued.run_ids.append(run_id)
            case WorkflowChanged(organization_id, service_id):
                changed = events_pb2.WorkflowChanged(organization_id=organization_id, service_id=service_id)
                told.append(("event.workflow.changed", changed))
    if queued.run_ids:
        told.append(("event.runs.queued", queued))
    if ended.runs:
        told.append(("event.runs.ended", ended))
    return told


def lease(request: runs_pb2.RenewLeaseRequest) -> Lease:
    """What an executor says; until when it holds is set by who takes it."""
    return Lease(
        address=request.address,
        incarnation=request.incarnation,
        running=max(0, request.running),
        capacity=max(0, request.capacity),
        draining=request.draining,
        expires_at=datetime.min.replace(tzinfo=UTC),
    )
