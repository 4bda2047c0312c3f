"""A run that is recorded, or repeats one that was: its chance by a seed, its clock from a moment on.

Standard library only, beside shim.py in the sandbox. Nothing here is a boundary, and not all can be moved: whoever has
bound `time.time` by another name before, C code and the kernel have the real clock.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Any

import shim_chance  # type: ignore[import-not-found]  # it lies beside us in the sandbox


def begin(repeat: dict[str, Any]) -> None:
    """`seed`: text. `clock`: the time now, in seconds since 1970; the real one where it isn't said."""
    if "clock" in repeat:
        move_clock(float(repeat["clock"]) - time.time())
    if "seed" in repeat:
        shim_chance.repeat(str(repeat["seed"]))


def move_clock(seconds: float) -> None:
    """`time` and `datetime` tell the time this much later, of all who use them as modules and classes."""
    _move_time(seconds)
    with suppress(Exception):  # an interpreter that isn't CPython as we know it keeps its own
        _move_datetime(timedelta(seconds=seconds))


def _move_time(seconds: float) -> None:
    real_time, real_ns, nanoseconds = time.time, time.time_ns, round(seconds * 1_000_000_000)

    def moved() -> float:
        return real_time() + seconds

    def moved_ns() -> int:
        return real_ns() + nanoseconds

    def when(convert: Callable[..., Any]) -> Callable[..., Any]:
        def converted(moment: float | None = None) -> Any:
            return convert(moved() if moment is None else moment)

        return converted

    real_get, real_get_ns = time.clock_gettime, time.clock_gettime_ns
    format_time, as_text = time.strftime, time.asctime
    time.time, time.time_ns = moved, moved_ns
    time.gmtime, time.ctime = when(time.gmtime), when(time.ctime)
    local = when(time.localtime)
    time.localtime = local
    time.clock_gettime = lambda clock: moved() if clock == time.CLOCK_REALTIME else real_get(clock)
    time.clock_gettime_ns = lambda clock: moved_ns() if clock == time.CLOCK_REALTIME else real_get_ns(clock)
    time.strftime = lambda form, moment=None: format_time(form, local() if moment is None else moment)
    time.asctime = lambda moment=None: as_text(local() if moment is None else moment)


def _move_datetime(shift: timedelta) -> None:
    """In the classes themselves: everybody has them by name. Not by subclasses, which validators wouldn't know."""
    now = datetime.__dict__["now"]

    def moved(cls: type[datetime], tz: Any = None) -> datetime:
        moment: datetime = now.__get__(None, cls)(UTC) + shift
        return moment.astimezone(tz) if tz is not None else moment.astimezone().replace(tzinfo=None)

    def utc(cls: type[datetime]) -> datetime:
        moment: datetime = now.__get__(None, cls)(UTC) + shift
        return moment.replace(tzinfo=None)

    def today(cls: type[date]) -> date:
        if issubclass(cls, datetime):
            return moved(cls)
        moment = moved(datetime)
        return cls(moment.year, moment.month, moment.day)

    _change(datetime, now=classmethod(moved), utcnow=classmethod(utc))
    _change(date, today=classmethod(today))


def _change(cls: type, **methods: Any) -> None:
    """A class in C has its dictionary behind a proxy."""
    gc.get_referents(cls.__dict__)[0].update(methods)
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(cls))
