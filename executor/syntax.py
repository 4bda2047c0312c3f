"""Whether a source compiles, by the interpreter that will run it, in a sandbox: compiling hostile source can crash."""

import json
from pathlib import Path

from executor.commands import Commands, workplace
from executor.interpreters import Interpreters
from executor.validate import SyntaxFault
from kit.errors import Unavailable
from kit.telemetry import log

_SECONDS = 20.0
_COMPILE = """
import json, sys, warnings
warnings.simplefilter("ignore")
try:
    compile(open(sys.argv[1], "rb").read(), sys.argv[1], "exec", dont_inherit=True)
    print(json.dumps(None))
except SyntaxError as error:
    where = f" (column {error.offset})" if error.offset else ""
    print(json.dumps([f"{type(error).__name__}: {error.msg}{where}", error.lineno or 0]))
except (ValueError, RecursionError, MemoryError) as error:
    print(json.dumps([f"{type(error).__name__}: {error}", 0]))
"""


class Syntax:
    """Implements validate.SyntaxCheck. `home` is the one of an Environments."""

    def __init__(self, home: Path, commands: Commands, interpreters: Interpreters) -> None:
        self._builds = home.absolute() / "builds"
        self._commands = commands
        self._interpreters = interpreters

    async def __call__(self, source: bytes, python: str) -> SyntaxFault | None:
        """Errors: Unavailable."""
        if python:
            interpreter = await self._interpreters.find(python)
        else:
            interpreter = (await self._interpreters.present())[0]
        async with workplace(self._builds) as here:
            file = here / "workflow.py"
            file.write_bytes(source)
            file.chmod(0o644)
            done = await self._commands.run_sandboxed(
                [str(interpreter.path), "-I", "-S", "-c", _COMPILE, str(file)],
                binds_ro=[interpreter.base_prefix, here],
                binds_rw=[],
                env={"LANG": "C.UTF-8"},
                cwd=Path("/tmp"),  # noqa: S108  # the sandbox's own
                timeout=_SECONDS,
            )
        if done.returncode == 0 and not done.timed_out:
            return _fault(done.text)
        if (
            done.timed_out or done.returncode < 0 or done.returncode > 128
        ):  # killed by a signal: the compiler crashed, or ran out of memory
            return SyntaxFault("it is too complex")
        log().error("syntax.check_failed", status=done.returncode, output=done.text[-500:])
        raise Unavailable("the syntax of the workflow could not be checked on this executor")


def _fault(output: str) -> SyntaxFault | None:
    """What the last line says; the source isn't executed, so it can't have written that line."""
    told = json.loads(output.strip().splitlines()[-1])
    return SyntaxFault(str(told[0])[:1000], int(told[1])) if told else None
