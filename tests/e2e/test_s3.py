"""The mesh with its files in a bucket: callers are sent there, sandboxes aren't, and runs' bytes lie there, too."""

import asyncio
import hashlib
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.e2e.mesh import WORKFLOWS, Mesh, mesh_up, until
from tests.e2e.test_published_clients import HERE, environment
from tests.s3_server import KEYS, Forwarding, S3Server, free_ports

# tests/integration/filestore has all but the mesh around it.
pytestmark = [pytest.mark.timeout(280), pytest.mark.slow]
MIB = 1 << 20
PREFIX = "some/mesh"


class Door:
    """The mesh's way to the server, which can be shut and opened."""

    def __init__(self, url: str) -> None:
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._forwarding = Forwarding(port, url)

    def open(self) -> None:
        asyncio.run_coroutine_threadsafe(self._forwarding.__aenter__(), self._loop).result(5)

    def shut(self) -> None:
        """Nobody listens any more, and what was under way is cut."""
        asyncio.run_coroutine_threadsafe(self._forwarding.__aexit__(), self._loop).result(5)

    def end(self) -> None:
        async def last() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(last(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


@pytest.fixture(scope="module")
def door(s3: S3Server) -> Iterator[Door]:
    door = Door(s3.url)
    door.open()
    yield door
    door.shut()
    door.end()


@pytest.fixture(scope="module")
def on_s3(s3: S3Server, door: Door) -> Iterator[Mesh]:
    with mesh_up(env=s3.env(PREFIX, door.url)) as running:
        running.deploy("probe")
        yield running


def made(mesh: Mesh, name: str = "data.bin") -> dict[str, str]:
    with mesh.http() as client:
        answer = client.post("/file", params={"filename": name})
    assert answer.status_code == 200, answer.text
    uris: dict[str, str] = answer.json()
    assert {urlsplit(uris[name]).netloc for name in ("upload_uri", "download_uri")} == {urlsplit(mesh.url).netloc}
    return uris


def test_up_and_down_by_redirect(on_s3: Mesh, door: Door) -> None:
    content = os.urandom(12 * MIB + 5)
    uris = made(on_s3, "grüße.txt")
    put = httpx.put(uris["upload_uri"], content=content, headers={"content-type": "text/plain"}, timeout=60)
    assert put.status_code == 200, put.text
    answer = httpx.get(uris["download_uri"])
    assert answer.status_code == 307, answer.text
    assert answer.headers["location"].startswith(f"{door.url}/mesh/{PREFIX}/files/")
    for headers in ({}, {"x-runmesh-nested": "1"}):  # nobody outside passes for a sandbox
        whole = httpx.get(uris["download_uri"], headers=headers, follow_redirects=True)
        assert (len(whole.history), whole.status_code) == (1, 200)
        assert whole.content == content
    assert whole.headers["content-type"] == "text/plain"
    assert "gr%C3%BC%C3%9Fe.txt" in whole.headers["content-disposition"]
    assert whole.headers["content-disposition"].startswith("attachment")
    part = httpx.get(uris["download_uri"], headers={"range": "bytes=6000000-6000009"}, follow_redirects=True)
    assert (part.status_code, part.content) == (206, content[6_000_000:6_000_010])
    head = httpx.head(uris["download_uri"])
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(content)))
    assert httpx.put(uris["upload_uri"], content=b"2").status_code == 409


def test_a_sandbox_reaches_both_addresses(on_s3: Mesh) -> None:
    """Nothing private is allowed to it, as the server's address is."""
    with on_s3.http() as client:
        up = client.post("/run/probe/upload", json={"size": 6 * MIB}).json()
        assert up["status"] == 200
        down = client.post("/run/probe/fetch", json={"url": up["download_uri"]}).json()
    assert (down["status"], down["size"], down["sha256"]) == (200, 6 * MIB, up["sha256"])
    outside = httpx.get(up["download_uri"], follow_redirects=True)
    assert hashlib.sha256(outside.content).hexdigest() == up["sha256"]


def test_a_large_answer_and_a_large_request_of_a_run_are_kept_there(on_s3: Mesh, s3: S3Server) -> None:
    def blobs() -> set[str]:
        return {key for key in s3.keys(PREFIX) if key.startswith("blobs/")}

    def result(path: str, body: bytes) -> dict[str, Any]:
        with on_s3.http() as client:
            started = client.post(f"/run_async/probe/{path}", content=body)
            assert started.status_code == 200, started.text
            answer = client.get(f"/result/{started.json()['request_id']}", params={"timeout": 60})
        assert answer.status_code == 200, answer.text
        found: dict[str, Any] = answer.json()
        return found

    before = blobs()
    assert result("large", b'{"bytes": 6000000}')["responseContent"] == "x" * 6_000_000
    body = os.urandom(6 * MIB)
    assert result("echo/it", body)["responseJson"]["sha256"] == hashlib.sha256(body).hexdigest()
    assert len(blobs() - before) >= 2
    assert not (on_s3.home / "blobs").exists()


def test_sources_lie_there(on_s3: Mesh, s3: S3Server) -> None:
    assert any(key.startswith("lasting/") for key in s3.keys(PREFIX))
    assert not (on_s3.home / "lasting").exists()


def test_a_broken_upload_leaves_nothing(on_s3: Mesh, s3: S3Server) -> None:
    before = s3.keys(PREFIX)
    uris = made(on_s3)
    url = urlsplit(uris["upload_uri"])
    with socket.create_connection((url.hostname, url.port)) as connection:
        head = f"PUT {url.path}?{url.query} HTTP/1.1\r\nHost: {url.netloc}\r\nContent-Length: {50 * MIB}\r\n\r\n"
        connection.sendall(head.encode() + os.urandom(7 * MIB))
        until(lambda: s3.uploads(PREFIX))
    until(lambda: not s3.uploads(PREFIX))
    assert s3.keys(PREFIX) == before
    assert httpx.get(uris["download_uri"]).status_code == 404
    assert httpx.put(uris["upload_uri"], content=b"again").status_code == 200
    assert httpx.get(uris["download_uri"], follow_redirects=True).content == b"again"


def test_the_server_away_and_back(on_s3: Mesh, door: Door) -> None:
    uris, body = made(on_s3), os.urandom(MIB)
    with on_s3.http() as client:
        door.shut()
        try:
            begun = time.monotonic()
            refused = [
                httpx.put(uris["upload_uri"], content=b"x"),
                client.post("/run_async/probe/echo/it", content=body),
            ]
            assert time.monotonic() - begun < 4
            code = (WORKFLOWS / "probe.py").read_text() + "# again\n"
            refused.append(client.post("/deploy", json={"code": code, "name": "away", "service_id": "away"}))
            for answer in refused:
                assert (answer.status_code, answer.json()["code"]) == (503, "unavailable"), answer.text
                assert int(answer.headers["retry-after"]) >= 1
            assert client.post("/run/probe/", json={"name": "Ada"}).status_code == 200  # that needs no bucket
        finally:
            door.open()
        assert httpx.put(uris["upload_uri"], content=b"x").status_code == 200
        assert client.post("/run_async/probe/echo/it", content=body).status_code == 200


def test_the_npm_client(on_s3: Mesh, npm_client: Path) -> None:
    once = on_s3.new_key(kind="one_time")["key"]
    run = subprocess.run(
        ["node", HERE / "drive.mjs", on_s3.key, once],
        cwd=npm_client, env=environment(on_s3), capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-3000:]
    assert json.loads(run.stdout)["uploaded"] == "from npm"


def test_the_buckets_secret_is_the_filestores_alone(on_s3: Mesh) -> None:
    secret, having = KEYS.secret_access_key.encode(), set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words, environ = (process / "cmdline").read_bytes().split(b"\0"), (process / "environ").read_bytes()
        except OSError:  # it has just ended, or is a sandbox's
            continue
        if f"RUNMESH_HOME={on_s3.home}".encode() in environ.split(b"\0"):
            assert secret not in b" ".join(words)
            if secret in environ:
                having.add(words[words.index(b"-m") + 1].decode() if b"-m" in words else "runmesh")
    assert having == {"filestore", "runmesh"}
    assert KEYS.secret_access_key not in "".join(on_s3.output)
    assert not any("X-Amz-Signature" in line for line in on_s3.output)
