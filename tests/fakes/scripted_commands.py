"""`executor.commands.Commands` that starts nothing: each call is answered by a function of its argv."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from executor.commands import Completed
from executor.reach import Reach


class ScriptedCommands:
    """Remembers argv and environment of each call in `calls`."""

    def __init__(self, answer: Callable[[list[str]], Completed]) -> None:
        self.calls: list[tuple[list[str], dict[str, str]]] = []
        self._answer = answer

    async def run(self, argv: Sequence[str], *, env: Mapping[str, str], cwd: Path, timeout: float) -> Completed:
        self.calls.append((list(argv), dict(env)))
        return self._answer(list(argv))

    async def run_sandboxed(
        self,
        argv: Sequence[str],
        *,
        binds_ro: Sequence[Path],
        binds_rw: Sequence[Path],
        env: Mapping[str, str],
        cwd: Path,
        timeout: float,
    ) -> Completed:
        self.calls.append((list(argv), dict(env)))
        return self._answer(list(argv))

    async def run_packager(
        self,
        argv: Sequence[str],
        *,
        reach: Reach | None,
        binds_ro: Sequence[Path],
        binds_rw: Sequence[Path],
        env: Mapping[str, str],
        cwd: Path,
        timeout: float,
    ) -> Completed:
        self.calls.append((list(argv), dict(env)))
        return self._answer(list(argv))

    @property
    def packager(self) -> int | None:
        return None
