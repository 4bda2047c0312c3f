"""What a run was given, told to whoever gave it: so that it can be given again."""

from dataclasses import replace
from typing import Protocol

from kit.errors import Conflict
from scheduler.model import Asker, Input, Run, unknown_run


class Kept(Protocol):
    """What the store has of runs and their inputs."""

    async def find_run(self, asker: Asker, request_id: str, *, content: bool = True) -> Run | None: ...

    async def find_input(self, run_id: str) -> Input | None: ...


class Recall:
    """Reads inputs."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    async def __call__(self, asker: Asker, run_id: str) -> Input:
        """Of this very run. Errors: NotFound, also for those who may see the run, but whose input it isn't; Conflict
        when it wasn't kept.
        """
        run = await self._kept.find_run(replace(asker, exact=True), run_id, content=False)
        if run is None or not asker.gave(run):
            raise unknown_run()
        found = await self._kept.find_input(run.id)
        if found is None:
            raise Conflict(
                "the input of this run wasn't kept: the body of a /run call is, if it says its length and that is at"
                " most 64 KiB; /run_async keeps any"
            )
        return found
