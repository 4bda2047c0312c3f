"""What every run of this executor works with."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from executor.capacity import Capacity
from executor.egress.authority import Authority
from executor.egress.gate import Internet
from executor.keep import BlobStore
from executor.metering import Metering
from executor.model import Limits, Spec
from executor.output import LineSink
from executor.report import Reporter
from executor.sandbox import Driver, Environment
from executor.variables import Variables
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
