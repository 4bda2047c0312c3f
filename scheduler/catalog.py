"""What names stand for: resolve, read, list, change and delete workflows."""

import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from kit.clock import Clock
from kit.errors import Invalid
from scheduler.model import Event, WorkflowChanged
from scheduler.workflow import (
    MOST,
    MOST_NAME,
    SYSTEM,
    Limits,
    Reference,
    Version,
    Visibility,
    Workflow,
    no_version,
    unknown_workflow,
)

T = TypeVar("T")


class Changing(Protocol):
    """The part of a write transaction that changes workflows."""

    async def workflow(self, organization_id: str, service_id: str) -> Workflow | None: ...

    async def save_workflow(self, workflow: Workflow) -> None: ...

    async def last_version(self, workflow_id: str) -> int: ...

    async def delete_schedules(self, organization_id: str, workflow_id: str) -> None: ...

    async def tell(self, events: Iterable[Event]) -> None: ...


class Shelf(Protocol):
    """The stored workflows and versions."""

    async def find_workflow(self, organization_id: str, service_id: str) -> Workflow | None: ...

    async def find_version(self, workflow_id: str, number: int) -> Version | None: ...

    async def version_by_id(self, version_id: str) -> Version | None: ...

    async def list_own(
        self, organization_id: str, visibility: Visibility | None, *, limit: int, after: str
    ) -> list[Workflow]: ...

    async def list_visible(self, visibility: Visibility, *, limit: int, after: str) -> list[Workflow]: ...

    async def write(self, work: Callable[[Changing], Awaitable[T]]) -> T: ...


@dataclass(frozen=True)
class Change:
    """What of a workflow is to change; None, and limits of zero, stay as they are, but for those in `reset`."""

    name: str | None = None
    visibility: Visibility | None = None
    limits: Limits = Limits()
    reset: frozenset[str] = frozenset()


def draw(served: Sequence[tuple[Version, int]]) -> Version:
    """One of them, as often as its share says."""
    ((version, _),) = random.choices(served, [percent for _, percent in served])  # noqa: S311  # no secret
    return version


class Catalog:
    """Workflows by name, for those who may see them. `most`: what a workflow's owner may set its limits to."""

    def __init__(self, shelf: Shelf, clock: Clock, most: Limits = MOST) -> None:
        self._shelf = shelf
        self._clock = clock
        self._most = most

    async def resolve(self, organization_id: str, text: str) -> tuple[Workflow, Version]:
        """What a call of this name by this organization runs: of several, as often as their shares say. Errors:
        NotFound.
        """
        workflow, served = await self.served(organization_id, text)
        return workflow, draw(served)

    async def served(self, organization_id: str, text: str) -> tuple[Workflow, list[tuple[Version, int]]]:
        """(the workflow, the versions that run its calls with their shares in per cent). Errors: NotFound."""
        reference = Reference.parse(text)
        workflow = await self._find(organization_id, reference)
        shares = ((reference.number, 100),) if reference.number else workflow.shares
        found = [(await self._shelf.find_version(workflow.id, number), percent) for number, percent in shares]
        served = [(version, percent) for version, percent in found if version is not None]
        if not served:
            raise no_version(reference)
        return workflow, served

    async def _find(self, organization_id: str, reference: Reference) -> Workflow:
        """A bare name is the organization's own, else the library's; nobody else's."""
        named = reference.organization_id
        for candidate in [named] if named else [organization_id, SYSTEM]:
            workflow = await self._shelf.find_workflow(candidate, reference.service_id)
            if workflow is not None and workflow.callable_by(organization_id):
                return workflow
        raise unknown_workflow()

    async def version(self, version_id: str) -> Version:
        """By its id. Errors: NotFound."""
        version = await self._shelf.version_by_id(version_id)
        if version is None:
            raise unknown_workflow()
        return version

    async def get(self, organization_id: str, text: str) -> tuple[Workflow, str]:
        """(workflow with the limits that hold for the version, that version's OpenAPI document). The version is the
        one referred to, else the one served, which may be none yet. Errors: NotFound.
        """
        reference = Reference.parse(text)
        workflow = await self._find(organization_id, reference)
        version = await self._shelf.find_version(workflow.id, reference.number or workflow.version)
        if version is not None:
            return replace(workflow, limits=version.limits), version.openapi
        if reference.number:
            raise no_version(reference)
        return workflow, ""

    async def page(
        self, organization_id: str, visibility: Visibility | None, *, limit: int, after: str
    ) -> tuple[list[Workflow], str]:
        """(in the order of their making, where to go on: empty on the last page). Public ones, templates and
        open ones are everybody's, else the organization's own.
        """
        if visibility in {Visibility.PUBLIC, Visibility.TEMPLATE, Visibility.OPEN}:
            found = await self._shelf.list_visible(visibility, limit=limit + 1, after=after)
        else:
            found = await self._shelf.list_own(organization_id, visibility, limit=limit + 1, after=after)
        return found[:limit], (found[limit - 1].id if len(found) > limit else "")

    async def update(self, organization_id: str, service_id: str, change: Change) -> tuple[Workflow, str]:
        """Of one's own workflow; as `get` tells it afterwards. Errors: NotFound; Invalid."""
        name = None if change.name is None else change.name.strip()
        if name is not None and not 0 < len(name) <= MOST_NAME:
            raise Invalid(f"a name has 1 to {MOST_NAME} characters")
        change.limits.check(self._most)

        def changed(workflow: Workflow) -> Workflow:
            return replace(
                workflow,
                name=workflow.name if name is None else name,
                visibility=change.visibility or workflow.visibility,
                limits=replace(workflow.limits, **dict.fromkeys(change.reset, 0)).overlaid(change.limits),
                updated_at=self._clock.now(),
            )

        await self._change(organization_id, service_id, changed)
        return await self.get(organization_id, service_id)

    async def publish(self, organization_id: str, service_id: str, *, published: bool) -> tuple[Workflow, str]:
        """Whether /api/v1 runs one's own workflow; as `get` tells it afterwards. Where no version is served yet, the
        newest one is from now on. Idempotent. Errors: NotFound.
        """

        async def work(tx: Changing) -> None:
            before = await tx.workflow(organization_id, service_id)
            if before is None:
                raise unknown_workflow()
            served = before.version or (await tx.last_version(before.id) if published else 0)
            if (served, published) != (before.version, before.published):
                now = self._clock.now()
                await tx.save_workflow(replace(before, version=served, published=published, updated_at=now))
                await tx.tell([WorkflowChanged(organization_id, service_id)])

        await self._shelf.write(work)
        return await self.get(organization_id, service_id)

    async def delete(self, organization_id: str, service_id: str) -> None:
        """The name is free again, and the organization's own schedules of it are gone: a later workflow of this name is
        another one. Runs go on and stay readable. Errors: NotFound.
        """
        now = self._clock.now()
        await self._change(organization_id, service_id, lambda workflow: replace(workflow, deleted_at=now))

    async def _change(self, organization_id: str, service_id: str, changed: Callable[[Workflow], Workflow]) -> Workflow:
        async def work(tx: Changing) -> Workflow:
            before = await tx.workflow(organization_id, service_id)
            if before is None:
                raise unknown_workflow()
            after = changed(before)
            await tx.save_workflow(after)
            if after.deleted_at is not None:
                await tx.delete_schedules(organization_id, after.id)
            await tx.tell([WorkflowChanged(organization_id, service_id)])
            return after

        return await self._shelf.write(work)
