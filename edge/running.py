"""The run endpoints, wired."""

from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import Any

from edge.admitting import Admission
from edge.calls import Calls
from edge.contacts import Contacts
from edge.diff import Diffs
from edge.direct import Direct
from edge.durable import Durable
from edge.history import History
from edge.logs import Logs
from edge.patience import Errands
from edge.reading import Reading
from edge.replay import Replays
from edge.results import Results
from edge.run_clients import BlobsClient, ExecutorClient, LogBus, RunsClient, WorkflowsClient
from edge.runs import RunHandlers
from edge.settings import Settings
from kit.bus import Bus
from kit.clock import Clock


async def running(
    settings: Settings, stack: AsyncExitStack, channels: Mapping[str, Any], admission: Admission, bus: Bus, clock: Clock
) -> RunHandlers:
    """What they hold is entered on `stack`. `channels` by the names of services."""
    errands = await stack.enter_async_context(Errands(settings.drain_seconds))
    executor = await stack.enter_async_context(ExecutorClient(settings.address("executor")))
    runs, blobs = RunsClient(channels["scheduler"]), BlobsClient(channels["filestore"])
    reading = Reading(runs, clock)
    durable = Durable(runs, reading, executor, blobs, clock, errands, settings.public_url)
    versions = WorkflowsClient(channels["scheduler"])
    return RunHandlers(
        calls=Calls(admission.targets, admission.rates, clock),
        direct=Direct(executor, clock, errands, settings.public_url),
        durable=durable,
        provisioning=runs,
        results=Results(reading, blobs, clock),
        history=History(runs, reading),
        logs=Logs(reading, LogBus(bus), blobs, clock),
        contacts=Contacts(reading, blobs, clock),
        replays=Replays(reading, runs, admission.targets, admission.rates, versions, durable, blobs, clock),
        diffs=Diffs(reading, blobs),
    )
