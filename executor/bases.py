"""Bases: for each dependency environment a process that has its frameworks loaded, from which templates are forked.

So templates of one environment share that memory, whoever's they are, and needn't load it again. A base knows no secret
and runs nobody's script. What fails here is no failure of a template: it is then started from nothing.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from typing import Any

from executor.sandbox import Environment, Launch, StartFailed, Unforkable
from executor.template import Template
from kit.errors import Problem
from kit.telemetry import log

# What is loaded, where an environment has it: what most workflows import, takes long, and doesn't care for the
# environment of variables, but for those whose names begin so.
MODULES = ("fastapi", "uvicorn", "uvloop", "httptools", "pydantic", "starlette.responses", "httpx", "numpy", "pandas")
READ_AT_IMPORT = ("PYTHON", "PYDANTIC_", "NUMPY_", "NPY_", "PANDAS_", "OPENBLAS_", "OMP_", "MKL_")
# Of this many that have no template any more the others go.
MOST_IDLE = 4
REMEMBERED = 1024


class Bases:
    """Those of one driver, whose `start` makes one that is ready. `given`: the variables that a base has, too."""

    def __init__(self, start: Callable[[Environment], Coroutine[Any, Any, Template]], given: Mapping[str, str]) -> None:
        self._start = start
        self.given = given
        self._making: OrderedDict[str, asyncio.Task[Template]] = OrderedDict()
        self._refused: OrderedDict[str, None] = OrderedDict()

    async def of(self, launch: Launch) -> Template | None:
        """The one to fork this launch's template from; None where there is none, or it wouldn't be the same."""
        if launch.certificates is not None or self._reads_another(launch.env):
            return None
        key = _key(launch.environment)
        if key in self._refused:
            return None
        making = self._making.get(key)
        if making is None:
            making = self._making[key] = asyncio.create_task(self._start(launch.environment))
        self._making.move_to_end(key)
        try:
            base = await asyncio.shield(making)
        except (StartFailed, Unforkable, Problem) as error:
            self._forget(key, making)
            self._refuse(key, str(error))
            return None
        if base.gone.is_set():
            self._forget(key, making)
            return None
        self._keep_to_limit(but=key)
        return base

    def memory(self) -> int:
        """Bytes of all of them."""
        return sum(base.memory() for base in self._ready().values())

    async def close(self) -> None:
        """The spawner ends them."""
        for making in self._making.values():
            making.cancel()
        await asyncio.gather(*self._making.values(), return_exceptions=True)

    def _reads_another(self, env: Mapping[str, str]) -> bool:
        names = {name for name in (*env, *self.given) if name.startswith(READ_AT_IMPORT)}
        return any(env.get(name) != self.given.get(name) for name in names)

    def _refuse(self, key: str, reason: str) -> None:
        log().info("base.refused", reason=reason)
        self._refused[key] = None
        while len(self._refused) > REMEMBERED:
            self._refused.popitem(last=False)

    def _forget(self, key: str, making: "asyncio.Task[Template]") -> None:
        if self._making.get(key) is making:
            del self._making[key]

    def _ready(self) -> dict[str, Template]:
        """The least recently used first."""
        return {
            key: making.result()
            for key, making in self._making.items()
            if making.done() and not making.cancelled() and making.exception() is None
        }

    def _keep_to_limit(self, but: str) -> None:
        """The least recently used of those that nobody needs go; the dead are forgotten."""
        idle = [(key, base) for key, base in self._ready().items() if not base.slots and key != but]
        for number, (key, base) in enumerate(idle):
            if base.gone.is_set() or number < len(idle) - MOST_IDLE:
                base.retire()
                self._forget(key, self._making[key])


def _key(environment: Environment) -> str:
    made = 0  # one that was made again isn't the one that is loaded
    with suppress(OSError):
        made = environment.path.stat().st_mtime_ns
    return f"{environment.digest} {environment.path} {made}"
