"""mesh messages ⇄ the executor's nouns. Pure."""

import base64
import hmac
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import cast

from google.protobuf.timestamp_pb2 import Timestamp
from mesh.events.v1 import events_pb2
from mesh.executor.v1 import executor_pb2
from mesh.ledger.v1 import ledger_pb2
from mesh.runs.v1 import identity_pb2, run_pb2, runs_pb2
from mesh.workflows.v1 import workflows_pb2

from executor.answer import WholeAnswer
from executor.bill import Bill, Budget
from executor.model import (
    AnswerEvent,
    AnswerHead,
    BodyComplete,
    Headers,
    KeptAnswer,
    Limits,
    LogLine,
    Outcome,
    RequestHead,
    Spec,
    Status,
    Usage,
    Version,
)
from executor.report import Ended, Fact, Started
from executor.validate import Report
from kit.errors import Invalid


def to_time(moment: datetime) -> Timestamp:
    stamp = Timestamp()
    stamp.FromDatetime(moment)
    return stamp


def from_spec(spec: run_pb2.RunSpec, given: bytes | None = None) -> Spec:
    """`given`: all of the request's body. Errors: Invalid for one that can't be run."""
    if not spec.HasField("deadline") or not spec.version_id:
        raise Invalid("a run needs a version and a deadline")
    request = spec.request
    return Spec(
        run_id=spec.run_id,
        version_id=spec.version_id,
        request=RequestHead(request.method or "GET", request.path or "/", request.query, from_headers(request.headers)),
        deadline=spec.deadline.ToDatetime(UTC),
        caller_id=spec.caller_id,
        acting_id=spec.acting_id,
        owner_id=spec.owner_id,
        service_id=spec.service_id,
        correlation_id=spec.correlation_id,
        root_id=spec.root_id or spec.run_id,
        depth=spec.depth,
        traceparent=spec.traceparent,
        attempt=spec.attempt,
        epoch=spec.epoch,
        synchronous=spec.synchronous,
        retries=spec.retries,
        requester_id=spec.requester_id or spec.caller_id,
        anonymous=not spec.requester_id and spec.depth == 0,
        may_deploy=spec.may_deploy,
        whole=spec.SerializeToString(),
        given=given,
        record=spec.record,
        offline_digest=spec.offline_digest,
        budgets=tuple(Budget(budget.id, budget.limit) for budget in spec.budgets),
        paying_key_id=spec.paying_key_id,
        charged_on_success=spec.charged_on_success,
        above=tuple(spec.above_ids),
    )


def to_budgets(budgets: Iterable[Budget]) -> list[ledger_pb2.Budget]:
    return [ledger_pb2.Budget(id=budget.id, limit=budget.limit) for budget in budgets]


def from_headers(headers: Iterable[run_pb2.Header]) -> Headers:
    return tuple((header.name, header.value) for header in headers)


def to_head(head: AnswerHead) -> run_pb2.AnswerHead:
    headers = [run_pb2.Header(name=name, value=value) for name, value in head.headers]
    return run_pb2.AnswerHead(status=head.status, headers=headers)


def from_outcome(outcome: run_pb2.Outcome) -> Outcome:
    """Errors: Invalid for a status that no run ends with."""
    try:
        status = Status(outcome.status)
    except ValueError:
        raise Invalid("an outcome needs a terminal status") from None
    return Outcome(status, outcome.code, outcome.detail, tuple(outcome.log_tail))


def to_outcome(outcome: Outcome) -> run_pb2.Outcome:
    return run_pb2.Outcome(
        status=cast(run_pb2.RunStatus.ValueType, int(outcome.status)),
        code=outcome.code,
        detail=outcome.detail,
        log_tail=outcome.log_tail,
    )


def to_event(event: AnswerEvent) -> run_pb2.RunEvent:
    match event:
        case AnswerHead():
            return run_pb2.RunEvent(head=to_head(event))
        case bytes():
            return run_pb2.RunEvent(body=event)
        case BodyComplete():
            return run_pb2.RunEvent(body_complete=True)
        case Outcome():
            return run_pb2.RunEvent(ended=to_outcome(event))


def to_called(found: WholeAnswer | Outcome | None) -> executor_pb2.CallResponse:
    match found:
        case WholeAnswer(head, body):
            return executor_pb2.CallResponse(answer=executor_pb2.WholeAnswer(head=to_head(head), body=body))
        case Outcome():
            return executor_pb2.CallResponse(ended=to_outcome(found))
        case None:
            return executor_pb2.CallResponse(attach=True)


def to_report(executor: str, incarnation: str, facts: list[Fact]) -> runs_pb2.ReportRequest:
    return runs_pb2.ReportRequest(
        executor=executor,
        incarnation=incarnation,
        started=[_started(fact) for fact in facts if isinstance(fact, Started)],
        ended=[_ended(fact) for fact in facts if isinstance(fact, Ended)],
    )


def _started(fact: Started) -> runs_pb2.RunStarted:
    spec = fact.spec
    if fact.known:
        message = run_pb2.RunSpec(run_id=spec.run_id, attempt=spec.attempt, epoch=spec.epoch)
    else:
        message = run_pb2.RunSpec.FromString(spec.whole)
    # What a library service is given isn't kept for replays: there may be a secret in it.
    given = None if fact.known or spec.library else spec.given
    return runs_pb2.RunStarted(spec=message, started_at=to_time(fact.at), body=given)


def _ended(fact: Ended) -> runs_pb2.RunEnded:
    return runs_pb2.RunEnded(
        run_id=fact.run_id,
        attempt=fact.attempt,
        epoch=fact.epoch,
        outcome=to_outcome(fact.outcome),
        answer=to_kept(fact.answer) if fact.answer else None,
        log_digest=fact.log_digest,
        completed_at=to_time(fact.at),
        usage=to_usage(fact.usage),
        egress_digest=fact.egress_digest,
        handed_back=fact.handed_back,
        recording_digest=fact.recording_digest,
        input_sha256=fact.input_sha256,
        output_sha256=fact.output_sha256,
        refused=fact.refused,
        bill=to_bill(fact.bill) if fact.bill else None,
    )


def to_bill(bill: Bill) -> ledger_pb2.Bill:
    return ledger_pb2.Bill(
        run_id=bill.run_id,
        attempt=bill.attempt,
        root_id=bill.root_id,
        organization_id=bill.organization_id,
        service_id=bill.service_id,
        key_id=bill.key_id,
        purse_id=bill.purse_id,
        budgets=to_budgets(bill.budgets),
        reserved=bill.amount,
        charge=bill.amount,
        lines=[ledger_pb2.BillLine(**vars(line)) for line in bill.lines],
        at=to_time(bill.at),
    )


def to_usage(usage: Usage) -> run_pb2.Usage:
    return run_pb2.Usage(
        cpu_seconds=usage.cpu_seconds,
        wall_seconds=usage.wall_seconds,
        memory_peak_bytes=usage.memory_peak,
        egress_bytes=usage.egress_bytes,
        tokens_in=usage.tokens_in,
        tokens_out=usage.tokens_out,
    )


def to_kept(answer: KeptAnswer) -> run_pb2.KeptAnswer:
    return run_pb2.KeptAnswer(head=to_head(answer.head), content=answer.content, digest=answer.digest, size=answer.size)


def from_version(version: workflows_pb2.Version) -> Version:
    return Version(
        id=version.id,
        source_digest=version.source_digest,
        file_name=version.file_name,
        python=version.python,
        lock=version.lock,
        env_vars={item.name: item.default if item.HasField("default") else None for item in version.env_vars},
        limits=from_limits(version.limits),
        workflow_id=version.workflow_id,
        concurrency=version.limits.concurrency,
        isolation=version.isolation or "run",
        egress=tuple(version.egress.entries) if version.HasField("egress") else None,
    )


def from_limits(limits: workflows_pb2.Limits) -> Limits:
    """Without times and concurrency, which are no matter of a sandbox."""
    return Limits(
        request_bytes=limits.max_request_bytes,
        response_bytes=limits.max_response_bytes,
        stream_bytes=limits.max_stream_bytes,
        log_bytes=limits.max_log_bytes,
        memory_bytes=limits.memory_bytes,
        cpu=limits.cpu_millis / 1000,
        processes=limits.processes,
        disk_bytes=limits.disk_bytes,
    )


def to_validation(report: Report) -> executor_pb2.ValidateResponse:
    timeout_ms = int(report.timeout.total_seconds() * 1000) if report.timeout else 0
    return executor_pb2.ValidateResponse(
        report=[
            workflows_pb2.Check(
                check=check.check, passed=check.passed, detail=check.detail, line=check.line, advisory=check.advisory
            )
            for check in report.checks
        ],
        python=report.python,
        lock=report.lock,
        env_vars=[workflows_pb2.EnvVar(name=variable.name, default=variable.default) for variable in report.env_vars],
        isolation=report.isolation,
        egress=None if report.egress is None else workflows_pb2.EgressRules(entries=report.egress),
        limits=workflows_pb2.Limits(
            sync_timeout_ms=timeout_ms,
            async_timeout_ms=timeout_ms,
            concurrency=report.concurrency or 0,
            memory_bytes=report.limits.memory_bytes,
            cpu_millis=round(report.limits.cpu * 1000),
            processes=report.limits.processes,
            disk_bytes=report.limits.disk_bytes,
            retries=report.retries or 0,
        ),
        openapi=report.openapi,
    )


def to_line(line: LogLine) -> events_pb2.LogLine:
    return events_pb2.LogLine(
        created_at=to_time(line.created_at),
        seq=line.seq,
        stream=line.stream,
        level=line.level,
        message=line.message,
        data=line.data,
    )


def to_identity(key: bytes, spec: Spec, traceparent: str) -> bytes:
    """The signed token of a run: base64url(message) "." base64url(HMAC-SHA256(key, message)), without padding."""
    message = identity_pb2.RunIdentity(
        run_id=spec.run_id,
        root_id=spec.root_id,
        acting_id=spec.acting_id,
        caller_id=spec.caller_id,
        depth=spec.depth,
        correlation_id=spec.correlation_id,
        traceparent=traceparent,
        deadline=to_time(spec.deadline),
        owner_id=spec.owner_id,
        service_id=spec.service_id,
        requester_id=spec.requester_id,
        may_deploy=spec.may_deploy,
        budgets=to_budgets(spec.budgets),
        paying_key_id=spec.paying_key_id,
        charged_on_success=spec.charged_on_success,
        above_ids=[*spec.above, spec.run_id],
    ).SerializeToString()
    return _base64url(message) + b"." + _base64url(hmac.digest(key, message, "sha256"))


def to_nobody(key: bytes, deadline: datetime) -> bytes:
    """The signed token of a workflow that is being loaded: it names no run, and the edge refuses whatever it asks."""
    message = identity_pb2.RunIdentity(deadline=to_time(deadline)).SerializeToString()
    return _base64url(message) + b"." + _base64url(hmac.digest(key, message, "sha256"))


def _base64url(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def body_part(request: executor_pb2.RunRequest) -> bytes:
    """Errors: Invalid for a second spec."""
    if request.WhichOneof("part") != "body":
        raise Invalid("after its spec a run takes a body only")
    return request.body
