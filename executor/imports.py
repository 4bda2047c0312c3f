"""The network of a workflow that is being loaded: a template's import, and the check of a deploy.

The internet as in a run of it, by its own rules. There is no run yet, so the runtime answers whatever is asked of it
with 409 `conflict`: that is the edge's word, by an identity that names no run.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from executor.egress.egress import Egress
from executor.egress.gate import Internet
from executor.egress.log import EgressLog
from executor.egress.rules import parse
from executor.sandbox import Process
from executor.wayout import WayOut
from kit.clock import Clock


@dataclass(frozen=True)
class Imports:
    """`nested`, `nested_tls`: Envoy's sockets for calls out of sandboxes; `token`: an identity of no run, signed."""

    internet: Internet
    clock: Clock
    nested: Path
    nested_tls: Path
    token: Callable[[], bytes]

    @asynccontextmanager
    async def served(self, process: Process, rules: Sequence[str] | None, contacts: EgressLog) -> AsyncIterator[None]:
        """Answers on the sockets of `process` until it is left; then nothing does, and what is open is broken off."""
        egress = Egress(process.egress, process.names, self.internet, parse(rules), contacts, self.clock)
        async with WayOut(process.way_out, self.nested, self.nested_tls, self.token), egress:
            yield
