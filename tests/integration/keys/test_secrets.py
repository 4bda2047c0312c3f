"""Secrets over gRPC, and what lies on the disk."""

import asyncio

import grpc
import pytest
from mesh.events.v1 import events_pb2
from mesh.keys.v1 import secrets_pb2
from sqlalchemy import select, update

from keys.store import secrets
from kit.bus import open_bus
from kit.db import open_db
from kit.errors import Invalid, NotFound
from kit.rpc_client import unary
from tests.databases import kept
from tests.integration.keys.conftest import Service

PLAIN = "correct horse battery staple"
_HEX = PLAIN.encode().hex().encode()  # as a dump shows bytes


@pytest.fixture
async def organization(service: Service) -> str:
    return (await service.admin()).organization_id


async def put(service: Service, organization: str, name: str, value: str) -> None:
    request = secrets_pb2.PutSecretRequest(organization_id=organization, name=name, value=value)
    await unary(service.secrets.PutSecret, request)


async def resolve(service: Service, organization: str, *names: str) -> dict[str, str]:
    request = secrets_pb2.ResolveSecretsRequest(organization_id=organization, names=names)
    return dict((await unary(service.secrets.ResolveSecrets, request)).values)


async def test_a_secret_from_put_to_delete(service: Service, organization: str, nats_url: str) -> None:
    told: asyncio.Queue[bytes] = asyncio.Queue()

    async def on_changed(_subject: str, payload: bytes) -> None:
        told.put_nowait(payload)

    async with open_bus(nats_url, "test") as bus, bus.subscribed("event.secret.changed", on_changed):
        await put(service, organization, "TOKEN", PLAIN)
        assert await resolve(service, organization, "TOKEN", "MISSING") == {"TOKEN": PLAIN}
        listed = await unary(service.secrets.ListSecrets, secrets_pb2.ListSecretsRequest(organization_id=organization))
        assert [secret.name for secret in listed.secrets] == ["TOKEN"]
        assert PLAIN not in str(listed)
        delete = secrets_pb2.DeleteSecretRequest(organization_id=organization, name="TOKEN")
        await unary(service.secrets.DeleteSecret, delete)
        with pytest.raises(NotFound):
            await unary(service.secrets.DeleteSecret, delete)
        for _ in range(2):
            event = events_pb2.SecretChanged.FromString(await asyncio.wait_for(told.get(), 5))
            assert (event.organization_id, event.name) == (organization, "TOKEN")
    assert await resolve(service, organization, "TOKEN") == {}


async def test_what_has_hosts_is_no_value(service: Service, organization: str) -> None:
    """An executor that knows of no hosts misses it, and puts it into no sandbox."""
    put_ = secrets_pb2.PutSecretRequest(organization_id=organization, name="T", value=PLAIN, hosts=["a.example"])
    await unary(service.secrets.PutSecret, put_)
    await put(service, organization, "U", "inside")
    request = secrets_pb2.ResolveSecretsRequest(organization_id=organization, names=["T", "U"])
    reply = await unary(service.secrets.ResolveSecrets, request)
    assert dict(reply.values) == {"U": "inside"}
    assert reply.fill_ins["T"] == secrets_pb2.FillIn(value=PLAIN, hosts=["a.example"])
    listed = await unary(service.secrets.ListSecrets, secrets_pb2.ListSecretsRequest(organization_id=organization))
    assert [(secret.name, list(secret.hosts)) for secret in listed.secrets] == [("T", ["a.example"]), ("U", [])]


async def test_the_platforms_names_are_refused(service: Service, organization: str) -> None:
    for name in ("PORT", "LOGLEVEL", "CODEWORDS_API_KEY", "CODEWORDS_RUNTIME_URI", "RUNTIME_URI"):
        with pytest.raises(Invalid):
            await put(service, organization, name, "1")
    with pytest.raises(NotFound):
        await put(service, "org_unknown", "TOKEN", "1")


async def test_no_plaintext_lies_on_the_disk(service: Service, organization: str) -> None:
    await put(service, organization, "TOKEN", PLAIN)
    assert b"TOKEN" in kept(service.settings)
    files = [path.read_bytes() for path in service.settings.home.rglob("*") if path.is_file()]
    assert not [data for data in (*files, kept(service.settings)) if PLAIN.encode() in data or _HEX in data]


async def swap(url: str) -> None:
    async with open_db(url) as db, db.write() as tx:
        sealed = {row.name: row.sealed for row in await tx.execute(select(secrets.c.name, secrets.c.sealed))}
        for name, other in (("ONE", "TWO"), ("TWO", "ONE")):
            await tx.execute(update(secrets).where(secrets.c.name == name).values(sealed=sealed[other]))


async def test_swapped_ciphertexts_dont_open(service: Service, organization: str) -> None:
    await put(service, organization, "ONE", "1")
    await put(service, organization, "TWO", "2")
    await swap(service.settings.database_url("keys"))
    for name in ("ONE", "TWO"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await resolve(service, organization, name)
        assert caught.value.code() is grpc.StatusCode.INTERNAL
        assert caught.value.details() == "internal error"
