"""The listening sockets that a sandbox comes with: the only addresses that answer inside."""

import asyncio
import os
from pathlib import Path

import pytest

from executor.driver import open_driver
from tests.fakes.real_sandboxes import started

CLIENT = """
import socket, sys
for host, port in {targets!r}:
    with socket.create_connection((host, port), timeout=10) as sock:
        sock.sendall(f"{{host}}:{{port}}".encode())
        sys.stdout.write(sock.recv(100).decode() + "\\n")
"""


@pytest.mark.parametrize(
    ("public_url", "host", "port", "tls"),
    [
        ("http://127.0.0.1:8080", "127.0.0.1", 8080, False),
        ("http://localhost:8080", "localhost", 8080, False),
        ("https://api.example.org", "api.example.org", 443, True),
        ("http://203.0.113.7:9000", "203.0.113.7", 9000, False),
        ("https://[2001:db8::7]:8443", "2001:db8::7", 8443, True),
        ("http://[::1]:8080", "::1", 8080, False),
        ("http://0.0.0.0:8080", "127.0.0.1", 8080, False),
    ],
)
async def test_the_runtime_answers_at_its_addresses(
    sandbox_home: Path, public_url: str, host: str, port: int, tls: bool
) -> None:
    async with open_driver(sandbox_home, public_url) as driver:
        source = CLIENT.format(targets=[("runtime.runmesh", 80), (host, port)])
        async with started(driver, source) as session:
            listeners = session.sandbox.process.way_out
            assert [is_tls for _, is_tls in listeners] == [False, tls]
            loop = asyncio.get_running_loop()
            for listener, _ in listeners:
                listener.setblocking(False)
                connection, _ = await loop.sock_accept(listener)
                with connection:
                    told = await loop.sock_recv(connection, 100)
                    await loop.sock_sendall(connection, b"reached " + told)
            await asyncio.to_thread(os.set_blocking, session.sandbox.process.stdout, True)
            while b"\n" not in session.stdout or session.stdout.count(b"\n") < 2:
                session.stdout += await asyncio.to_thread(os.read, session.sandbox.process.stdout, 1000)
            printed = session.stdout
    assert printed.decode().split("\n")[:2] == ["reached runtime.runmesh:80", f"reached {host}:{port}"]


async def test_they_are_gone_with_the_sandbox(sandbox_home: Path) -> None:
    async with open_driver(sandbox_home, "http://127.0.0.1:8080") as driver:
        async with started(driver, "import time; time.sleep(600)") as session:
            listeners = [listener for listener, _ in session.sandbox.process.way_out]
            assert all(listener.fileno() >= 0 for listener in listeners)
        assert all(listener.fileno() == -1 for listener in listeners)
