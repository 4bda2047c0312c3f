"""From source to a served version: checked on an executor, stored by digest, numbered."""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from kit.clock import Clock
from kit.errors import Invalid
from kit.names import new_id
from scheduler.model import Event, WorkflowChanged
from scheduler.prompt import KIND, check, described, judged, source
from scheduler.workflow import (
    MOST_CODE_BYTES,
    Prompt,
    Report,
    Version,
    Workflow,
    file_name,
    name_service,
    refusal,
    unknown_workflow,
)

T = TypeVar("T")


class Deploying(Protocol):
    """The part of a write transaction that makes versions."""

    async def workflow(self, organization_id: str, service_id: str) -> Workflow | None: ...

    async def insert_workflow(self, workflow: Workflow) -> None: ...

    async def save_workflow(self, workflow: Workflow) -> None: ...

    async def last_version(self, workflow_id: str) -> int: ...

    async def insert_version(self, version: Version) -> None: ...

    async def tell(self, events: Iterable[Event]) -> None: ...


class Journal(Protocol):
    """`work` runs inside a write transaction; it checks before it writes."""

    async def write(self, work: Callable[[Deploying], Awaitable[T]]) -> T: ...


class Validator(Protocol):
    """An executor's side of it."""

    async def validate(
        self, organization_id: str, code: str, name: str, *, preload: bool = False, log_id: str = ""
    ) -> Report:
        """`name` is the script's file name; `preload`: it is about to be called; `log_id`: of the log that tells what
        is done. Errors: Unavailable.
        """
        ...


class Blobs(Protocol):
    """Where sources are kept."""

    async def put(self, content: bytes) -> str:
        """The SHA-256 (hex) of what is now stored. Errors: Unavailable."""
        ...


@dataclass(frozen=True)
class Deployment:
    """What is to be deployed: `code`, or a `prompt` in its place. An empty `service_id` means a slug of the name; of a
    prompt, a new one.
    """

    organization_id: str
    code: str
    name: str
    service_id: str = ""
    publish: bool = True
    # Whether it is about to be called: an executor then keeps what it has loaded for its checks.
    preload: bool = True
    prompt: Prompt | None = None
    # Of the log that tells what is done; empty: none does.
    log_id: str = ""


@dataclass(frozen=True)
class Deployed:
    """What came of it."""

    workflow: Workflow
    number: int
    report: Report


class FailedChecks(Invalid):
    """The report says why nothing was deployed."""

    default_code = "invalid_workflow"

    def __init__(self, report: Report) -> None:
        super().__init__(refusal(report.checks))
        self.report = report


class Deploy:
    """Checks and deploys sources."""

    def __init__(self, journal: Journal, validator: Validator, blobs: Blobs, clock: Clock) -> None:
        self._journal = journal
        self._validator = validator
        self._blobs = blobs
        self._clock = clock

    async def validate(self, organization_id: str, code: str, log_id: str = "") -> Report:
        """Only the checks. Errors: Invalid (too_large); Unavailable."""
        _bounded(organization_id, code)
        return await self._validator.validate(organization_id, code, "workflow.py", log_id=log_id)

    async def __call__(self, deployment: Deployment) -> Deployed:
        """Errors: FailedChecks; Invalid (also invalid_workflow, too_large); NotFound for a prompt that
        is to be the next of one that isn't there; Unavailable.
        """
        organization, prompt = deployment.organization_id, deployment.prompt
        if prompt is not None:
            check(prompt)
            deployment = replace(deployment, code=source(prompt))
        content = _bounded(organization, deployment.code)
        service_id = _named(deployment)
        report = await self._validator.validate(
            organization,
            deployment.code,
            file_name(service_id),
            preload=deployment.preload,
            log_id=deployment.log_id,
        )
        if prompt is not None:
            report = judged(report)
        if not report.deployable:
            raise FailedChecks(report)
        if prompt is not None:
            deployment = replace(deployment, prompt=described(prompt, report))
        digest = await self._blobs.put(content)

        async def work(tx: Deploying) -> Deployed:
            return await self._commit(tx, deployment, service_id, digest, report)

        return await self._journal.write(work)

    async def _commit(
        self, tx: Deploying, deployment: Deployment, service_id: str, digest: str, report: Report
    ) -> Deployed:
        now, organization = self._clock.now(), deployment.organization_id
        before = await tx.workflow(organization, service_id)
        _same_kind(before, deployment)
        name = deployment.name.strip() or service_id
        kind = KIND if deployment.prompt else "code"
        workflow = before or Workflow(new_id("wfl"), organization, service_id, name, now, now, kind)
        number = await tx.last_version(workflow.id) + 1 if before else 1
        workflow = replace(workflow, name=name, updated_at=now)
        if deployment.publish:
            workflow = workflow.serving((number, 100))
        version = Version(
            id=new_id("ver"),
            workflow_id=workflow.id,
            organization_id=organization,
            service_id=service_id,
            number=number,
            source_digest=digest,
            file_name=file_name(service_id),
            created_at=now,
            python=report.python,
            lock=report.lock,
            env_vars=report.env_vars,
            isolation=report.isolation,
            limits=report.limits,
            openapi=report.openapi,
            egress=report.egress,
            prompt=deployment.prompt,
        )
        await (tx.save_workflow(workflow) if before else tx.insert_workflow(workflow))
        await tx.insert_version(version)
        await tx.tell([WorkflowChanged(organization, service_id)])
        return Deployed(workflow, number, report)


def _named(deployment: Deployment) -> str:
    """Errors: Invalid."""
    given = deployment.service_id
    if deployment.prompt and not given:
        name_service(deployment.organization_id, "prompt", deployment.name)
        return new_id("wf")
    return name_service(deployment.organization_id, given, deployment.name)


def _same_kind(before: Workflow | None, deployment: Deployment) -> None:
    """A prompt workflow's id is given to it; it never becomes one of code, nor the other way round."""
    if before is None and deployment.prompt and deployment.service_id:
        raise unknown_workflow()
    if before is not None and (before.kind == KIND) != (deployment.prompt is not None):
        raise Invalid(f"{before.service_id!r} is a workflow of kind {before.kind}: deploy the other under another id")


def _bounded(organization_id: str, code: str) -> bytes:
    source = code.encode()
    if not organization_id:
        raise Invalid("a workflow belongs to an organization")
    if not source.strip():
        raise Invalid("`code` is empty: send the workflow's source")
    if len(source) > MOST_CODE_BYTES:
        raise Invalid(f"the source has {len(source)} bytes; at most {MOST_CODE_BYTES} are allowed", code="too_large")
    return source
