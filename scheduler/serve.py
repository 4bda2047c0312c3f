"""Which versions of a workflow are served: rollback, and calls split between several."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Protocol, TypeVar

from kit.clock import Clock
from kit.errors import Conflict, Invalid, NotFound
from scheduler.model import Event, WorkflowChanged
from scheduler.workflow import Version, Workflow, unknown_workflow

# So many versions at most share the calls.
MOST_SHARES = 10
_ABOVE_ALL = (1 << 31) - 1
T = TypeVar("T")


class Serving(Protocol):
    """The part of a write transaction that changes what is served."""

    async def workflow(self, organization_id: str, service_id: str) -> Workflow | None: ...

    async def save_workflow(self, workflow: Workflow) -> None: ...

    async def version_numbers(self, workflow_id: str, numbers: Collection[int]) -> set[int]:
        """Those of them that there are."""
        ...

    async def tell(self, events: Iterable[Event]) -> None: ...


class Versions(Protocol):
    """The stored versions."""

    async def find_workflow(self, organization_id: str, service_id: str) -> Workflow | None: ...

    async def find_version(self, workflow_id: str, number: int) -> Version | None: ...

    async def list_versions(self, workflow_id: str, *, below: int, limit: int) -> list[Version]: ...

    async def write(self, work: Callable[[Serving], Awaitable[T]]) -> T: ...


class Warming(Protocol):
    """The executors."""

    async def warm(self, version_id: str, organization_id: str) -> None:
        """Loads a version before calls are sent to it, where that can be."""
        ...


class Serve:
    """What an organization's own workflows serve."""

    def __init__(self, versions: Versions, executors: Warming, clock: Clock) -> None:
        self._versions = versions
        self._executors = executors
        self._clock = clock

    async def page(
        self, organization_id: str, service_id: str, *, limit: int, after: str
    ) -> tuple[Workflow, list[Version], str]:
        """(the workflow, its versions with the newest first, where to go on: empty on the last page). Errors: NotFound;
        Invalid for an `after` that no page gave.
        """
        workflow = await self._versions.find_workflow(organization_id, service_id)
        if workflow is None:
            raise unknown_workflow()
        if after and not (after.isascii() and after.isdecimal() and len(after) < len(str(_ABOVE_ALL))):
            raise Invalid("`after` is no token that a page of versions gave as `next`")
        found = await self._versions.list_versions(workflow.id, below=int(after or _ABOVE_ALL), limit=limit + 1)
        return workflow, found[:limit], (str(found[limit - 1].number) if len(found) > limit else "")

    async def roll_back(self, organization_id: str, service_id: str, number: int) -> Workflow:
        """All calls go to this version from now on; 0 is the one that was served before, or the oldest of a split.
        After that there is none before. Errors: NotFound; Conflict.
        """

        def changed(before: Workflow) -> Workflow:
            wanted = number or before.oldest_served
            if not wanted:
                raise Conflict(f"no other version of {service_id!r} was served before: say which `version` is to be")
            return replace(before.serving((wanted, 100)), version_before=0)

        return await self._change(organization_id, service_id, changed)

    async def split(self, organization_id: str, service_id: str, traffic: Mapping[int, int]) -> Workflow:
        """Per cent of the calls by version, from now on. Errors: Invalid; NotFound."""
        shares = [(number, percent) for number, percent in traffic.items() if percent]
        if not shares or any(percent < 0 for _, percent in shares) or sum(percent for _, percent in shares) != 100:
            raise Invalid('the shares are per cent of the calls, 100 together: {"1": 90, "2": 10}')
        if len(shares) > MOST_SHARES:
            raise Invalid(f"at most {MOST_SHARES} versions can share the calls")
        return await self._change(organization_id, service_id, lambda before: before.serving(*shares))

    async def _change(self, organization_id: str, service_id: str, changed: Callable[[Workflow], Workflow]) -> Workflow:
        async def work(tx: Serving) -> Workflow:
            before = await tx.workflow(organization_id, service_id)
            if before is None:
                raise unknown_workflow()
            after = replace(changed(before), updated_at=self._clock.now())
            wanted = {number for number, _ in after.shares}
            if missing := wanted - await tx.version_numbers(before.id, wanted):
                raise NotFound(f"workflow {service_id!r} has no version {min(missing)}")
            await tx.save_workflow(after)
            await tx.tell([WorkflowChanged(organization_id, service_id)])
            return after

        await self._warm(organization_id, service_id, changed)
        return await self._versions.write(work)

    async def _warm(self, organization_id: str, service_id: str, changed: Callable[[Workflow], Workflow]) -> None:
        """What is about to be served, and isn't yet. Errors: as `changed`."""
        before = await self._versions.find_workflow(organization_id, service_id)
        if before is None:
            raise unknown_workflow()
        new = {number for number, _ in changed(before).shares} - {number for number, _ in before.shares}
        found = [await self._versions.find_version(before.id, number) for number in sorted(new)]
        loading = [self._executors.warm(one.id, organization_id) for one in found if one is not None]
        await asyncio.gather(*loading)
