"""What every run of this executor works with."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from executor.capacity import Capacity
from executor.cgroups import Bounds
from executor.egress.authority import Authority
from executor.egress.gate import Internet
from executor.egress.log import EgressLog
from executor.keep import BlobStore
from executor.metering import Metering
from executor.model import Limits, Spec, Version
from executor.output import LineSink
from executor.report import Reporter
from executor.sandbox import Driver, Environment, Launch
from executor.variables import Given, Variables
from executor.versions import Versions
from kit.clock import Clock


class Holding(Protocol):
    """This host's lease (executor/lease.py)."""

    @property
    def held(self) -> bool:
        """Whether runs may be taken on."""

    @property
    def incarnation(self) -> str:
        """Whose lease it is."""

    async def renew(self) -> None:
        """Tells the scheduler how this host stands."""


class Environments(Protocol):
    """Dependency environments, built once."""

    async def ensure(self, python: str, lock: str) -> Environment:
        """At once when it is built already. Errors: Invalid (invalid_workflow), Unavailable."""


class RunOf(NamedTuple):
    """Whose run it is: `acting_id`'s secrets are used, `owner_id` has the workflow."""

    id: str
    acting_id: str
    owner_id: str


@dataclass(frozen=True)
class Host:
    """What every run of this executor works with."""

    driver: Driver
    environments: Environments
    versions: Versions
    variables: Variables
    capacity: Capacity
    lines: LineSink
    reporter: Reporter
    blobs: BlobStore
    clock: Clock
    limits: Limits
    # (spec, traceparent of the span that speaks) → the signed identity.
    identity: Callable[[Spec, str], bytes]
    # Envoy's sockets for nested calls, plain and TLS.
    nested: Path
    nested_tls: Path
    spool: Path
    start_timeout: float
    internet: Internet
    authority: Authority
    lease: Holding
    metering: Metering

    async def launch(self, run: RunOf, version: Version, given: Given, limits: Limits, contacts: EgressLog) -> Launch:
        """How a sandbox of this version is started. Errors: Invalid (invalid_workflow), Unavailable."""
        return Launch(
            run_id=run.id,
            env=given.env,
            environment=await self.environments.ensure(version.python, version.lock),
            source=await self.versions.source(version),
            file_name=version.file_name,
            isolation=version.isolation,
            version_id=version.id,
            acting_id=run.acting_id,
            owner_id=run.owner_id,
            bounds=bounds_of(limits),
            disk_bytes=limits.disk_bytes,
            certificates=self.authority.directory if given.fill_ins else None,
            egress=version.egress,
            contacts=contacts,
        )


def bounds_of(limits: Limits) -> Bounds:
    """What its control group enforces."""
    return Bounds(limits.memory_bytes, limits.processes, limits.cpu)
