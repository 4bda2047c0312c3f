"""The composition root."""

from contextlib import AsyncExitStack
from functools import partial

from mesh.executor.v1 import executor_pb2_grpc

from executor import wire
from executor.capacity import Capacity, allow_descriptors
from executor.clients import FilestoreClient, KeysClient, SchedulerClient
from executor.egress.authority import Authority, roots
from executor.egress.gate import open_internet
from executor.events import BusLines, Heartbeat, forgetting
from executor.netns import names_inside
from executor.report import Reporter
from executor.rpc import ExecutorServicer
from executor.run import Host
from executor.runs import Runs
from executor.sandboxes import Sandboxes, open_sandboxes
from executor.settings import Settings
from executor.spawner_client import Launched
from executor.variables import FreshSecrets, Variables
from executor.versions import Versions
from kit.bus import Bus, open_bus
from kit.clock import Clock, SystemClock
from kit.lifecycle import background
from kit.names import new_id
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
    address, incarnation = settings.address("executor"), new_id("inc")
    enter = stack.enter_async_context
    channel = await enter(connect(settings.address("scheduler")))
    scheduler = SchedulerClient(channel, address, incarnation, settings.most)
    filestore = FilestoreClient(await enter(connect(settings.address("filestore"))))
    secrets = FreshSecrets(KeysClient(await enter(connect(settings.address("keys")))), clock)
    if bus is None:
        bus = await enter(open_bus(settings.nats_url or DEFAULT_NATS_URL, "executor"))
    private, inside = settings.egress_allow_private, names_inside(settings.public_url)
    internet = stack.enter_context(open_internet(clock, private, inside))
    if sandboxes is None:
        sandboxes = await open_sandboxes(settings, stack, secrets, launched, clock, internet)
    await enter(background((reporter := Reporter(scheduler, clock)).run()))
    stack.push_async_callback(reporter.flush, FLUSH_SECONDS)
    capacity = Capacity(settings.runs, settings.nested_runs, settings.starts)
    versions = Versions(scheduler, filestore, settings.home / "cache" / "sources")
    runs = Runs(
        Host(
            driver=sandboxes.driver,
            environments=sandboxes.environments,
            versions=versions,
            variables=Variables(secrets),
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
        )
    )
    await enter(background(runs.forget_old()))
    await enter(forgetting(bus, secrets, versions))
    heartbeat = Heartbeat(bus, capacity, clock, address, incarnation)
    await enter(background(heartbeat.beat()))
    server = await enter(_served(address, ExecutorServicer(runs, filestore, sandboxes.validate)))
    stack.push_async_callback(runs.drain, settings.drain_seconds)
    stack.push_async_callback(heartbeat.farewell)
    return server


def _served(address: str, servicer: ExecutorServicer) -> RpcServer:
    server = RpcServer(address, grace=SERVER_GRACE_SECONDS)
    server.add(executor_pb2_grpc.add_ExecutorServicer_to_server, servicer, "mesh.executor.v1.Executor")
    return server
