"""Workflows: protobuf ⇄ model. Pure functions."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields

from mesh.executor.v1 import executor_pb2
from mesh.workflows.v1 import workflows_pb2

from kit.errors import Invalid
from scheduler.catalog import Change, draw
from scheduler.deploy import Deployed, Deployment
from scheduler.wire import timestamp
from scheduler.workflow import Check, EnvVar, Limits, Prompt, Report, Version, Visibility, Workflow

_LIMITS = {item.name for item in fields(Limits)}


def deployment(request: workflows_pb2.DeployRequest) -> Deployment:
    return Deployment(
        request.organization_id,
        request.code,
        request.name,
        request.service_id,
        publish=request.publish,
        prompt=_prompt(request.prompt) if request.HasField("prompt") else None,
        log_id=request.log_id,
    )


def _prompt(message: workflows_pb2.Prompt) -> Prompt:
    """The variables are for the deploy to find."""
    return Prompt(message.template, message.model, message.parameters or "{}", message.web_search)


def deployed(result: Deployed) -> workflows_pb2.DeployResponse:
    return workflows_pb2.DeployResponse(
        workflow=workflow(result.workflow), version=result.number, report=checks(result.report.checks)
    )


def report(response: executor_pb2.ValidateResponse) -> Report:
    return Report(
        checks=tuple(Check(item.check, item.passed, item.detail, item.line, item.advisory) for item in response.report),
        python=response.python,
        lock=response.lock,
        env_vars=tuple(
            EnvVar(item.name, item.default if item.HasField("default") else None) for item in response.env_vars
        ),
        isolation=response.isolation,
        limits=limits(response.limits),
        openapi=response.openapi,
        egress=tuple(response.egress.entries) if response.HasField("egress") else None,
    )


def checks(these: Iterable[Check]) -> list[workflows_pb2.Check]:
    return [workflows_pb2.Check(**asdict(item)) for item in these]


def limits(message: workflows_pb2.Limits) -> Limits:
    return Limits(
        sync_timeout_ms=message.sync_timeout_ms,
        async_timeout_ms=message.async_timeout_ms,
        max_request_bytes=message.max_request_bytes,
        max_response_bytes=message.max_response_bytes,
        max_stream_bytes=message.max_stream_bytes,
        max_log_bytes=message.max_log_bytes,
        concurrency=message.concurrency,
        memory_bytes=message.memory_bytes,
        cpu_millis=message.cpu_millis,
        processes=message.processes,
        disk_bytes=message.disk_bytes,
        retries=message.retries,
        calls_per_second=message.calls_per_second,
        api_calls_per_minute=message.api_calls_per_minute,
    )


def visibility(number: int) -> Visibility | None:
    """None when it isn't said. Errors: Invalid."""
    if number == workflows_pb2.VISIBILITY_UNSPECIFIED:
        return None
    if number not in Visibility.__members__.values():
        raise Invalid("visibility is private, public, template or open")
    return Visibility(number)


def change(request: workflows_pb2.UpdateWorkflowRequest) -> Change:
    """Errors: Invalid."""
    return Change(
        name=request.name if request.HasField("name") else None,
        visibility=visibility(request.visibility) if request.HasField("visibility") else None,
        limits=limits(request.limits),
        reset=frozenset(request.reset_limits) & _LIMITS,
    )


def workflow(found: Workflow, openapi: str = "") -> workflows_pb2.Workflow:
    return workflows_pb2.Workflow(
        id=found.id,
        organization_id=found.organization_id,
        service_id=found.service_id,
        name=found.name,
        kind=found.kind,
        visibility=workflows_pb2.Visibility.ValueType(int(found.visibility)),
        limits=workflows_pb2.Limits(**asdict(found.limits)),
        version=found.version,
        openapi=openapi,
        created_at=timestamp(found.created_at),
        updated_at=timestamp(found.updated_at),
        published=found.published,
        traffic=dict(found.traffic),
    )


def served(found: Workflow, shares: Sequence[tuple[Version, int]]) -> workflows_pb2.ResolveResponse:
    """Versions with their shares in per cent: all of them, and the one that a call now runs."""
    several = shares if len(shares) > 1 else ()
    return workflows_pb2.ResolveResponse(
        workflow=workflow(found),
        version=version(draw(shares)),
        shares=[workflows_pb2.Share(version=version(one), percent=percent) for one, percent in several],
    )


def version(found: Version) -> workflows_pb2.Version:
    return workflows_pb2.Version(
        id=found.id,
        workflow_id=found.workflow_id,
        organization_id=found.organization_id,
        service_id=found.service_id,
        number=found.number,
        source_digest=found.source_digest,
        file_name=found.file_name,
        python=found.python,
        lock=found.lock,
        env_vars=env_vars(found.env_vars),
        isolation=found.isolation,
        limits=workflows_pb2.Limits(**asdict(found.limits)),
        created_at=timestamp(found.created_at),
        egress=None if found.egress is None else workflows_pb2.EgressRules(entries=found.egress),
        prompt=prompt(found.prompt),
    )


def env_vars(found: Iterable[EnvVar]) -> list[workflows_pb2.EnvVar]:
    return [workflows_pb2.EnvVar(name=item.name, default=item.default) for item in found]


def prompt(found: Prompt | None) -> workflows_pb2.Prompt | None:
    return None if found is None else workflows_pb2.Prompt(**asdict(found))
