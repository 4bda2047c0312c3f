"""The composition root."""

from contextlib import AsyncExitStack
from functools import partial

from mesh.executor.v1.executor_pb2_grpc import add_ExecutorServicer_to_server

from executor import wire
from executor.capacity import Capacity, allow_descriptors
from executor.clients import FilestoreClient, KeysClient, LedgerClient, SchedulerClient
from executor.egress.authority import Authority, roots
from executor.egress.gate import open_internet
from executor.events import BusLines, forgetting
from executor.host import Host
from executor.lease import Lease
from executor.metering import open_metering
from executor.netns import names_inside
from executor.report import Reporter
from executor.rpc import ExecutorServicer
from executor.runs import Runs
from executor.sandboxes import Sandboxes, open_sandboxes
from executor.settings import Settings
from executor.spawner_client import Launched
from executor.steps import Steps
from executor.variables import FreshSecrets, Variables
from executor.versions import Versions
from executor.warm import Warm
from kit.bus import Bus, open_bus
from kit.clock import Clock, SystemClock
from kit.lifecycle import background
from kit.rpc_client import connect
from kit.rpc_server import RpcServer
from kit.settings import private_dir, read_key

DEFAULT_NATS_URL = "nats://127.0.0.1:4222"
# When the server is stopped, all runs have ended already.
SERVER_GRACE_SECONDS = 1.0
FLUSH_SECONDS = 5.0


async def build(
    settings: Settings,
    stack: AsyncExitStack,
    *,
    launched: Launched | None = None,
    clock: Clock | None = None,
    bus: Bus | None = None,
    sandboxes: Sandboxes | None = None,
) -> RpcServer:
    """Everything wired and entered on `stack`; `launched` is the spawner. Tests pass their own parts."""
    allow_descriptors()
    clock = clock or SystemClock()
    address = settings.address("executor")
    enter = stack.enter_async_context
    to = {name: await enter(connect(settings.address(name))) for name in ("scheduler", "keys", "filestore")}
    scheduler = SchedulerClient(to["scheduler"], address, lambda: lease.incarnation, settings.most)
    filestore = FilestoreClient(to["filestore"])
    secrets = FreshSecrets(KeysClient(to["keys"]), clock)
    if bus is None:
        bus = await enter(open_bus(settings.nats_url or DEFAULT_NATS_URL, "executor"))
    private, inside = settings.egress_allow_private, names_inside(settings.public_url)
    internet = stack.enter_context(open_internet(clock, private, inside))
    sandboxes = sandboxes or await open_sandboxes(settings, stack, secrets, launched, clock, internet)
    metering = await enter(open_metering(LedgerClient(to["keys"]), clock))
    await enter(background((reporter := Reporter(scheduler, clock)).run()))
    stack.push_async_callback(reporter.flush, FLUSH_SECONDS)
    capacity = Capacity(settings.runs, settings.nested_runs, settings.starts, settings.organization_runs)
    lease = Lease(scheduler, capacity.beat, clock)
    versions = Versions(scheduler, filestore, settings.home / "cache" / "sources")
    host = Host(
        driver=sandboxes.driver,
        environments=sandboxes.environments,
        versions=versions,
        variables=Variables(secrets, settings.environ),
        capacity=capacity,
        lines=BusLines(bus),
        reporter=reporter,
        blobs=filestore,
        clock=clock,
        limits=settings.limits,
        identity=partial(wire.to_identity, read_key(settings.key_file("mesh"))),
        nested=settings.run_dir / "nested.sock",
        nested_tls=settings.run_dir / "nested-tls.sock",
        spool=private_dir(settings.home / "spool"),
        start_timeout=settings.start_seconds,
        internet=internet,
        authority=Authority(settings.home / "certificates", roots(settings.environ), clock),
        lease=lease,
        metering=metering,
    )
    runs, warm = Runs(host), Warm(host, sandboxes.templates)
    for other in (background(runs.forget_old()), forgetting(bus, secrets, versions), lease.kept(runs.lose)):
        await enter(other)
    servicer = ExecutorServicer(runs, filestore, sandboxes.validate, Steps(host.lines, clock), warm)
    server = RpcServer(address, grace=SERVER_GRACE_SECONDS)
    server.add(add_ExecutorServicer_to_server, servicer, "mesh.executor.v1.Executor")
    server.needs(lambda: lease.held and metering.ready)
    await enter(server)
    stack.push_async_callback(runs.drain, settings.drain_seconds)
    return server
