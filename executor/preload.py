"""A deploy's check that isn't thrown away: it loads the template of the calls that are about to come."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from executor.cgroups import Bounds
from executor.egress.log import EgressLog
from executor.inspect import note
from executor.model import Limits
from executor.sandbox import Crashed, Environment, Launch, StartFailed, Unforkable
from executor.validate import ImportReport
from executor.variables import environment as with_platform
from kit.errors import Problem
from kit.names import new_id


class Templates(Protocol):
    """Who keeps them."""

    async def load(self, launch: Launch) -> str:
        """The app's OpenAPI document. Errors: StartFailed, Unforkable, Crashed, Unavailable."""


class Preload:
    """`executor.validate.Preloading`."""

    def __init__(self, templates: Templates) -> None:
        self._templates = templates

    async def __call__(
        self,
        organization_id: str,
        environment: Environment,
        source: bytes,
        file_name: str,
        env: Mapping[str, str],
        limits: Limits,
        egress: Sequence[str] | None,
        isolation: str,
    ) -> ImportReport | None:
        """None when it can't be: a new process, which is checked then, shows why."""
        contacts = EgressLog()
        launch = Launch(
            new_id("check"),
            environment,
            source,
            file_name,
            with_platform(env),
            isolation,
            acting_id=organization_id,
            owner_id=organization_id,
            bounds=Bounds(limits.memory_bytes, limits.processes, limits.cpu),
            disk_bytes=limits.disk_bytes,
            egress=egress,
            contacts=contacts,
        )
        try:
            return ImportReport(True, openapi=await self._templates.load(launch))
        except (StartFailed, Unforkable, Crashed, Problem):
            return None
        finally:
            note(contacts)
