"""What the executor can be told."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from executor.header_options import LEAST_CPU, LEAST_DISK_MIB, LEAST_MEMORY_MIB, LEAST_PROCESSES, MOST_CPU
from executor.model import Limits
from executor.reach import Target, targets
from kit.addresses import Network, networks
from kit.settings import MeshSettings, env, load, number, seconds

MIB = 1024 * 1024
_HOST_MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def above(least: int) -> Callable[[str], int]:
    """A parser of whole numbers of at least `least`."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", text):
            raise ValueError(f"{text!r} must be a whole number")
        if int(text) < least:
            raise ValueError(f"{text} is less than {least}")
        return int(text)

    return parse


def cpus(text: str) -> float:
    """A number of processors, at least LEAST_CPU."""
    if not LEAST_CPU <= number(text) <= MOST_CPU:
        raise ValueError(f"{text!r} is not a number of processors from {LEAST_CPU} to {MOST_CPU}")
    return float(text)


@dataclass(frozen=True)
class Settings(MeshSettings):
    """The defaults suit one host. Sizes are bytes."""

    # Root runs at once: as many as an organization may have (SPEC §3). Nested ones have places of their own: their
    # roots wait for them.
    runs: int = env("RUNMESH_EXECUTOR_RUNS", 100, above(1))
    nested_runs: int = env("RUNMESH_EXECUTOR_NESTED_RUNS", 256, above(1))
    # Of one organization at once (SPEC §3); scheduler/settings.py reads the same variable.
    organization_runs: int = env("RUNMESH_ORGANIZATION_RUNS", 100, above(1))
    # Sandboxes being started at once: importing a framework takes a processor for about a second.
    starts: int = env("RUNMESH_EXECUTOR_STARTS", os.cpu_count() or 1, above(1))
    # Memory of all templates together: loaded workflows that wait for calls. The least recently used go first.
    template_bytes: int = env("RUNMESH_TEMPLATE_BYTES", _HOST_MEMORY // 4, above(0))
    start_seconds: float = env("RUNMESH_START_SECONDS", 60.0, seconds)
    max_request_bytes: int = env("RUNMESH_MAX_REQUEST_BYTES", 10 * MIB, above(1))
    max_response_bytes: int = env("RUNMESH_MAX_RESPONSE_BYTES", 10 * MIB, above(1))
    max_stream_bytes: int = env("RUNMESH_MAX_STREAM_BYTES", 100 * MIB, above(1))
    max_log_bytes: int = env("RUNMESH_MAX_LOG_BYTES", 10 * MIB, above(1))
    # What a run may use whose workflow sets nothing …
    memory_bytes: int = env("RUNMESH_RUN_MEMORY_BYTES", 2048 * MIB, above(LEAST_MEMORY_MIB * MIB))
    cpu: float = env("RUNMESH_RUN_CPU", 1.0, cpus)
    processes: int = env("RUNMESH_RUN_PROCESSES", 256, above(LEAST_PROCESSES))
    disk_bytes: int = env("RUNMESH_RUN_DISK_BYTES", 10 * 1024 * MIB, above(LEAST_DISK_MIB * MIB))
    # … and the most that a workflow may set. More is refused: at a deploy here, at a change of limits by the scheduler,
    # which reads the same variables. What was deployed before gets no more than this either.
    max_memory_bytes: int = env("RUNMESH_MAX_MEMORY_BYTES", _HOST_MEMORY, above(LEAST_MEMORY_MIB * MIB))
    max_cpu: float = env("RUNMESH_MAX_CPU", float(os.cpu_count() or 1), cpus)
    max_processes: int = env("RUNMESH_MAX_PROCESSES", 4096, above(LEAST_PROCESSES))
    max_disk_bytes: int = env("RUNMESH_MAX_DISK_BYTES", 100 * 1024 * MIB, above(LEAST_DISK_MIB * MIB))
    # Private addresses and networks that workflows may reach, with commas between them: "10.1.0.0/16,192.168.7.7".
    egress_allow_private: tuple[Network, ...] = env("RUNMESH_EGRESS_ALLOW_PRIVATE", (), networks)

    # Where the package index sends for files, if that is another host: "files.example.com,cdn.example.com:8443".
    package_hosts: tuple[Target, ...] = env("RUNMESH_PACKAGE_HOSTS", (), targets)

    @property
    def limits(self) -> Limits:
        """Of runs whose version sets none."""
        return Limits(
            request_bytes=self.max_request_bytes,
            response_bytes=self.max_response_bytes,
            stream_bytes=self.max_stream_bytes,
            log_bytes=self.max_log_bytes,
            memory_bytes=self.memory_bytes,
            cpu=self.cpu,
            processes=self.processes,
            disk_bytes=self.disk_bytes,
        ).within(self.most)

    @property
    def most(self) -> Limits:
        """The ceiling of every run's limits; 0 where there is none."""
        return Limits(
            memory_bytes=self.max_memory_bytes,
            cpu=self.max_cpu,
            processes=self.max_processes,
            disk_bytes=self.max_disk_bytes,
        )

    @property
    def environ(self) -> Mapping[str, str]:
        """The service's own environment: it holds the operator's choice of package index, proxy and certificates."""
        return os.environ


def read() -> Settings:
    """From our own environment. Errors: BadSettings."""
    return load(Settings, os.environ)
