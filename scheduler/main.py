"""The composition root of the scheduler."""

from contextlib import AsyncExitStack
from datetime import timedelta

from mesh.runs.v1 import deliveries_pb2_grpc, runs_pb2_grpc
from mesh.schedules.v1 import schedules_pb2_grpc
from mesh.workflows.v1 import templates_pb2_grpc, workflows_pb2_grpc

from kit.bus import open_bus
from kit.clock import Clock, SystemClock
from kit.db import open_db, relay
from kit.lifecycle import background
from kit.rpc_client import connect
from kit.rpc_server import RpcServer
from scheduler import rpc, schedule_rpc, schedule_wire
from scheduler.bills import Bills
from scheduler.cancel import Cancel
from scheduler.catalog import Catalog
from scheduler.clients import BlobStore, Executors, LedgerClient
from scheduler.deliver import Deliver
from scheduler.delivery_rpc import Deliveries
from scheduler.deploy import Deploy
from scheduler.dispatch import Dispatch
from scheduler.estimate import Estimate
from scheduler.fire import Fire
from scheduler.fleet import Fleet
from scheduler.plan import Plan
from scheduler.reap import Reap
from scheduler.recall import Recall
from scheduler.renew import Renew
from scheduler.report import Report
from scheduler.serve import Serve
from scheduler.settings import Settings
from scheduler.shares import Shares
from scheduler.stock import Stock
from scheduler.store.database import open_store
from scheduler.store.tables import outbox
from scheduler.submit import Submit
from scheduler.sweep import Sweep
from scheduler.template_rpc import TemplatesServicer
from scheduler.templates import Templates
from scheduler.watch import Notices, Watch


async def build(settings: Settings, stack: AsyncExitStack, *, clock: Clock | None = None) -> RpcServer:
    """Everything, open and at work; left in reverse: server, loops, store, bus, database."""
    clock = clock or SystemClock()
    enter = stack.enter_async_context
    db = await enter(open_db(settings.database_url("scheduler")))
    bus = await enter(open_bus(settings.nats_url, "scheduler"))
    notices, shares = Notices(), Shares(settings.organization_runs)
    store = await enter(open_store(db))
    estimate = Estimate(store, clock)
    bills = Bills(store, LedgerClient(await enter(connect(settings.address("keys")))), clock)
    store.listeners += [notices.changed, shares.changed, estimate.changed, bills.changed]

    fleet = Fleet(clock)
    executors = await enter(Executors(fleet.checker, fleet.everyone, validate_seconds=settings.validate_seconds))
    blobs = BlobStore(await enter(connect(settings.address("filestore"))))

    cancel = Cancel(store, executors, notices.forgotten, clock)
    dispatch = Dispatch(store, fleet, shares, executors, cancel.sweep_up, clock)
    fleet.on_room = dispatch.wake
    reap = Reap(store, fleet, shares, dispatch, cancel.sweep_up, rpc.QUEUED.set, executors.alive, clock)
    sweep = Sweep(store, timedelta(days=settings.retention_days), clock)
    submit, watch = (
        Submit(store, dispatch, clock, settings.organization_queue),
        Watch(store, notices, clock, shared=db.shared),
    )
    runs = rpc.Runs(
        submit,
        watch,
        cancel,
        Report(store, fleet, cancel.sweep_up, dispatch.waits, clock),
        Renew(store, fleet, clock),
        estimate,
        Recall(store),
    )
    deliveries = Deliveries(Deliver(store, watch.get, settings.callback_retries, clock))
    deploy, catalog = Deploy(store, executors, blobs, clock), Catalog(store, clock, settings.most)
    workflows = rpc.Workflows(deploy, catalog, Serve(store, executors, clock))
    templates = TemplatesServicer(Templates(settings.library / "templates", catalog, blobs))
    late = timedelta(seconds=settings.schedule_late_seconds)
    fire = Fire(store, catalog, submit, schedule_wire.head, schedule_rpc.count, clock, late=late)
    schedules = schedule_rpc.Schedules(Plan(store, catalog, fire.wake, clock, most=settings.max_schedules))
    stock = Stock(settings.library, deploy, catalog, clock)

    await enter(background(relay(db, outbox, bus)))
    await enter(cancel.lingering())
    for loop in (dispatch.run(), reap.run(), sweep.run(), fire.run(), stock.run(), bills.run()):
        await enter(background(loop))
    server = RpcServer(settings.address("scheduler"), grace=settings.drain_seconds)
    server.needs(db.answers)
    server.add(runs_pb2_grpc.add_RunsServicer_to_server, runs, "mesh.runs.v1.Runs")
    server.add(deliveries_pb2_grpc.add_DeliveriesServicer_to_server, deliveries, "mesh.runs.v1.Deliveries")
    server.add(workflows_pb2_grpc.add_WorkflowsServicer_to_server, workflows, "mesh.workflows.v1.Workflows")
    server.add(templates_pb2_grpc.add_TemplatesServicer_to_server, templates, "mesh.workflows.v1.Templates")
    server.add(schedules_pb2_grpc.add_SchedulesServicer_to_server, schedules, "mesh.schedules.v1.Schedules")
    return await enter(server)
