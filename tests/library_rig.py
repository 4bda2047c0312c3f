"""Services of the library in this process, and what they stand on: a nats-server as `runmesh up` has it, a Redis."""

import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest

from cli import nats
from scheduler.library import text_of
from tests.fakes.certificates import Authority

ROOT = Path(__file__).parent.parent
LIBRARY = ROOT / "library"
BIN = Path(sys.executable).parent


def loaded(name: str, monkeypatch: pytest.MonkeyPatch, settings: Mapping[str, str]) -> ModuleType:
    """The service, as it is deployed, with these settings."""
    for setting, value in settings.items():
        monkeypatch.setenv(setting, value)
    module = ModuleType(f"library_{name}")
    monkeypatch.setitem(sys.modules, module.__name__, module)  # dataclasses and FastAPI look it up
    exec(compile(text_of(LIBRARY / f"{name}.py", LIBRARY), f"{name}.py", "exec"), module.__dict__)
    return module


async def ask(
    service: ModuleType, body: Any = None, *, path: str = "/", method: str = "POST", by: str = "org_a", **options: Any
) -> httpx.Response:
    """As the organization `by`; whoever pays is another one, which must make no difference."""
    headers = {"x-runmesh-organization-id": by, "codewords-caller-id": "org_pays", **options.pop("headers", {})}
    options |= {} if body is None else {"json": body}
    transport = httpx.ASGITransport(app=service.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        return await client.request(method, path, headers=headers, **options)


@dataclass
class Nats:
    """A nats-server with the accounts of `runmesh up`."""

    directory: Path
    port: int
    mesh: str = field(default_factory=lambda: secrets.token_hex(16))
    keepers: dict[str, str] = field(default_factory=lambda: {each.name: secrets.token_hex(16) for each in nats.KEEPERS})
    process: "subprocess.Popen[bytes] | None" = None

    def address(self, user: str) -> str:
        """Of the mesh, or a service."""
        return nats.address(self.port, user, self.mesh if user == "mesh" else self.keepers[user])

    def start(self) -> None:
        config = self.directory / "nats.conf"
        nats.write_config(config, self.directory / "store", self.port, self.mesh, self.keepers)
        log = (self.directory / "log").open("ab")
        self.process = subprocess.Popen([BIN / "nats-server", "-c", config], stdout=log, stderr=log)
        log.close()
        listening(self.port)

    def stop(self) -> None:
        if self.process:
            self.process.terminate()
            self.process.wait(10)
            self.process = None


@contextmanager
def nats_of_up() -> Iterator[Nats]:
    """It is gone, with its store, afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="nats-"))
    server = Nats(directory, free_port())
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


@dataclass
class Redis:
    """A redis-server that speaks TLS only. `ca`: the file of the authority that signed its certificate."""

    host: str
    port: int
    password: str
    ca: Path
    directory: Path

    @property
    def url(self) -> str:
        """For its operator."""
        return f"rediss://default:{self.password}@{self.host}:{self.port}/0?ssl_ca_certs={self.ca}"


@contextmanager
def redis_with_tls(host: str = "127.0.0.1") -> Iterator[Redis]:
    """It is gone, with what it has, afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="redis-"))
    authority = Authority(directory)
    authority.server(host)
    (directory / "ca.pem").write_text(authority.certificate)
    port, password, pem = free_port(), secrets.token_hex(16), directory / f"{host}.pem"
    config = directory / "redis.conf"
    config.write_text(
        f"port 0\ntls-port {port}\nbind {host}\ntls-cert-file {pem}\ntls-key-file {pem}\ntls-auth-clients no\n"
        f'tls-ca-cert-file {directory / "ca.pem"}\nrequirepass {password}\nsave ""\ndir {directory}\n'
    )
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(["redis-server", config], stdout=log)
    try:
        listening(port, host)
        yield Redis(host, port, password, directory / "ca.pem", directory)
    finally:
        process.terminate()
        process.wait(10)
        shutil.rmtree(directory, ignore_errors=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def listening(port: int, host: str = "127.0.0.1") -> None:
    """Waits for it."""
    for _ in range(200):
        with suppress(OSError), socket.create_connection((host, port), 1):
            return
        time.sleep(0.05)
    raise AssertionError(f"nobody listens on {host}:{port}")
