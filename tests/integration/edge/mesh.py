"""The services that the edge calls, as fakes behind real gRPC: they remember what they were asked."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from mesh.executor.v1 import executor_pb2, executor_pb2_grpc
from mesh.filestore.v1 import files_pb2, files_pb2_grpc
from mesh.keys.v1 import keys_pb2, keys_pb2_grpc, rates_pb2, rates_pb2_grpc, secrets_pb2, secrets_pb2_grpc
from mesh.ledger.v1 import audit_pb2_grpc, ledger_pb2_grpc, prices_pb2_grpc
from mesh.runs.v1 import run_pb2, runs_pb2, runs_pb2_grpc
from mesh.schedules.v1 import schedules_pb2, schedules_pb2_grpc
from mesh.workflows.v1 import workflows_pb2, workflows_pb2_grpc

from edge.settings import Settings
from kit.errors import Denied, NotFound, Unauthenticated
from kit.rpc_server import RpcServer
from tests.integration.edge.books import FakeAudit, FakeLedger, FakePrices

ADMIN = "cwk-admin"
ONE_TIME = "cwotk-once"
PLAIN = "cwk-plain"


@dataclass
class Asked:
    """Requests, by the rpc's name."""

    requests: dict[str, Any] = field(default_factory=dict)
    revoked: set[str] = field(default_factory=set)
    # Of keys: what Verify says besides.
    verified: dict[str, dict[str, Any]] = field(default_factory=dict)


class FakeKeys(keys_pb2_grpc.KeysServicer):
    def __init__(self, asked: Asked) -> None:
        self._asked = asked

    async def Verify(self, request: Any, context: Any) -> keys_pb2.VerifyResponse:
        if request.key in self._asked.revoked or request.key not in {ADMIN, ONE_TIME, PLAIN}:
            raise Unauthenticated("this isn't a valid API key")
        one_time, admin = request.key == ONE_TIME, ["run", "files", "deploy", "admin"]
        more = dict(self._asked.verified.get(request.key, {}))
        principal = keys_pb2.Principal(
            key_id="key_2" if one_time else "key_1",
            organization_id="org_1",
            kind=keys_pb2.KEY_KIND_ONE_TIME if one_time else keys_pb2.KEY_KIND_STANDARD,
            scopes=admin if request.key == ADMIN else ["run"],
            first_organization=not one_time,
            bind=more.pop("bind", None),
            budget=more.pop("budget", None),
        )
        return keys_pb2.VerifyResponse(principal=principal, **more)

    async def IssueKey(self, request: Any, context: Any) -> keys_pb2.IssueKeyResponse:
        self._asked.requests["IssueKey"] = request
        if "nonsense" in request.scopes:
            raise Denied("the issuer lacks the scope nonsense")
        return keys_pb2.IssueKeyResponse(key=keys_pb2.Key(id="key_9", kind=request.kind), secret="cwk-new")

    async def ListKeys(self, request: Any, context: Any) -> keys_pb2.ListKeysResponse:
        self._asked.requests["ListKeys"] = request
        return keys_pb2.ListKeysResponse(keys=[keys_pb2.Key(id="key_9")], next="key_9")

    async def RevokeKey(self, request: Any, context: Any) -> keys_pb2.RevokeKeyResponse:
        raise NotFound("no such key")

    async def RotateKey(self, request: Any, context: Any) -> keys_pb2.RotateKeyResponse:
        self._asked.requests["RotateKey"] = request
        return keys_pb2.RotateKeyResponse(key=keys_pb2.Key(id="key_10"), secret="cwk-next")

    async def CreateOrganization(self, request: Any, context: Any) -> keys_pb2.CreateOrganizationResponse:
        return keys_pb2.CreateOrganizationResponse(organization_id="org_2", name=request.name, secret="cwk-first")

    async def SetRates(self, request: Any, context: Any) -> keys_pb2.SetRatesResponse:
        self._asked.requests["SetRates"] = request
        return keys_pb2.SetRatesResponse()


class FakeSecrets(secrets_pb2_grpc.SecretsServicer):
    def __init__(self, asked: Asked) -> None:
        self._asked = asked

    async def PutSecret(self, request: Any, context: Any) -> secrets_pb2.PutSecretResponse:
        self._asked.requests["PutSecret"] = request
        return secrets_pb2.PutSecretResponse()

    async def ListSecrets(self, request: Any, context: Any) -> secrets_pb2.ListSecretsResponse:
        return secrets_pb2.ListSecretsResponse(secrets=[secrets_pb2.SecretInfo(name="A")])

    async def DeleteSecret(self, request: Any, context: Any) -> secrets_pb2.DeleteSecretResponse:
        self._asked.requests["DeleteSecret"] = request
        return secrets_pb2.DeleteSecretResponse()


class FakeRateLimits(rates_pb2_grpc.RateLimitsServicer):
    """Grants whatever is wanted."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked

    async def TakePermits(self, request: Any, context: Any) -> rates_pb2.TakePermitsResponse:
        self._asked.requests["TakePermits"] = request
        permits = [rates_pb2.Permits(granted=it.want, remaining=it.limit - it.want) for it in request.wanted]
        return rates_pb2.TakePermitsResponse(permits=permits)


class FakeWorkflows(workflows_pb2_grpc.WorkflowsServicer):
    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._workflow = workflows_pb2.Workflow(
            organization_id="org_1", service_id="hello", visibility=workflows_pb2.VISIBILITY_PRIVATE, published=True
        )

    async def Validate(self, request: Any, context: Any) -> workflows_pb2.ValidateResponse:
        return workflows_pb2.ValidateResponse(
            all_passed=True, report=[workflows_pb2.Check(check="syntax", passed=True)]
        )

    async def Deploy(self, request: Any, context: Any) -> workflows_pb2.DeployResponse:
        self._asked.requests["Deploy"] = request
        if "import" not in request.code and not request.HasField("prompt"):
            assert request.tell_refusal
            failed = workflows_pb2.Check(check="syntax", passed=False, detail="nothing there", line=1)
            return workflows_pb2.DeployResponse(refusal="syntax: line 1: nothing there", report=[failed])
        return workflows_pb2.DeployResponse(workflow=self._workflow, version=3)

    async def Resolve(self, request: Any, context: Any) -> workflows_pb2.ResolveResponse:
        if request.reference not in {"hello", "wf_1"}:
            raise NotFound("no such workflow")
        version = workflows_pb2.Version(id="ver_1", organization_id="org_1", service_id="hello", number=3)
        if request.reference == "wf_1":
            version.prompt.variables.append("story")
        return workflows_pb2.ResolveResponse(workflow=self._workflow, version=version)

    async def PublishWorkflow(self, request: Any, context: Any) -> workflows_pb2.PublishWorkflowResponse:
        self._asked.requests["PublishWorkflow"] = request
        return workflows_pb2.PublishWorkflowResponse(workflow=self._workflow)

    async def GetWorkflow(self, request: Any, context: Any) -> workflows_pb2.GetWorkflowResponse:
        return workflows_pb2.GetWorkflowResponse(workflow=self._workflow)

    async def ListWorkflows(self, request: Any, context: Any) -> workflows_pb2.ListWorkflowsResponse:
        self._asked.requests["ListWorkflows"] = request
        return workflows_pb2.ListWorkflowsResponse(workflows=[self._workflow])

    async def UpdateWorkflow(self, request: Any, context: Any) -> workflows_pb2.UpdateWorkflowResponse:
        self._asked.requests["UpdateWorkflow"] = request
        return workflows_pb2.UpdateWorkflowResponse(workflow=self._workflow)

    async def DeleteWorkflow(self, request: Any, context: Any) -> workflows_pb2.DeleteWorkflowResponse:
        self._asked.requests["DeleteWorkflow"] = request
        return workflows_pb2.DeleteWorkflowResponse()


class FakeSchedules(schedules_pb2_grpc.SchedulesServicer):
    def __init__(self, asked: Asked) -> None:
        self._asked = asked

    async def CreateSchedule(self, request: Any, context: Any) -> schedules_pb2.CreateScheduleResponse:
        self._asked.requests["CreateSchedule"] = request
        made = schedules_pb2.Schedule(id="sch_1", reference=request.reference, input=request.input)
        return schedules_pb2.CreateScheduleResponse(schedule=made)

    async def ListSchedules(self, request: Any, context: Any) -> schedules_pb2.ListSchedulesResponse:
        self._asked.requests["ListSchedules"] = request
        stopped = schedules_pb2.Schedule(id="sch_2", input=b"[1]", last_run_id="run_1", last_error="why")
        stopped.last_fired_at.seconds = 1_800_000_000
        return schedules_pb2.ListSchedulesResponse(schedules=[stopped], next="sch_2")

    async def DeleteSchedule(self, request: Any, context: Any) -> schedules_pb2.DeleteScheduleResponse:
        if request.schedule_id != "sch_1":
            raise NotFound("no such schedule")
        return schedules_pb2.DeleteScheduleResponse()


class FakeRuns(runs_pb2_grpc.RunsServicer):
    def __init__(self, asked: Asked) -> None:
        self._asked = asked

    async def Submit(self, request: Any, context: Any) -> runs_pb2.SubmitResponse:
        self._asked.requests["Submit"] = request
        return runs_pb2.SubmitResponse(run_id="run_01hf0000000000000000000001")

    async def Provision(self, request: Any, context: Any) -> runs_pb2.ProvisionResponse:
        return runs_pb2.ProvisionResponse(request_id="run_01hf0000000000000000000000")


class FakeFiles(files_pb2_grpc.FilesServicer):
    async def CreateFile(self, request: Any, context: Any) -> files_pb2.CreateFileResponse:
        return files_pb2.CreateFileResponse(
            upload_uri=f"up/{request.organization_id}/{request.file_name}",
            download_uri="down",
            upload_headers={"Content-Type": "application/octet-stream"},
        )


class FakeExecutor(executor_pb2_grpc.ExecutorServicer):
    """Answers each run with what it was given: /stream as one without a length; /fail/CODE ends like that instead."""

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._bodies: dict[str, bytes] = {}

    async def Call(self, request: executor_pb2.CallRequest, context: Any) -> executor_pb2.CallResponse:
        spec = self._asked.requests["Run"] = request.spec
        self._asked.requests["Call"] = request
        path = spec.request.path
        if path.startswith("/fail/"):
            failed = run_pb2.RUN_STATUS_FAILED
            code, detail = path.removeprefix("/fail/"), "more than its limit of 64 MiB"
            ended = run_pb2.Outcome(status=failed, code=code, detail=detail, log_tail=["last"])
            return executor_pb2.CallResponse(ended=ended)
        if path == "/stream":
            self._bodies[spec.run_id] = request.body
            return executor_pb2.CallResponse(attach=True)
        answer = executor_pb2.WholeAnswer(head=self._head(), body=b"you sent " + request.body)
        return executor_pb2.CallResponse(answer=answer)

    async def Attach(self, request: executor_pb2.AttachRequest, context: Any) -> AsyncIterator[run_pb2.RunEvent]:
        self._asked.requests["Attach"] = request
        for event in self._events(self._bodies[request.run_id]):
            yield event

    async def Run(self, requests: Any, context: Any) -> AsyncIterator[run_pb2.RunEvent]:
        body = b""
        async for request in requests:
            if request.HasField("spec"):
                self._asked.requests["Run"] = request.spec
            body += request.body
        for event in self._events(body):
            yield event

    def _events(self, body: bytes) -> list[run_pb2.RunEvent]:
        return [
            run_pb2.RunEvent(head=self._head()),
            run_pb2.RunEvent(body=b"you sent " + body),
            run_pb2.RunEvent(body_complete=True),
            run_pb2.RunEvent(ended=run_pb2.Outcome(status=run_pb2.RUN_STATUS_SUCCEEDED)),
        ]

    def _head(self) -> run_pb2.AnswerHead:
        headers = [
            run_pb2.Header(name="content-type", value=b"text/plain"),
            run_pb2.Header(name="x-request-id", value=b"forged"),
        ]
        return run_pb2.AnswerHead(status=201, headers=headers)


@asynccontextmanager
async def fake_mesh(settings: Settings) -> AsyncIterator[Asked]:
    """Serves the fakes where the edge looks for them."""
    asked = Asked()
    secrets = FakeSecrets(asked)  # type: ignore[abstract]  # what the edge doesn't call is UNIMPLEMENTED, here and below
    runner = FakeExecutor(asked)  # type: ignore[abstract]
    workflows = FakeWorkflows(asked)  # type: ignore[abstract]
    runs = FakeRuns(asked)  # type: ignore[abstract]
    keys, filestore, executor, scheduler = (
        RpcServer(settings.address(name), grace=0.2) for name in ("keys", "filestore", "executor", "scheduler")
    )
    keys.add(keys_pb2_grpc.add_KeysServicer_to_server, FakeKeys(asked), "mesh.keys.v1.Keys")
    ledger = FakeLedger(asked.requests)  # type: ignore[abstract]
    keys.add(ledger_pb2_grpc.add_LedgerServicer_to_server, ledger, "mesh.ledger.v1.Ledger")
    keys.add(prices_pb2_grpc.add_PricesServicer_to_server, FakePrices(asked.requests), "mesh.ledger.v1.Prices")
    keys.add(audit_pb2_grpc.add_AuditServicer_to_server, FakeAudit(asked.requests), "mesh.ledger.v1.Audit")
    keys.add(secrets_pb2_grpc.add_SecretsServicer_to_server, secrets, "mesh.keys.v1.Secrets")
    keys.add(rates_pb2_grpc.add_RateLimitsServicer_to_server, FakeRateLimits(asked), "mesh.keys.v1.RateLimits")
    filestore.add(files_pb2_grpc.add_FilesServicer_to_server, FakeFiles(), "mesh.filestore.v1.Files")
    executor.add(executor_pb2_grpc.add_ExecutorServicer_to_server, runner, "mesh.executor.v1.Executor")
    scheduler.add(workflows_pb2_grpc.add_WorkflowsServicer_to_server, workflows, "mesh.workflows.v1.Workflows")
    scheduler.add(runs_pb2_grpc.add_RunsServicer_to_server, runs, "mesh.runs.v1.Runs")
    schedules = FakeSchedules(asked)
    scheduler.add(schedules_pb2_grpc.add_SchedulesServicer_to_server, schedules, "mesh.schedules.v1.Schedules")
    async with AsyncExitStack() as stack:
        for server in (keys, filestore, executor, scheduler):
            await stack.enter_async_context(server)
            await server.serving(True)
        yield asked
