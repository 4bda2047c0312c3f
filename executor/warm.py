"""A version is loaded before calls are sent to it: its environment is built and its template waits."""

from typing import Protocol

from executor.egress.log import EgressLog
from executor.host import Host, RunOf
from executor.sandbox import Launch
from kit.names import new_id


class Templates(Protocol):
    """Who keeps them."""

    async def prepare(self, launch: Launch) -> None:
        """Has a template, and a slot for the first call, unless it can have none."""


class Warm:
    """Without `templates` only the environment is built."""

    def __init__(self, host: Host, templates: Templates | None) -> None:
        self._host = host
        self._templates = templates

    async def __call__(self, version_id: str, organization_id: str) -> None:
        """For runs of an organization's own workflow. Errors: NotFound; Precondition missing_secret; Invalid
        (invalid_workflow); Unavailable.
        """
        host = self._host
        version = await host.versions.version(version_id)
        given = await host.variables.of(version, organization_id)
        run = RunOf(new_id("check"), organization_id, organization_id)
        launch = await host.launch(run, version, given, version.limits.over(host.limits), EgressLog())
        if self._templates is not None:
            async with host.capacity.starting():
                await self._templates.prepare(launch)
