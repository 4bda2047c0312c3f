"""The door: mesh.keys.v1 Keys and Secrets."""

from datetime import timedelta
from typing import Any

from mesh.keys.v1 import keys_pb2, keys_pb2_grpc, secrets_pb2, secrets_pb2_grpc

from keys import wire
from keys.budgets import Budgets
from keys.issue import Issue
from keys.organizations import Organizations
from keys.prices import Prices
from keys.vault import Vault
from keys.verify import Verify


class KeysServicer(keys_pb2_grpc.KeysServicer):
    """Organizations and their keys."""

    def __init__(
        self, verify: Verify, issue: Issue, organizations: Organizations, budgets: Budgets, prices: Prices
    ) -> None:
        self._verify = verify
        self._issue = issue
        self._organizations = organizations
        self._budgets = budgets
        self._prices = prices

    async def Verify(self, request: keys_pb2.VerifyRequest, context: Any) -> keys_pb2.VerifyResponse:
        verified = await self._verify(request.key)
        left = await self._budgets.left(verified.principal.budget)
        if min(verified.credit, 1 if left is None else left) <= 0 and await self._prices.free():
            return wire.verified_to_wire(verified, None, None)
        return wire.verified_to_wire(verified, verified.credit, left)

    async def IssueKey(self, request: keys_pb2.IssueKeyRequest, context: Any) -> keys_pb2.IssueKeyResponse:
        issued = await self._issue.issue(
            wire.principal_from_wire(request.issuer),
            name=request.name,
            kind=wire.kind_from_wire(request.kind),
            scopes=tuple(request.scopes),
            expires_at=wire.time_from_wire(request),
            bind=wire.bind_from_wire(request),
            budget=wire.budget_from_wire(request),
            rates=wire.rates_from_wire(request.rates),
        )
        return wire.issued_to_wire(issued)

    async def ListKeys(self, request: keys_pb2.ListKeysRequest, context: Any) -> keys_pb2.ListKeysResponse:
        page = await self._issue.page(request.organization_id, request.limit, request.after)
        return wire.keys_to_wire(page, await self._budgets.used([key.budget for key in page.items]))

    async def RevokeKey(self, request: keys_pb2.RevokeKeyRequest, context: Any) -> keys_pb2.RevokeKeyResponse:
        await self._issue.revoke(request.organization_id, request.key_id, request.actor_key_id)
        return keys_pb2.RevokeKeyResponse()

    async def RotateKey(self, request: keys_pb2.RotateKeyRequest, context: Any) -> keys_pb2.RotateKeyResponse:
        issuer, overlap = wire.principal_from_wire(request.issuer), timedelta(seconds=request.overlap_seconds)
        return wire.rotated_to_wire(await self._issue.rotate(issuer, request.key_id, overlap))

    async def CreateOrganization(
        self, request: keys_pb2.CreateOrganizationRequest, context: Any
    ) -> keys_pb2.CreateOrganizationResponse:
        return wire.created_to_wire(await self._organizations.create(request.name, wire.actor_from_wire(request)))

    async def SetRates(self, request: keys_pb2.SetRatesRequest, context: Any) -> keys_pb2.SetRatesResponse:
        rates, actor = wire.rates_from_wire(request), wire.actor_from_wire(request)
        await self._organizations.set_rates(request.organization_id, rates, actor)
        return keys_pb2.SetRatesResponse()


class SecretsServicer(secrets_pb2_grpc.SecretsServicer):
    """Secrets of organizations."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    async def PutSecret(self, request: secrets_pb2.PutSecretRequest, context: Any) -> secrets_pb2.PutSecretResponse:
        await self._vault.put(
            request.organization_id, request.name, request.value, tuple(request.hosts), request.actor_key_id
        )
        return secrets_pb2.PutSecretResponse()

    async def ListSecrets(
        self, request: secrets_pb2.ListSecretsRequest, context: Any
    ) -> secrets_pb2.ListSecretsResponse:
        return wire.secrets_to_wire(await self._vault.page(request.organization_id, request.limit, request.after))

    async def DeleteSecret(
        self, request: secrets_pb2.DeleteSecretRequest, context: Any
    ) -> secrets_pb2.DeleteSecretResponse:
        await self._vault.delete(request.organization_id, request.name, request.actor_key_id)
        return secrets_pb2.DeleteSecretResponse()

    async def ResolveSecrets(
        self, request: secrets_pb2.ResolveSecretsRequest, context: Any
    ) -> secrets_pb2.ResolveSecretsResponse:
        return wire.resolved_to_wire(await self._vault.resolve(request.organization_id, tuple(request.names)))
