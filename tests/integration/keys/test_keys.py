"""Keys and organizations over gRPC, on SQLite and PostgreSQL, and NATS."""

import asyncio
import signal

import pytest
from mesh.events.v1 import events_pb2
from mesh.keys.v1 import keys_pb2

from keys.settings import Settings
from kit.bus import open_bus
from kit.errors import Conflict, Denied, Invalid, NotFound, Unauthenticated
from kit.rpc_client import unary
from tests.databases import kept
from tests.integration.keys.conftest import Service, running
from tests.integration.service_process import service_process

STANDARD, ONE_TIME = keys_pb2.KEY_KIND_STANDARD, keys_pb2.KEY_KIND_ONE_TIME


@pytest.fixture
async def admin(service: Service) -> keys_pb2.Principal:
    return await service.admin()


async def issue(service: Service, issuer: keys_pb2.Principal, *scopes: str) -> keys_pb2.IssueKeyResponse:
    request = keys_pb2.IssueKeyRequest(issuer=issuer, kind=STANDARD, scopes=scopes, name="n")
    return await unary(service.keys.IssueKey, request)


async def revoke(service: Service, organization_id: str, key_id: str) -> None:
    request = keys_pb2.RevokeKeyRequest(organization_id=organization_id, key_id=key_id)
    await unary(service.keys.RevokeKey, request)


async def test_the_first_start_leaves_an_admin_key_that_later_starts_keep(settings: Settings) -> None:
    path = settings.home / "admin.key"
    async with running(settings) as service:
        first = await service.admin()
        secret = path.read_text()
        assert path.stat().st_mode & 0o777 == 0o600
        assert list(first.scopes) == ["run", "files", "deploy", "admin"]
        assert first.first_organization
    assert [left.name for left in settings.home.iterdir() if left.name.startswith(".")] == []
    async with running(settings) as service:
        assert path.read_text() == secret
        assert await service.admin() == first
    path.unlink()
    async with running(settings) as service:
        assert not path.exists()
        assert await service.verify(secret) == first


async def test_a_key_from_issue_to_revocation(service: Service, admin: keys_pb2.Principal, nats_url: str) -> None:
    told: asyncio.Queue[bytes] = asyncio.Queue()

    async def on_revoked(_subject: str, payload: bytes) -> None:
        told.put_nowait(payload)

    async with open_bus(nats_url, "test") as bus, bus.subscribed("event.key.revoked", on_revoked):
        issued = await issue(service, admin, "files", "run:greet")
        found = await service.verify(issued.secret)
        assert (found.key_id, list(found.scopes)) == (issued.key.id, ["files", "run:greet"])
        await revoke(service, admin.organization_id, issued.key.id)
        with pytest.raises(Unauthenticated):
            await service.verify(issued.secret)
        event = events_pb2.KeyRevoked.FromString(await asyncio.wait_for(told.get(), 5))
        assert event.key_id == issued.key.id
        await revoke(service, admin.organization_id, issued.key.id)


async def test_problems_arrive_as_their_kinds(service: Service, admin: keys_pb2.Principal) -> None:
    answers = set()
    for key in ("", "cwk-run-x", "cwk-" + "a" * 36, "x" * 5000):
        with pytest.raises(Unauthenticated) as caught:
            await service.verify(key)
        answers.add((caught.value.message, caught.value.code))
    assert len(answers) == 1
    with pytest.raises(NotFound):
        await revoke(service, "org_another", admin.key_id)
    with pytest.raises(Invalid):
        await unary(service.keys.IssueKey, keys_pb2.IssueKeyRequest(issuer=admin))
    limited = keys_pb2.Principal()
    limited.CopyFrom(admin)
    limited.scopes[:] = ["admin"]
    with pytest.raises(Denied):
        await issue(service, limited, "deploy")
    limited.organization_id = "org_unknown"
    with pytest.raises(NotFound):
        await issue(service, limited, "admin")


async def test_a_list_never_holds_a_key(service: Service, admin: keys_pb2.Principal) -> None:
    made = [await issue(service, admin) for _ in range(3)]
    request = keys_pb2.ListKeysRequest(organization_id=admin.organization_id, limit=2)
    first = await unary(service.keys.ListKeys, request)
    request.after = first.next
    second = await unary(service.keys.ListKeys, request)
    listed = [*first.keys, *second.keys]
    assert {key.id for key in listed} == {admin.key_id, *(one.key.id for one in made)}
    assert second.next == ""
    assert not any(one.secret in str(listed) for one in made)
    assert all(one.secret.startswith(one.key.prefix) for one in made)


async def test_a_key_is_rotated_once_however_many_try(service: Service, admin: keys_pb2.Principal) -> None:
    old = await issue(service, admin)
    request = keys_pb2.RotateKeyRequest(issuer=admin, key_id=old.key.id, overlap_seconds=60)
    results = await asyncio.gather(*(unary(service.keys.RotateKey, request) for _ in range(10)), return_exceptions=True)
    new = [result for result in results if isinstance(result, keys_pb2.RotateKeyResponse)]
    assert len(new) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 9
    assert (await service.verify(old.secret)).scopes == (await service.verify(new[0].secret)).scopes


async def test_a_new_organization_is_a_world_of_its_own(service: Service, admin: keys_pb2.Principal) -> None:
    created = await unary(service.keys.CreateOrganization, keys_pb2.CreateOrganizationRequest(name="Other"))
    other = await service.verify(created.secret)
    assert (other.organization_id, other.first_organization) == (created.organization_id, False)
    with pytest.raises(NotFound):
        await revoke(service, other.organization_id, admin.key_id)
    with pytest.raises(NotFound):
        await unary(service.keys.RotateKey, keys_pb2.RotateKeyRequest(issuer=other, key_id=admin.key_id))
    mine = await unary(service.keys.ListKeys, keys_pb2.ListKeysRequest(organization_id=other.organization_id))
    assert [key.id for key in mine.keys] == [created.key.id]


async def test_the_data_holds_no_key(settings: Settings) -> None:
    async with running(settings) as service:
        secret = (await issue(service, await service.admin())).secret
        assert secret.encode() not in kept(settings)
        assert secret[:8].encode() in kept(settings)


async def test_the_process_ends_cleanly_on_sigterm(settings: Settings, nats_url: str) -> None:
    async with running(settings):
        pass  # migrated, with an admin key
    key = (settings.home / "admin.key").read_text()
    environ = {"RUNMESH_HOME": str(settings.home), "RUNMESH_DATABASE_URL": settings.database}
    with service_process("keys", RUNMESH_NATS_URL=nats_url, **environ) as process:
        process.send_signal(signal.SIGTERM)
        _, said = await asyncio.to_thread(process.communicate, timeout=15)
    assert process.returncode == 0, said
    assert key not in said
