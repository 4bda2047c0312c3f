"""What the scheduler can be told."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from kit.settings import MeshSettings, absolute, env, number, seconds
from scheduler.delivery import RETRIES
from scheduler.workflow import LEAST, MIB, MOST, Limits

MOST_RETRIES = 20
LONGEST_DELAY = 24 * 3600
_HOST_MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def days(text: str) -> float:
    """A number of days above zero."""
    if not number(text) > 0:
        raise ValueError(f"{text!r} is not a number of days above 0")
    return float(text)


def above(least: int) -> Callable[[str], int]:
    """A parser of whole numbers of at least `least`."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"-?[0-9]{1,18}", text):
            raise ValueError(f"{text!r} must be a whole number")
        if int(text) < least:
            raise ValueError(f"{text} is less than {least}")
        return int(text)

    return parse


def millis(text: str) -> int:
    """A number of processors, in thousandths."""
    wanted = number(text) * 1000
    if not LEAST.cpu_millis <= wanted <= MOST.cpu_millis:
        raise ValueError(f"{text!r} is not a number of processors from {LEAST.cpu_millis / 1000} to 1024")
    return round(wanted)


def lateness(text: str) -> float:
    """Seconds, a minute to a day."""
    if not 60 <= number(text) <= 86_400:
        raise ValueError(f"{text!r} is not a number of seconds from 60 to 86400")
    return float(text)


def delays(text: str) -> tuple[float, ...]:
    """Seconds, with commas between them."""
    found = tuple(seconds(part.strip()) for part in text.split(",") if part.strip())
    if len(found) > MOST_RETRIES or max(found, default=0) > LONGEST_DELAY:
        raise ValueError(f"{text!r} is not up to {MOST_RETRIES} delays of at most {LONGEST_DELAY} seconds")
    return found


@dataclass(frozen=True)
class Settings(MeshSettings):
    """The defaults suit one host."""

    retention_days: float = env("RUNMESH_RETENTION_DAYS", 7.0, days)
    # Runs of one organization at once, and how many more of them may wait. executor/settings.py reads the first, too.
    organization_runs: int = env("RUNMESH_ORGANIZATION_RUNS", 100, above(1))
    organization_queue: int = env("RUNMESH_ORGANIZATION_QUEUE", 10_000, above(1))
    # A deploy waits that long for the executor: it may have to fetch and build a whole dependency environment.
    validate_seconds: float = env("RUNMESH_VALIDATE_SECONDS", 600.0, seconds)
    # A scheduled run that the mesh missed is started if it is late by less, once; else it is skipped.
    schedule_late_seconds: float = env("RUNMESH_SCHEDULE_LATE_SECONDS", 3600.0, lateness)
    # Of one organization.
    max_schedules: int = env("RUNMESH_MAX_SCHEDULES", 1000, above(1))
    # What is deployed from there is the system's.
    library: Path = env("RUNMESH_LIBRARY", Path(__file__).parent.parent / "library", absolute)
    # Seconds between the attempts to deliver a record to its X-Callback-Url; after the last one it has failed.
    callback_retries: tuple[float, ...] = env("RUNMESH_CALLBACK_RETRIES", RETRIES, delays)
    # The most that a workflow's owner may set; executor/settings.py reads the same variables.
    max_memory_bytes: int = env("RUNMESH_MAX_MEMORY_BYTES", _HOST_MEMORY, above(LEAST.memory_bytes))
    max_cpu_millis: int = env("RUNMESH_MAX_CPU", 1000 * (os.cpu_count() or 1), millis)
    max_processes: int = env("RUNMESH_MAX_PROCESSES", 4096, above(LEAST.processes))
    max_disk_bytes: int = env("RUNMESH_MAX_DISK_BYTES", 100 * 1024 * MIB, above(LEAST.disk_bytes))

    @property
    def most(self) -> Limits:
        """The ceiling of every workflow's limits."""
        return replace(
            MOST,
            memory_bytes=self.max_memory_bytes,
            cpu_millis=self.max_cpu_millis,
            processes=self.max_processes,
            disk_bytes=self.max_disk_bytes,
        )
