"""The composition root."""

from contextlib import AsyncExitStack

import grpc

from edge.admitting import Admission, admitting
from edge.calls import Calls
from edge.clients import CatalogueClient, FilesClient, KeysClient, PeerClient, SecretsClient
from edge.contacts import Contacts
from edge.delivering import delivering
from edge.delivery_clients import WebhooksClient
from edge.diff import Diffs
from edge.direct import Direct
from edge.durable import Durable
from edge.endpoints import endpoints
from edge.files import FileHandlers
from edge.history import History
from edge.keys import KeyHandlers
from edge.logs import Logs
from edge.patience import Errands
from edge.platform import PlatformHandlers
from edge.reading import Reading
from edge.replay import Replays
from edge.results import Results
from edge.rpc import mount
from edge.run_clients import BlobsClient, ExecutorClient, LogBus, RunsClient, WorkflowsClient
from edge.runs import RunHandlers
from edge.schedule_clients import SchedulesClient
from edge.schedules import ScheduleHandlers
from edge.secrets import SecretHandlers
from edge.settings import Settings
from edge.webhooks import WebhookHandlers
from edge.workflows import WorkflowHandlers
from kit.bus import Bus, open_bus
from kit.clock import Clock, SystemClock
from kit.rpc_client import connect
from kit.rpc_server import RpcServer

DEFAULT_NATS_URL = "nats://127.0.0.1:4222"
PEERS = ("keys", "scheduler", "executor", "filestore")
Channels = dict[str, grpc.aio.Channel]


async def build(
    settings: Settings, stack: AsyncExitStack, *, clock: Clock | None = None, bus: Bus | None = None
) -> RpcServer:
    """Everything wired and entered on `stack`; tests pass their clock and bus."""
    clock = clock or SystemClock()
    if bus is None:
        bus = await stack.enter_async_context(open_bus(settings.nats_url or DEFAULT_NATS_URL, "edge"))
    channels = {name: await stack.enter_async_context(connect(settings.address(name))) for name in PEERS}
    own = await stack.enter_async_context(connect(settings.address("edge")))
    admission = await stack.enter_async_context(admitting(settings, channels, bus, clock))
    served = endpoints(
        await _runs(settings, stack, channels, admission, bus, clock),
        KeyHandlers(KeysClient(channels["keys"])),
        WorkflowHandlers(CatalogueClient(channels["scheduler"]), settings.public_url),
        SecretHandlers(SecretsClient(channels["keys"])),
        ScheduleHandlers(SchedulesClient(channels["scheduler"])),
        FileHandlers(FilesClient(channels["filestore"])),
        PlatformHandlers({name: PeerClient(channel) for name, channel in {"edge": own, **channels}.items()}),
        await stack.enter_async_context(delivering(settings, channels, bus, clock)),
        WebhookHandlers(WebhooksClient(channels["keys"])),
    )
    server = RpcServer(settings.address("edge"), grace=settings.drain_seconds)
    return await stack.enter_async_context(mount(server, served, admission.auth, admission.rates))


async def _runs(
    settings: Settings, stack: AsyncExitStack, channels: Channels, admission: Admission, bus: Bus, clock: Clock
) -> RunHandlers:
    targets, rates = admission.targets, admission.rates
    errands = await stack.enter_async_context(Errands(settings.drain_seconds))
    executor = await stack.enter_async_context(ExecutorClient(settings.address("executor")))
    runs, blobs = RunsClient(channels["scheduler"]), BlobsClient(channels["filestore"])
    reading = Reading(runs, clock)
    durable = Durable(runs, reading, executor, blobs, clock, errands, settings.public_url)
    versions = WorkflowsClient(channels["scheduler"])
    return RunHandlers(
        calls=Calls(targets, rates, clock),
        direct=Direct(executor, clock, errands, settings.public_url),
        durable=durable,
        provisioning=runs,
        results=Results(reading, blobs, clock),
        history=History(runs, reading),
        logs=Logs(reading, LogBus(bus), blobs, clock),
        contacts=Contacts(reading, blobs, clock),
        replays=Replays(reading, runs, targets, rates, versions, durable, blobs, clock),
        diffs=Diffs(reading, blobs),
    )
