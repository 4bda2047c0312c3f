"""What the executor sends on NATS, and what it listens to."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mesh.events.v1 import events_pb2

from executor import wire
from executor.model import LogLine
from executor.variables import FreshSecrets
from executor.versions import Versions
from kit.bus import Bus
from kit.errors import Unavailable
from kit.telemetry import log


class BusLines:
    """output.LineSink: log.RUN_ID, live."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def send(self, run_id: str, line: LogLine) -> None:
        await self._send(run_id, wire.to_line(line))

    async def end(self, run_id: str) -> None:
        await self._send(run_id, events_pb2.LogLine(end=True))

    async def _send(self, run_id: str, message: events_pb2.LogLine) -> None:
        try:
            await self._bus.send(f"log.{run_id}", message.SerializeToString())
        except Unavailable as problem:  # the archive has it
            log().warning("log.not_sent", run_id=run_id, reason=problem.message)


@asynccontextmanager
async def forgetting(bus: Bus, secrets: FreshSecrets, versions: Versions) -> AsyncIterator[None]:
    """A secret or a limit that was changed counts from the next run on."""

    async def secret(_subject: str, payload: bytes) -> None:
        secrets.forget(events_pb2.SecretChanged.FromString(payload).organization_id)

    async def workflow(_subject: str, _payload: bytes) -> None:
        versions.forget()

    async with bus.subscribed("event.secret.changed", secret), bus.subscribed("event.workflow.changed", workflow):
        yield
