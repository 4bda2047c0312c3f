"""mesh.runs, mesh.executor and mesh.events messages ⇄ the nouns of run_model. Pure."""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp
from mesh.events.v1 import events_pb2
from mesh.executor.v1 import executor_pb2
from mesh.runs.v1 import run_pb2, runs_pb2
from mesh.workflows.v1 import workflows_pb2

from edge.run_model import (
    AnswerHead,
    BodyComplete,
    Given,
    Headers,
    KeptAnswer,
    Limits,
    LogLine,
    Outcome,
    RequestHead,
    Resolved,
    RunEvent,
    RunRecord,
    RunSpec,
    Status,
    Submission,
    Target,
    Trigger,
    Usage,
    WholeAnswer,
)
from edge.wire import to_budgets

_VISIBILITY = {
    workflows_pb2.VISIBILITY_PUBLIC: "public",
    workflows_pb2.VISIBILITY_TEMPLATE: "template",
    workflows_pb2.VISIBILITY_OPEN: "open",
}
_STATUSES = {status.value: status for status in Status}
_TRIGGERS = {trigger.value: trigger for trigger in Trigger}


def to_time(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def from_time(stamp: Timestamp) -> datetime:
    return stamp.ToDatetime(tzinfo=UTC)


def to_headers(headers: Headers) -> list[run_pb2.Header]:
    return [run_pb2.Header(name=name, value=value.encode("latin-1", "replace")) for name, value in headers]


def from_headers(headers: Iterable[run_pb2.Header]) -> Headers:
    return tuple((header.name, header.value.decode("latin-1")) for header in headers)


def to_spec(spec: RunSpec) -> run_pb2.RunSpec:
    head = spec.request
    return run_pb2.RunSpec(
        run_id=spec.run_id,
        owner_id=spec.owner_id,
        caller_id=spec.caller_id,
        acting_id=spec.acting_id,
        requester_id=spec.requester_id,
        service_id=spec.service_id,
        version_id=spec.version_id,
        request=run_pb2.RequestHead(
            method=head.method, path=head.path, query=head.query, headers=to_headers(head.headers)
        ),
        correlation_id=spec.correlation_id,
        parent_id=spec.parent_id,
        root_id=spec.root_id,
        depth=spec.depth,
        trigger=run_pb2.Trigger.Value(f"TRIGGER_{spec.trigger.name}"),
        deadline=to_time(spec.deadline) if spec.deadline else None,
        traceparent=spec.traceparent,
        attempt=1 if spec.run_id else 0,
        created_at=to_time(spec.created_at),
        key_id=spec.key_id,
        synchronous=spec.synchronous,
        retries=spec.retries,
        priority=spec.priority,
        may_deploy=spec.may_deploy,
        replay_of=spec.replay_of,
        offline_digest=spec.offline_digest,
        record=spec.record,
        budgets=to_budgets(spec.budgets),
        paying_key_id=spec.paying_key_id,
        charged_on_success=spec.charged_on_success,
        above_ids=spec.above,
    )


def to_submission(submission: Submission) -> runs_pb2.SubmitRequest:
    return runs_pb2.SubmitRequest(
        spec=to_spec(submission.spec),
        provisioned_id=submission.provisioned_id,
        one_time_key_id=submission.one_time_key_id,
        callback_url=submission.callback_url,
        body=submission.body,
        body_digest=submission.body_digest,
        timeout_ms=int(submission.timeout.total_seconds() * 1000),
        idempotency_key=submission.idempotency_key,
        fingerprint=submission.fingerprint,
    )


def from_head(head: run_pb2.AnswerHead) -> AnswerHead:
    return AnswerHead(head.status, from_headers(head.headers))


def from_outcome(outcome: run_pb2.Outcome) -> Outcome:
    return Outcome(status(outcome.status), outcome.code, outcome.detail, tuple(outcome.log_tail))


def status(number: int) -> Status:
    """A status that we don't know yet counts as failed: it is terminal, and no success."""
    return _STATUSES.get(number, Status.FAILED)


def from_event(event: run_pb2.RunEvent) -> RunEvent | None:
    """None for a kind of event that we don't know."""
    kind = event.WhichOneof("event")
    if kind == "body":
        return event.body
    if kind == "head":
        return from_head(event.head)
    if kind == "body_complete":
        return BodyComplete()
    return from_outcome(event.ended) if kind == "ended" else None


def from_called(called: executor_pb2.CallResponse) -> WholeAnswer | Outcome | None:
    """None for an answer that must be attached to."""
    kind = called.WhichOneof("result")
    if kind == "answer":
        return WholeAnswer(from_head(called.answer.head), called.answer.body)
    return from_outcome(called.ended) if kind == "ended" else None


def from_record(record: runs_pb2.RunRecord) -> RunRecord:
    kept = record.answer
    answer = KeptAnswer(from_head(kept.head), kept.content, kept.digest, kept.size) if kept.head.status else None
    return RunRecord(
        id=record.id,
        status=status(record.status),
        created_at=from_time(record.created_at),
        owner_id=record.owner_id,
        caller_id=record.caller_id,
        acting_id=record.acting_id,
        service_id=record.service_id,
        version_id=record.version_id,
        code=record.code,
        detail=record.detail,
        log_tail=tuple(record.log_tail),
        correlation_id=record.correlation_id,
        parent_id=record.parent_id,
        root_id=record.root_id,
        trace_id=record.trace_id,
        attempt=record.attempt,
        trigger=_TRIGGERS.get(record.trigger, Trigger.API),
        started_at=from_time(record.started_at) if record.HasField("started_at") else None,
        completed_at=from_time(record.completed_at) if record.HasField("completed_at") else None,
        answer=answer,
        executor=record.executor,
        log_digest=record.log_digest,
        egress_digest=record.egress_digest,
        usage=_usage(record.usage) if record.HasField("usage") else None,
        earlier_logs=tuple(record.earlier_logs),
        position=record.position,
        replay_of=record.replay_of,
        offline=record.offline,
        recording_digest=record.recording_digest,
        input_sha256=record.input_sha256,
        output_sha256=record.output_sha256,
        cost_own=record.cost_own,
        cost_nested=record.cost_nested,
        wait=timedelta(milliseconds=record.wait_ms) if record.HasField("wait_ms") else None,
    )


def from_given(reply: runs_pb2.GetInputResponse) -> Given:
    head = reply.request
    request = RequestHead(head.method, head.path, head.query, from_headers(head.headers))
    return Given(request, reply.body, reply.body_digest)


def _usage(usage: run_pb2.Usage) -> Usage:
    return Usage(
        usage.cpu_seconds,
        usage.wall_seconds,
        usage.memory_peak_bytes,
        usage.egress_bytes,
        usage.tokens_in,
        usage.tokens_out,
    )


def from_resolved(resolved: workflows_pb2.ResolveResponse) -> Resolved:
    shares = [(share.version, share.percent) for share in resolved.shares] or [(resolved.version, 100)]
    return Resolved(tuple((_target(resolved.workflow, version), percent) for version, percent in shares))


def _target(workflow: workflows_pb2.Workflow, version: workflows_pb2.Version) -> Target:
    return Target(
        owner_id=workflow.organization_id,
        service_id=workflow.service_id,
        version_id=version.id,
        visibility=_VISIBILITY.get(workflow.visibility, "private"),
        workflow_id=workflow.id,
        limits=_limits(workflow.limits, version.limits),
        published=workflow.published,
        variables=tuple(version.prompt.variables) if version.HasField("prompt") else None,
    )


def _limits(ours: workflows_pb2.Limits, versions: workflows_pb2.Limits) -> Limits:
    """The workflow's, else the version's, else the platform's."""
    default = Limits()
    sync_ms = ours.sync_timeout_ms or versions.sync_timeout_ms
    async_ms = ours.async_timeout_ms or versions.async_timeout_ms
    return Limits(
        sync_timeout=timedelta(milliseconds=sync_ms) if sync_ms else default.sync_timeout,
        async_timeout=timedelta(milliseconds=async_ms) if async_ms else default.async_timeout,
        request_bytes=ours.max_request_bytes or versions.max_request_bytes or default.request_bytes,
        retries=ours.retries or versions.retries,
        api_timeout=timedelta(milliseconds=sync_ms) if sync_ms else default.api_timeout,
        calls_per_second=ours.calls_per_second or versions.calls_per_second,
        api_calls_per_minute=ours.api_calls_per_minute or versions.api_calls_per_minute,
    )


def to_line(line: LogLine) -> events_pb2.LogLine:
    return events_pb2.LogLine(
        created_at=to_time(line.created_at),
        seq=line.seq,
        stream=line.stream,
        level=line.level,
        message=line.message,
        data=line.data,
        end=line.end,
    )


def from_line(line: events_pb2.LogLine) -> LogLine:
    return LogLine(from_time(line.created_at), line.seq, line.stream, line.level, line.message, line.data, line.end)
