"""What one call used of an instance that serves one after the other."""

from typing import Any, cast

import pytest

from executor.cgroups import Usage
from executor.instances import Turn
from executor.sandbox import Exit


class Gone:
    """An instance that can be told to have ended."""

    is_finished, is_over = False, False
    process = cast(Any, None)

    def __init__(self) -> None:
        self.used = Usage(3.0, 50, 1)

    def lend(self) -> Any:
        return type("Ways", (), {"close_ways": lambda _: None})()

    def usage(self) -> Usage:
        return self.used

    async def close(self) -> Exit:
        self.used = Usage()
        return Exit(used=self.used)


async def test_what_was_seen_of_a_call_stays_when_its_process_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    instance = Gone()
    turn = Turn(cast(Any, instance), Usage(3.0, 50, 1), lambda *_: False)
    assert turn.usage() == Usage(0, 50, 0)
    instance.used = Usage(4.5, 70, 1)
    assert turn.usage() == Usage(1.5, 70, 0)

    async def end(sandbox: Any) -> Exit:
        return cast(Exit, await sandbox.close())

    monkeypatch.setattr("executor.instances.end", end)
    assert (await turn.close()).used == turn.usage() == Usage(1.5, 70, 0)


async def test_a_process_that_is_gone_has_used_nothing_not_less() -> None:
    instance = Gone()
    turn = Turn(cast(Any, instance), Usage(3.0, 50, 1), lambda *_: False)
    instance.used = Usage()
    assert turn.usage() == Usage()
