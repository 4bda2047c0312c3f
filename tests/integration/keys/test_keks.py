"""A KEK is rotated while the service runs, dies in the middle, and is started without what it needs."""

import asyncio
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from mesh.keys.v1 import secrets_pb2, secrets_pb2_grpc

from keys.rewrap import LOOK_SECONDS
from keys.rotate_kek import SECONDS, rotate
from keys.sealed_store import SqlSealedRows
from keys.sealing import FORMAT, kek_id, shown
from keys.settings import Settings
from kit.db import open_db
from kit.rpc_client import connect, unary
from migrations.__main__ import upgrade
from tests.integration.keys.test_ledger_crash import first_organization
from tests.integration.service_process import ROOT, service_process

MANY = 120  # more than one batch


def environ(settings: Settings, **more: str) -> dict[str, str]:
    home = {"RUNMESH_HOME": str(settings.home), "RUNMESH_NATS_URL": settings.nats_url}
    return home | ({"RUNMESH_DATABASE_URL": settings.database} if settings.database else {}) | more


async def counts(settings: Settings) -> Counter[bytes]:
    async with open_db(settings.database_url("keys")) as db:
        return await SqlSealedRows(db).counts()


async def values(settings: Settings, organization: str, count: int = MANY) -> set[str]:
    async with connect(settings.address("keys")) as channel:
        stub = secrets_pb2_grpc.SecretsStub(channel)
        names = [f"S{number}" for number in range(count)]
        request = secrets_pb2.ResolveSecretsRequest(organization_id=organization, names=names)
        return set((await unary(stub.ResolveSecrets, request)).values.values())


def ended(settings: Settings, **more: str) -> tuple[int, str]:
    """Status and errors of a service that ends by itself."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RUNMESH_")}
    argv = [sys.executable, "-m", "keys"]
    its = env | environ(settings, **more)
    done = subprocess.run(argv, cwd=ROOT, env=its, capture_output=True, check=False, timeout=30)
    return done.returncode, done.stderr.decode()


async def drop_old(settings: Settings) -> int:
    return await asyncio.to_thread(rotate, ["--drop-old"], environ(settings))


@pytest.mark.slow
async def test_a_rotation_from_start_to_end(settings: Settings, tmp_path: Path) -> None:
    await asyncio.to_thread(upgrade, "keys", settings.database_url("keys"))
    with service_process("keys", **environ(settings)):
        organization = await first_organization(settings)
        async with connect(settings.address("keys")) as channel:
            stub = secrets_pb2_grpc.SecretsStub(channel)
            for number in range(MANY):
                put = secrets_pb2.PutSecretRequest(organization_id=organization, name=f"S{number}", value=f"v{number}")
                await unary(stub.PutSecret, put)
    expected = {f"v{number}" for number in range(MANY)}
    (old,) = settings.keks.read()
    runmesh = [str(Path(sys.executable).parent / "runmesh"), "rotate-kek"]
    await asyncio.to_thread(subprocess.run, runmesh, env=os.environ | environ(settings), check=True)
    os.utime(settings.home / "secrets" / "kek", times=(0, 0))
    assert await drop_old(settings) == 1, "nothing is under the new one yet"
    new = settings.keks.read()[0]
    # It dies after the first batch.
    (tmp_path / "rewrapped").touch()
    status, _ = await asyncio.to_thread(ended, settings, RUNMESH_FAILPOINTS=str(tmp_path))
    assert status == -signal.SIGKILL
    found = await counts(settings)
    assert 0 < found[FORMAT + kek_id(new)] < MANY
    assert await drop_old(settings) == 1
    assert settings.keks.read() == (new, old)
    # Without the old one it doesn't start, and loses nothing.
    (lost := tmp_path / "other").write_bytes(new)
    status, told = await asyncio.to_thread(ended, settings, RUNMESH_KEK_FILE=str(lost))
    assert status == 2
    assert f"need {shown(kek_id(old))}" in told
    (settings.home / "secrets" / "kek").rename(tmp_path / "kept")
    status, told = await asyncio.to_thread(ended, settings)
    assert status == 2
    assert "is gone" in told
    (tmp_path / "kept").rename(settings.home / "secrets" / "kek")
    # With it, it goes on where it was.
    with service_process("keys", **environ(settings)):
        async with asyncio.timeout(20):
            while await counts(settings) != {FORMAT + kek_id(new): MANY}:  # noqa: ASYNC110  # another process does it
                await asyncio.sleep(0.05)
        assert await values(settings, organization) == expected
        os.utime(settings.home / "secrets" / "kek", times=(0, 0))  # as if it were long ago
        assert await drop_old(settings) == 0
        assert settings.keks.read() == (new,)
        assert await drop_old(settings) == 0
    with service_process("keys", **environ(settings)):
        assert await values(settings, organization) == expected


def test_what_the_command_says_is_so() -> None:
    assert LOOK_SECONDS == SECONDS
