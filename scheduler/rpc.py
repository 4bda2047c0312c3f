"""The doors: mesh.runs.v1.Runs and mesh.workflows.v1.Workflows."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import prometheus_client
from mesh.runs.v1 import runs_pb2, runs_pb2_grpc
from mesh.workflows.v1 import workflows_pb2, workflows_pb2_grpc

from kit.errors import Invalid
from kit.telemetry import current_traceparent, log, span
from scheduler import wire, workflow_wire
from scheduler.cancel import Cancel
from scheduler.catalog import Catalog
from scheduler.deploy import Deploy, FailedChecks
from scheduler.estimate import Estimate
from scheduler.model import Asker, Run
from scheduler.recall import Recall
from scheduler.renew import Renew
from scheduler.report import Batch, Report
from scheduler.serve import Serve
from scheduler.submit import Submit
from scheduler.watch import Watch

SUBMITTED = prometheus_client.Counter("runmesh_runs_submitted_total", "Runs accepted on the durable way in.")
ENDED = prometheus_client.Counter("runmesh_runs_reported_ended_total", "Ends of runs that executors reported.")
QUEUED = prometheus_client.Gauge("runmesh_runs_queued", "Runs that wait for an executor.")


class Runs(runs_pb2_grpc.RunsServicer):
    """The life of every run."""

    def __init__(
        self,
        submit: Submit,
        watch: Watch,
        cancel: Cancel,
        report: Report,
        renew: Renew,
        estimate: Estimate,
        recall: Recall,
    ) -> None:
        self._submit = submit
        self._watch = watch
        self._cancel = cancel
        self._report = report
        self._renew = renew
        self._estimate = estimate
        self._recall = recall

    async def Provision(self, request: runs_pb2.ProvisionRequest, _context: Any) -> runs_pb2.ProvisionResponse:
        provision = await self._submit.provision(request.organization_id, request.key_id)
        return runs_pb2.ProvisionResponse(request_id=provision.id)

    async def Submit(self, request: runs_pb2.SubmitRequest, _context: Any) -> runs_pb2.SubmitResponse:
        outer = None if current_traceparent() else request.spec.traceparent
        with span("scheduler.submit", parent=outer, service_id=request.spec.service_id) as current:
            run, new = await self._submit(wire.submission(request, current_traceparent()))
            current.set_attribute("run_id", run.id)
        SUBMITTED.inc(int(new))
        return runs_pb2.SubmitResponse(run_id=run.id, known=not new)

    async def GetRun(self, request: runs_pb2.GetRunRequest, _context: Any) -> runs_pb2.GetRunResponse:
        found = await self._watch.get(wire.asker(request), request.request_id, content=not request.summary)
        waiting = await self._estimate(found) if isinstance(found, Run) else None
        nested, cost_open = await self._watch.nested(found), await self._watch.cost_open(found)
        return runs_pb2.GetRunResponse(run=wire.record(found, waiting, nested.get(found.id, 0)), cost_open=cost_open)

    async def WatchRun(
        self, request: runs_pb2.WatchRunRequest, _context: Any
    ) -> AsyncIterator[runs_pb2.WatchRunResponse]:
        async with aclosing(self._watch.follow(wire.asker(request), request.request_id)) as records:
            async for found in records:
                nested = await self._watch.nested(found)
                yield runs_pb2.WatchRunResponse(run=wire.record(found, nested=nested.get(found.id, 0)))

    async def ListRuns(self, request: runs_pb2.ListRunsRequest, _context: Any) -> runs_pb2.ListRunsResponse:
        query = wire.history_query(request)
        found, after = await self._watch.history(query)
        nested = await self._watch.nested(*found)
        records = [wire.record(run, nested=nested.get(run.id, 0)) for run in found]
        return runs_pb2.ListRunsResponse(runs=records, next=after)

    async def GetInput(self, request: runs_pb2.GetInputRequest, _context: Any) -> runs_pb2.GetInputResponse:
        return wire.given(await self._recall(Asker(request.organization_id), request.run_id))

    async def CancelRun(self, request: runs_pb2.CancelRunRequest, _context: Any) -> runs_pb2.CancelRunResponse:
        await self._cancel(Asker(request.organization_id), request.request_id, wire.cancel_outcome(request))
        return runs_pb2.CancelRunResponse()

    async def Report(self, request: runs_pb2.ReportRequest, _context: Any) -> runs_pb2.ReportResponse:
        started = [wire.started(item) for item in request.started]
        ended = [wire.ended(item) for item in request.ended]
        ignored = await self._report(Batch(request.executor, request.incarnation, started, ended))
        ENDED.inc(len(ended))
        if ignored:
            log().info("report.ignored", executor=request.executor, runs=ignored[:20])
        return runs_pb2.ReportResponse()

    async def RenewLease(self, request: runs_pb2.RenewLeaseRequest, _context: Any) -> runs_pb2.RenewLeaseResponse:
        lease = await self._renew(wire.lease(request), first=request.first)
        return runs_pb2.RenewLeaseResponse(lease_ms=round(lease.total_seconds() * 1000))


class Workflows(workflows_pb2_grpc.WorkflowsServicer):
    """Workflows and their immutable versions."""

    def __init__(self, deploy: Deploy, catalog: Catalog, serve: Serve) -> None:
        self._deploy = deploy
        self._catalog = catalog
        self._serve = serve

    async def Deploy(self, request: workflows_pb2.DeployRequest, _context: Any) -> workflows_pb2.DeployResponse:
        try:
            return workflow_wire.deployed(await self._deploy(workflow_wire.deployment(request)))
        except FailedChecks as failed:
            if not request.tell_refusal:  # an edge of before there was that
                raise Invalid(failed.message, code=failed.code) from None
            report = workflow_wire.checks(failed.report.checks)
            return workflows_pb2.DeployResponse(refusal=failed.message, report=report)

    async def Validate(self, request: workflows_pb2.ValidateRequest, _context: Any) -> workflows_pb2.ValidateResponse:
        report = await self._deploy.validate(request.organization_id, request.code, request.log_id)
        checks = workflow_wire.checks(report.checks)
        return workflows_pb2.ValidateResponse(all_passed=report.all_passed, report=checks)

    async def Resolve(self, request: workflows_pb2.ResolveRequest, _context: Any) -> workflows_pb2.ResolveResponse:
        return workflow_wire.served(*await self._catalog.served(request.organization_id, request.reference))

    async def GetVersion(
        self, request: workflows_pb2.GetVersionRequest, _context: Any
    ) -> workflows_pb2.GetVersionResponse:
        version = await self._catalog.version(request.version_id)
        return workflows_pb2.GetVersionResponse(version=workflow_wire.version(version))

    async def GetWorkflow(
        self, request: workflows_pb2.GetWorkflowRequest, _context: Any
    ) -> workflows_pb2.GetWorkflowResponse:
        workflow, openapi = await self._catalog.get(request.organization_id, request.reference)
        return workflows_pb2.GetWorkflowResponse(workflow=workflow_wire.workflow(workflow, openapi))

    async def ListWorkflows(
        self, request: workflows_pb2.ListWorkflowsRequest, _context: Any
    ) -> workflows_pb2.ListWorkflowsResponse:
        visibility, limit = workflow_wire.visibility(request.visibility), wire.page_limit(request.limit)
        found, after = await self._catalog.page(request.organization_id, visibility, limit=limit, after=request.after)
        workflows = [workflow_wire.workflow(item) for item in found]
        return workflows_pb2.ListWorkflowsResponse(workflows=workflows, next=after)

    async def UpdateWorkflow(
        self, request: workflows_pb2.UpdateWorkflowRequest, _context: Any
    ) -> workflows_pb2.UpdateWorkflowResponse:
        change = workflow_wire.change(request)
        workflow, openapi = await self._catalog.update(request.organization_id, request.service_id, change)
        return workflows_pb2.UpdateWorkflowResponse(workflow=workflow_wire.workflow(workflow, openapi))

    async def PublishWorkflow(
        self, request: workflows_pb2.PublishWorkflowRequest, _context: Any
    ) -> workflows_pb2.PublishWorkflowResponse:
        workflow, openapi = await self._catalog.publish(
            request.organization_id, request.service_id, published=request.published
        )
        return workflows_pb2.PublishWorkflowResponse(workflow=workflow_wire.workflow(workflow, openapi))

    async def ListVersions(
        self, request: workflows_pb2.ListVersionsRequest, _context: Any
    ) -> workflows_pb2.ListVersionsResponse:
        workflow, found, after = await self._serve.page(
            request.organization_id, request.service_id, limit=wire.page_limit(request.limit), after=request.after
        )
        versions = [workflow_wire.version(one) for one in found]
        return workflows_pb2.ListVersionsResponse(
            workflow=workflow_wire.workflow(workflow), versions=versions, next=after
        )

    async def RollBack(self, request: workflows_pb2.RollBackRequest, _context: Any) -> workflows_pb2.RollBackResponse:
        workflow = await self._serve.roll_back(request.organization_id, request.service_id, request.version)
        return workflows_pb2.RollBackResponse(workflow=workflow_wire.workflow(workflow))

    async def SplitTraffic(
        self, request: workflows_pb2.SplitTrafficRequest, _context: Any
    ) -> workflows_pb2.SplitTrafficResponse:
        workflow = await self._serve.split(request.organization_id, request.service_id, request.traffic)
        return workflows_pb2.SplitTrafficResponse(workflow=workflow_wire.workflow(workflow))

    async def DeleteWorkflow(
        self, request: workflows_pb2.DeleteWorkflowRequest, _context: Any
    ) -> workflows_pb2.DeleteWorkflowResponse:
        await self._catalog.delete(request.organization_id, request.service_id)
        return workflows_pb2.DeleteWorkflowResponse()
