"""Starts programs in bubblewrap through the spawner: makes the descriptors that a plan needs, names run directories."""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path

from executor import bubblewrap, seccomp
from executor.bubblewrap import Bind, Plan, System
from executor.cgroups import Bounds
from executor.spawner_client import UNBOUND, Job, SpawnerClient
from kit.errors import Unavailable


class Confinement:
    """One host's way into bubblewrap."""

    def __init__(self, spawner: SpawnerClient) -> None:
        """Errors: Unavailable when this host can't confine."""
        program = shutil.which("bwrap")
        if program is None:
            raise Unavailable("bubblewrap (bwrap) isn't installed: no sandbox can be had")
        try:
            self.filter = seccomp.program()
            self._template_filter = seccomp.program(template=True)
        except ValueError as error:
            raise Unavailable(str(error)) from error
        self._program = program
        self._system = System.here()
        self._spawner = spawner
        self._numbers = count(1)

    def directory(self, name: str) -> str:
        """A new name for a run directory; it exists when something is spawned with it."""
        safe = re.sub(r"[^A-Za-z0-9_-]", "_", name)[:60]
        return f"{safe}-{self._spawner.pid}-{next(self._numbers)}"

    def own(self, directory: str, target: str = "") -> list[Bind]:
        """A run directory, writable: its `tmp` at both places for temporary files, its `work` at `target`."""
        parts = {"/tmp": "tmp", "/var/tmp": "tmp"} | ({target: "work"} if target else {})  # noqa: S108  # inside
        return [Bind(f"{self._spawner.runs}/{directory}/{part}", at, writable=True) for at, part in parts.items()]

    def places(self, directory: str) -> list[Path]:
        """What is written below a run directory, as we reach it."""
        return [self._spawner.own_runs / directory / part for part in ("tmp", "work")]

    def slots(self, directory: str) -> list[Bind]:
        """Where a template's slots have their directories, and what lies below theirs."""
        lower = [
            Bind(bind.source, bubblewrap.LOWER[bind.target])
            for bind in self.own(directory, bubblewrap.WORK)
            if bind.target in bubblewrap.LOWER
        ]
        return [Bind(f"{self._spawner.runs}/{directory}/slots", bubblewrap.SLOTS, writable=True), *lower]

    async def show(self, path: Path, *, writable: bool = False) -> Bind:
        """A path of the host at the same path inside. Errors: Unavailable."""
        return Bind(await self._spawner.stage(path), str(path), writable)

    async def spawn(
        self,
        plan: Plan,
        command: Sequence[str],
        fds: Mapping[int, int],
        *,
        directory: str,
        listen: Sequence[tuple[str, int]] | None = None,
        bounds: Bounds = UNBOUND,
    ) -> Job:
        """`fds` are the program's besides bubblewrap's own. Errors: Unavailable."""
        numbers, started = self._start(plan, command)
        with ExitStack() as memory:
            own = {number: in_memory(memory, content) for number, content in numbers.items()}
            argv = [self._program, "--args", str(bubblewrap.ARGUMENTS_FD), "--", *started]
            return await self._spawner.spawn(
                argv,
                {**fds, **own},
                confined=True,
                run=directory,
                listen=listen,
                bounds=bounds,
                kind="base" if plan.base else "template" if plan.template else "packager" if plan.packager else "",
            )

    def _start(self, plan: Plan, command: Sequence[str]) -> tuple[Mapping[int, bytes], Sequence[str]]:
        """What bubblewrap reads from which descriptor, and what it starts."""
        options = bubblewrap.encoded(bubblewrap.arguments(self._system, plan))
        filter_ = self._template_filter if plan.forks else self.filter
        files = dict(enumerate(plan.files.values(), bubblewrap.FIRST_FILE_FD))
        return {bubblewrap.ARGUMENTS_FD: options, bubblewrap.SECCOMP_FD: filter_, **files}, command


def in_memory(stack: ExitStack, content: bytes) -> int:
    """A descriptor of a file that holds this and is nowhere, `stack`'s to close."""
    fd = os.memfd_create("runmesh")
    stack.callback(os.close, fd)
    with os.fdopen(fd, "wb", closefd=False) as file:
        file.write(content)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
