"""The composition root."""

from contextlib import AsyncExitStack

from edge.admitting import admitting
from edge.clients import CatalogueClient, FilesClient, KeysClient, PeerClient, SecretsClient, ServingClient
from edge.delivering import delivering
from edge.delivery_clients import WebhooksClient
from edge.endpoints import documented, endpoints
from edge.files import FileHandlers
from edge.hook_clients import HooksClient
from edge.hooks import HookHandlers
from edge.keys import KeyHandlers
from edge.money import MoneyHandlers
from edge.money_clients import BooksClient
from edge.platform import PlatformHandlers
from edge.reading import Reading
from edge.receipt_clients import SignerClient
from edge.receipts import ReceiptHandlers
from edge.rpc import mount
from edge.run_clients import RunsClient, WorkflowsClient
from edge.running import running
from edge.schedule_clients import SchedulesClient
from edge.schedules import ScheduleHandlers
from edge.secrets import SecretHandlers
from edge.serving import ServingHandlers
from edge.settings import Settings
from edge.template_clients import TemplatesClient
from edge.templates import TemplateHandlers
from edge.webhooks import WebhookHandlers
from edge.workflows import WorkflowHandlers
from kit.bus import Bus, open_bus
from kit.clock import Clock, SystemClock
from kit.rpc_client import connect
from kit.rpc_server import RpcServer

DEFAULT_NATS_URL = "nats://127.0.0.1:4222"
PEERS = ("keys", "scheduler", "executor", "filestore")


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
    reading = Reading(RunsClient(channels["scheduler"]), clock)
    runs = await running(settings, stack, channels, admission, bus, clock)
    register = HooksClient(channels["keys"])
    templates = TemplatesClient(channels["scheduler"])
    served = endpoints(
        runs=runs,
        keys=KeyHandlers(KeysClient(channels["keys"])),
        workflows=WorkflowHandlers(
            CatalogueClient(channels["scheduler"]),
            templates,
            settings.public_url,
            admission.targets.forget,
            runs.steps,
        ),
        templates=TemplateHandlers(templates),
        serving=ServingHandlers(ServingClient(channels["scheduler"]), settings.public_url, admission.targets.forget),
        secrets=SecretHandlers(SecretsClient(channels["keys"])),
        schedules=ScheduleHandlers(SchedulesClient(channels["scheduler"])),
        hooks=HookHandlers(register, admission.targets, runs.accepted, clock, settings.public_url),
        files=FileHandlers(FilesClient(channels["filestore"])),
        platform=PlatformHandlers({name: PeerClient(channel) for name, channel in {"edge": own, **channels}.items()}),
        deliveries=await stack.enter_async_context(delivering(settings, channels, bus, clock)),
        webhooks=WebhookHandlers(WebhooksClient(channels["keys"])),
        receipts=ReceiptHandlers(
            reading, WorkflowsClient(channels["scheduler"]), SignerClient(channels["keys"]), clock
        ),
        money=MoneyHandlers(BooksClient(channels["keys"])),
    )
    server = RpcServer(settings.address("edge"), grace=settings.drain_seconds)
    return await stack.enter_async_context(
        mount(server, documented(served, settings.public_url), admission.auth, admission.rates)
    )
