"""What the endpoints that start no run use of the mesh: adapters of the ports that they declare."""

from collections.abc import Sequence
from datetime import timedelta

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from mesh.filestore.v1 import files_pb2, files_pb2_grpc
from mesh.keys.v1 import keys_pb2, keys_pb2_grpc, secrets_pb2, secrets_pb2_grpc
from mesh.telemetry.v1 import telemetry_pb2, telemetry_pb2_grpc
from mesh.workflows.v1 import workflows_pb2, workflows_pb2_grpc

from edge import wire
from edge.model import (
    ApiKey,
    Check,
    FailedChecks,
    KeyWish,
    Principal,
    Prompt,
    Rates,
    SecretInfo,
    Upload,
    Version,
    Workflow,
)
from kit.errors import Problem
from kit.rpc_client import unary

# Dependencies are resolved, built and imported meanwhile.
DEPLOY_SECONDS = 900.0
PROBE_SECONDS = 2.0


class KeysClient:
    """auth.Verifier and keys.Keys."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = keys_pb2_grpc.KeysStub(channel)

    async def verify(self, key: str) -> Principal:
        reply = await unary(self._stub.Verify, keys_pb2.VerifyRequest(key=key), timeout=5.0, retry=True)
        return wire.from_verified(reply)

    async def issue(self, issuer: Principal, wish: KeyWish) -> tuple[ApiKey, str]:
        request = keys_pb2.IssueKeyRequest(
            issuer=wire.to_principal(issuer),
            name=wish.name,
            kind=wire.to_key_kind(wish.kind),
            scopes=wish.scopes,
            expires_at=wire.to_timestamp(wish.expires_at),
            bind=wire.to_bind(wish.bind),
            budget=wish.budget,
            rates=keys_pb2.Rates(**vars(wish.rates)),
        )
        reply = await unary(self._stub.IssueKey, request)
        return wire.from_key(reply.key), reply.secret

    async def list_keys(self, organization_id: str, limit: int, after: str) -> tuple[list[ApiKey], str]:
        request = keys_pb2.ListKeysRequest(organization_id=organization_id, limit=limit, after=after)
        reply = await unary(self._stub.ListKeys, request, retry=True)
        return [wire.from_key(key) for key in reply.keys], reply.next

    async def revoke(self, who: Principal, key_id: str) -> None:
        request = keys_pb2.RevokeKeyRequest(organization_id=who.organization_id, key_id=key_id, actor_key_id=who.key_id)
        await unary(self._stub.RevokeKey, request, retry=True)

    async def rotate(self, issuer: Principal, key_id: str, overlap: timedelta) -> tuple[ApiKey, str]:
        request = keys_pb2.RotateKeyRequest(
            issuer=wire.to_principal(issuer), key_id=key_id, overlap_seconds=int(overlap.total_seconds())
        )
        reply = await unary(self._stub.RotateKey, request)
        return wire.from_key(reply.key), reply.secret

    async def create_organization(self, who: Principal, name: str) -> tuple[str, str]:
        request = keys_pb2.CreateOrganizationRequest(
            name=name, actor_key_id=who.key_id, actor_organization_id=who.organization_id
        )
        reply = await unary(self._stub.CreateOrganization, request)
        return reply.organization_id, reply.secret

    async def set_rates(self, who: Principal, organization_id: str, rates: Rates) -> None:
        request = keys_pb2.SetRatesRequest(
            organization_id=organization_id,
            per_second=rates.per_second,
            api_per_minute=rates.api_per_minute,
            actor_key_id=who.key_id,
            actor_organization_id=who.organization_id,
        )
        await unary(self._stub.SetRates, request)


class SecretsClient:
    """secrets.Secrets."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = secrets_pb2_grpc.SecretsStub(channel)

    async def put(self, who: Principal, name: str, value: str, hosts: tuple[str, ...]) -> None:
        request = secrets_pb2.PutSecretRequest(
            organization_id=who.organization_id, name=name, value=value, hosts=hosts, actor_key_id=who.paying_key_id
        )
        await unary(self._stub.PutSecret, request, retry=True)

    async def list_secrets(self, organization_id: str, limit: int, after: str) -> tuple[list[SecretInfo], str]:
        request = secrets_pb2.ListSecretsRequest(organization_id=organization_id, limit=limit, after=after)
        reply = await unary(self._stub.ListSecrets, request, retry=True)
        return [wire.from_secret(each) for each in reply.secrets], reply.next

    async def delete(self, who: Principal, name: str) -> None:
        request = secrets_pb2.DeleteSecretRequest(
            organization_id=who.organization_id, name=name, actor_key_id=who.paying_key_id
        )
        await unary(self._stub.DeleteSecret, request)


class CatalogueClient:
    """workflows.Workflows."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = workflows_pb2_grpc.WorkflowsStub(channel)

    async def validate(self, organization_id: str, code: str, log_id: str) -> tuple[bool, Sequence[Check]]:
        request = workflows_pb2.ValidateRequest(organization_id=organization_id, code=code, log_id=log_id)
        reply = await unary(self._stub.Validate, request, timeout=DEPLOY_SECONDS)
        return reply.all_passed, [wire.from_check(check) for check in reply.report]

    async def deploy(
        self, organization_id: str, source: str | Prompt, name: str, service_id: str, publish: bool, log_id: str
    ) -> tuple[Workflow, int, Sequence[Check]]:
        request = workflows_pb2.DeployRequest(
            organization_id=organization_id,
            code=source if isinstance(source, str) else "",
            name=name,
            service_id=service_id,
            publish=publish,
            prompt=None if isinstance(source, str) else wire.to_prompt(source),
            log_id=log_id,
            tell_refusal=True,
        )
        reply = await unary(self._stub.Deploy, request, timeout=DEPLOY_SECONDS)
        report = [wire.from_check(check) for check in reply.report]
        if reply.refusal:
            raise FailedChecks(reply.refusal, report)
        return wire.from_workflow(reply.workflow), reply.version, report

    async def get(self, organization_id: str, reference: str) -> Workflow:
        request = workflows_pb2.GetWorkflowRequest(organization_id=organization_id, reference=reference)
        return wire.from_workflow((await unary(self._stub.GetWorkflow, request, retry=True)).workflow)

    async def prompt(self, organization_id: str, reference: str) -> Prompt:
        request = workflows_pb2.ResolveRequest(organization_id=organization_id, reference=reference)
        return wire.from_prompt((await unary(self._stub.Resolve, request, retry=True)).version.prompt)

    async def publish(self, organization_id: str, service_id: str, published: bool) -> Workflow:
        request = workflows_pb2.PublishWorkflowRequest(
            organization_id=organization_id, service_id=service_id, published=published
        )
        return wire.from_workflow((await unary(self._stub.PublishWorkflow, request, retry=True)).workflow)

    async def list_workflows(
        self, organization_id: str, visibility: str, limit: int, after: str
    ) -> tuple[list[Workflow], str]:
        request = workflows_pb2.ListWorkflowsRequest(
            organization_id=organization_id, visibility=wire.to_visibility(visibility), limit=limit, after=after
        )
        reply = await unary(self._stub.ListWorkflows, request, retry=True)
        return [wire.from_workflow(each) for each in reply.workflows], reply.next

    async def update(
        self, organization_id: str, service_id: str, name: str | None, visibility: str | None, limits: dict[str, int]
    ) -> Workflow:
        request = workflows_pb2.UpdateWorkflowRequest(
            organization_id=organization_id,
            service_id=service_id,
            name=name,
            visibility=wire.to_visibility(visibility) if visibility else None,
            limits=workflows_pb2.Limits(**limits),
            reset_limits=[name for name, value in limits.items() if not value],
        )
        return wire.from_workflow((await unary(self._stub.UpdateWorkflow, request)).workflow)

    async def delete(self, organization_id: str, service_id: str) -> None:
        request = workflows_pb2.DeleteWorkflowRequest(organization_id=organization_id, service_id=service_id)
        await unary(self._stub.DeleteWorkflow, request)


class ServingClient:
    """serving.Served."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = workflows_pb2_grpc.WorkflowsStub(channel)

    async def versions(
        self, organization_id: str, service_id: str, limit: int, after: str
    ) -> tuple[Workflow, list[Version], str]:
        request = workflows_pb2.ListVersionsRequest(
            organization_id=organization_id, service_id=service_id, limit=limit, after=after
        )
        reply = await unary(self._stub.ListVersions, request, retry=True)
        return wire.from_workflow(reply.workflow), [wire.from_version(each) for each in reply.versions], reply.next

    async def roll_back(self, organization_id: str, service_id: str, version: int) -> Workflow:
        request = workflows_pb2.RollBackRequest(organization_id=organization_id, service_id=service_id, version=version)
        return wire.from_workflow((await unary(self._stub.RollBack, request)).workflow)

    async def split(self, organization_id: str, service_id: str, traffic: dict[int, int]) -> Workflow:
        request = workflows_pb2.SplitTrafficRequest(
            organization_id=organization_id, service_id=service_id, traffic=traffic
        )
        return wire.from_workflow((await unary(self._stub.SplitTraffic, request, retry=True)).workflow)


class FilesClient:
    """files.Files."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = files_pb2_grpc.FilesStub(channel)

    async def create(self, organization_id: str, file_name: str, *, without_credit: bool) -> Upload:
        request = files_pb2.CreateFileRequest(
            organization_id=organization_id, file_name=file_name, without_credit=without_credit
        )
        return wire.from_upload(await unary(self._stub.CreateFile, request))


class PeerClient:
    """platform.Peer."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._health = health_pb2_grpc.HealthStub(channel)
        self._telemetry = telemetry_pb2_grpc.TelemetryStub(channel)

    async def ready(self) -> bool:
        try:
            reply = await unary(self._health.Check, health_pb2.HealthCheckRequest(), timeout=PROBE_SECONDS)
        except (Problem, grpc.aio.AioRpcError):
            return False
        return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)

    async def metrics(self) -> str:
        request = telemetry_pb2.ReadMetricsRequest()
        try:
            reply = await unary(self._telemetry.ReadMetrics, request, timeout=PROBE_SECONDS)
        except (Problem, grpc.aio.AioRpcError):
            return ""
        return reply.text.decode()
