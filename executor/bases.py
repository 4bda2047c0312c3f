"""Bases: for each organization and dependency environment a process that has the frameworks loaded. Templates are
forked from it, share that memory, and needn't load it again.

A base knows no secret and runs nobody's script. Strangers share none, nor do their workflows that are run with another
organization's secrets: forks have the same layout of memory and the same seed of hashes. What fails here is no failure
of a template: it is then started from nothing.
"""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from math import inf
from typing import Any

from executor.failure import in_our_log
from executor.sandbox import Environment, Launch, StartFailed, Unforkable
from executor.template import Template
from kit.telemetry import log

# What is loaded, where an environment has it: what most workflows import, takes long, and doesn't care for the
# environment of variables, but for those whose names begin so.
MODULES = ("fastapi", "uvicorn", "uvloop", "httptools", "pydantic", "starlette.responses", "httpx", "numpy", "pandas")
READ_AT_IMPORT = (
    "PYTHON", "PYDANTIC_", "NUMPY_", "NPY_", "PANDAS_", "OPENBLAS_", "GOTO_", "OMP_", "KMP_", "MKL_", "NUMEXPR_",
    "ARROW_",
)  # fmt: skip
IDLE_SECONDS = 60.0
RETRY_SECONDS = 60.0
MOST_REFUSED = 1024


class Bases:
    """Those of one driver, whose `start` makes one that is ready. `given`: the variables that a base has, too."""

    def __init__(
        self,
        start: Callable[[Environment], Coroutine[Any, Any, Template]],
        given: Mapping[str, str],
        idle: float = IDLE_SECONDS,
    ) -> None:
        self.given = given
        self._start = start
        self._idle = idle  # seconds that one without a template is kept
        self._making: dict[str, asyncio.Task[Template]] = {}
        self._refused: dict[str, float] = {}  # until when, by the loop's clock
        self._ending: dict[Template, asyncio.TimerHandle] = {}
        self._closed = False

    async def of(self, launch: Launch) -> Template | None:
        """The one to fork this launch's template from; None where there is none, or the template would differ."""
        key = _key(launch)
        differs = launch.certificates is not None or self._reads_another(launch.env)
        if self._closed or differs or self._refused.get(key, 0) > asyncio.get_running_loop().time():
            return None
        making = self._making.get(key)
        if making is None:
            making = self._making[key] = asyncio.create_task(self._start(launch.environment))
            making.add_done_callback(lambda made: self._made(key, made))
        await asyncio.wait({making})
        if making.cancelled() or making.exception() is not None:
            return None
        base = making.result()
        if base.gone.is_set():
            self._forget(base)
            return None
        return base

    def released(self, base: Template) -> None:
        """A template of its has ended, or couldn't be had."""
        if earlier := self._ending.pop(base, None):
            earlier.cancel()
        if not base.slots and not self._closed:
            loop = asyncio.get_running_loop()
            self._ending[base] = loop.call_later(self._idle, self._end_if_idle, base)

    def distrust(self, base: Template) -> None:
        """It didn't do as it was told: it goes with its last template, and for a while there is no other."""
        for key in self._forget(base):
            self._refuse(key, RETRY_SECONDS)
        base.retire()

    def memory(self) -> int:
        """Bytes of all of them."""
        return sum(base.memory() for _, base in self._ready())

    async def close(self) -> None:
        """None is made any more; the spawner ends those that are."""
        self._closed = True
        for timer in self._ending.values():
            timer.cancel()
        for making in self._making.values():
            making.cancel()
        await asyncio.gather(*self._making.values(), return_exceptions=True)

    def _made(self, key: str, making: "asyncio.Task[Template]") -> None:
        """Whoever asked for it may have left meanwhile."""
        error = None if making.cancelled() else making.exception()
        if error is None and not making.cancelled():
            self.released(making.result())
            return
        if self._making.get(key) is making:
            del self._making[key]
        if error is not None:
            log().warning("base.failed", reason=in_our_log(error))
            final = isinstance(error, Unforkable) or (isinstance(error, StartFailed) and error.kind != "timeout")
            self._refuse(key, inf if final else RETRY_SECONDS)

    def _reads_another(self, env: Mapping[str, str]) -> bool:
        names = {name for name in (*env, *self.given) if name.startswith(READ_AT_IMPORT)}
        return any(env.get(name) != self.given.get(name) for name in names)

    def _refuse(self, key: str, seconds: float) -> None:
        self._refused[key] = asyncio.get_running_loop().time() + seconds
        while len(self._refused) > MOST_REFUSED:
            del self._refused[next(iter(self._refused))]

    def _end_if_idle(self, base: Template) -> None:
        self._ending.pop(base, None)
        if not base.slots:
            self._forget(base)
            base.retire()

    def _forget(self, base: Template) -> list[str]:
        """The keys that it was known by."""
        keys = [key for key, ready in self._ready() if ready is base]
        for key in keys:
            del self._making[key]
        return keys

    def _ready(self) -> list[tuple[str, Template]]:
        return [
            (key, making.result())
            for key, making in self._making.items()
            if making.done() and not making.cancelled() and making.exception() is None
        ]


def _key(launch: Launch) -> str:
    """What has to be the same for two templates to share a base."""
    environment, made = launch.environment, 0
    with suppress(OSError):
        made = environment.path.stat().st_mtime_ns  # one that was made again isn't the one that is loaded
    return f"{launch.acting_id} {launch.owner_id} {environment.digest} {environment.path} {made}"
