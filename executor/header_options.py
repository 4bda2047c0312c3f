"""`[tool.runmesh]` of a header: how a workflow wants to be run. Pure."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from executor.egress import rules
from executor.model import Limits

ISOLATIONS = ("run", "instance", "cold")
MAX_TIMEOUT = timedelta(hours=24)
# With less than that nothing would ever start.
LEAST_CPU, MOST_CPU = 0.05, 1024
LEAST_PROCESSES, MOST_PROCESSES = 8, 100_000
LEAST_MEMORY_MIB, LEAST_DISK_MIB = 16, 1
MIB = 1 << 20
# As PATCH /workflows/{id} has it.
MOST_CONCURRENCY = 10_000

_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,6})?) ?(ms|s|m|h)")
_NUMBER = re.compile(r"\d{1,9}(?:\.\d{1,6})?")
_SIZE = re.compile(r"(\d{1,9}(?:\.\d{1,6})?) ?([KMGT])(?:i?B|i)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SHIFTS = {"K": 10, "M": 20, "G": 30, "T": 40}


class BadOption(Exception):
    """What is wrong, and the key that it is about."""

    def __init__(self, message: str, key: str) -> None:
        super().__init__(message)
        self.key = key


@dataclass(frozen=True)
class Options:
    """None: the platform's default. `memory` and `disk` in bytes, `cpu` in processors; `egress` are the hosts that it
    may reach.
    """

    isolation: str = "run"
    timeout: timedelta | None = None
    memory: int | None = None
    egress: tuple[str, ...] | None = None
    retries: int | None = None
    concurrency: int | None = None
    cpu: float | None = None
    processes: int | None = None
    disk: int | None = None

    @property
    def limits(self) -> Limits:
        """Of what a run may use; 0 where nothing is said."""
        return Limits(
            memory_bytes=self.memory or 0, cpu=self.cpu or 0, processes=self.processes or 0, disk_bytes=self.disk or 0
        )

    def check(self, most: Limits) -> None:
        """Errors: BadOption for what is more than the operator allows, 0 in `most` being no ceiling."""
        for key, asked, allowed, told in (
            ("memory", self.memory, most.memory_bytes, _mib),
            ("cpu", self.cpu, most.cpu, _plain),
            ("processes", self.processes, most.processes, _plain),
            ("disk", self.disk, most.disk_bytes, _mib),
        ):
            if asked and allowed and asked > allowed:
                text = f"{told(asked, math.ceil)} is more than the {told(allowed, math.floor)} that a run may have"
                raise BadOption(f"[tool.runmesh] {key}: {text} on this installation", key)


def options(table: dict[str, Any]) -> Options:
    """Errors: BadOption, for an unknown key too."""
    given: dict[str, Any] = {}
    for key, value in table.items():
        if key not in _READERS:
            raise BadOption(f"[tool.runmesh] has no option {key[:100]!r}; it has {', '.join(_READERS)}", key)
        try:
            given[key] = _READERS[key](value)
        except ValueError as error:
            raise BadOption(f"[tool.runmesh] {key}: {error}", key) from None
    return Options(**given)


def _plain(number: float, _whole: Callable[[float], int]) -> str:
    return f"{number:,}"


def _mib(size: float, whole: Callable[[float], int]) -> str:
    """Rounded so that what is told as allowed may be asked for, and is less than what was asked."""
    return f"{whole(size / MIB):,} MiB"


def _isolation(value: Any) -> str:
    if value not in ISOLATIONS:
        raise ValueError(f"{value!r} is not one of {', '.join(ISOLATIONS)}")
    return str(value)


def _timeout(value: Any) -> timedelta:
    seconds: float = -1
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = value
    elif isinstance(value, str) and (found := _DURATION.fullmatch(value.strip())):
        seconds = float(found[1]) * _UNITS[found[2]]
    if not 0.001 <= seconds <= MAX_TIMEOUT.total_seconds():
        raise ValueError(f'{value!r} is not a time up to 24 h: seconds, or text such as "30s" or "5m"')
    return timedelta(seconds=seconds)


def _size(least_mib: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        size = -1
        if isinstance(value, int) and not isinstance(value, bool):
            size = value
        elif isinstance(value, str) and (found := _SIZE.fullmatch(value.strip())):
            size = int(float(found[1]) * (1 << _SHIFTS[found[2]]))
        if not least_mib << 20 <= size < 1 << 50:
            raise ValueError(
                f'{value!r} is not a size of at least {least_mib} MiB: bytes, or text such as "512MiB" or "2G"'
            )
        return size

    return read


def _cpu(value: Any) -> float:
    """Rounded to thousandths."""
    cpu: float = -1
    if isinstance(value, int | float) and not isinstance(value, bool):
        cpu = value
    elif isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        cpu = float(value)
    if not LEAST_CPU <= cpu <= MOST_CPU:
        raise ValueError(f"{value!r} is not a number of processors from {LEAST_CPU} to {MOST_CPU}, such as 0.5 or 2")
    return round(cpu, 3)


def _egress(value: Any) -> tuple[str, ...]:
    """Errors: ValueError for an entry that is none of the language's (egress/rules.py)."""
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise ValueError('not a list of hosts such as ["api.example.com"]')
    rules.parse(value)
    return tuple(value)


def _whole(least: int, most: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise ValueError(f"{value!r} is not a whole number from {least} to {most}")
        return value

    return read


_READERS: dict[str, Callable[[Any], Any]] = {
    "isolation": _isolation,
    "timeout": _timeout,
    "memory": _size(LEAST_MEMORY_MIB),
    "cpu": _cpu,
    "processes": _whole(LEAST_PROCESSES, MOST_PROCESSES),
    "disk": _size(LEAST_DISK_MIB),
    "egress": _egress,
    "retries": _whole(0, 100),
    "concurrency": _whole(1, MOST_CONCURRENCY),
}
