"""Files: up and down unchanged, from outside and from a workflow; never held in memory; nothing of a broken upload."""

import asyncio
import hashlib
import os
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.mesh import Mesh, until

pytestmark = pytest.mark.timeout(280)
MIB = 1 << 20
SIZE = 200 * MIB
AT_ONCE = 4
MOST_GROWTH = 32 * MIB
OURS = ["edge", "envoy", "executor", "filestore", "keys", "nats-server", "runmesh", "scheduler", "spawner"]

# Sends a file up and reads it down again. Early on each way it waits until all the runs that it was told of are there
# too: a run that is there fills a file of its own, and looks for those of the others.
PORTER = """# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34", "httpx>=0.27"]
# ///
import asyncio
import hashlib
import os

import httpx
import uvicorn
from fastapi import FastAPI, Request

app = FastAPI(title="porter")
MIB = 1 << 20


async def meet(client, number, places):
    await client.put(places[number]["upload_uri"], content=b"here")
    for place in places:
        while (await client.head(place["download_uri"])).status_code != 200:
            await asyncio.sleep(0.05)


@app.post("/")
async def round_trip(request: Request):
    wanted = await request.json()
    sent, received, size = hashlib.sha256(), hashlib.sha256(), 0
    rest = os.urandom(MIB - 4)

    async def content():
        for start in range(0, wanted["size"], MIB):
            if start == MIB:
                await meet(client, wanted["number"], wanted["up"])
            piece = start.to_bytes(4, "big") + rest
            sent.update(piece)
            yield piece

    runtime = os.environ["CODEWORDS_RUNTIME_URI"]
    key = os.environ["CODEWORDS_API_KEY"]
    async with httpx.AsyncClient(timeout=120) as client:
        made = (await client.post(f"{runtime}/file?filename=porter.bin", headers={"Authorization": key})).json()
        put = await client.put(made["upload_uri"], content=content())
        async with client.stream("GET", made["download_uri"]) as answer:
            async for piece in answer.aiter_bytes():
                if not size:
                    await meet(client, wanted["number"], wanted["down"])
                received.update(piece)
                size += len(piece)
    return {"status": put.status_code, "size": size, "sent": sent.hexdigest(), "received": received.hexdigest()}


uvicorn.run(app, host="0.0.0.0", port=int(os.environ["PORT"]))
"""


def make(mesh: Mesh, name: str = "data.bin") -> dict[str, str]:
    with mesh.http() as client:
        answer = client.post("/file", params={"filename": name})
    assert answer.status_code == 200, answer.text
    result: dict[str, str] = answer.json()
    return result


def blocks(seed: int, size: int) -> Iterator[bytes]:
    """A stream of `size` bytes, each MiB of it different, and different for each seed."""
    for number in range(size // MIB):
        yield hashlib.sha256(f"{seed} {number}".encode()).digest() * (MIB // 32)


def stored(mesh: Mesh) -> set[Path]:
    """All callers' files on the disk, whole or not."""
    return {path for path in (mesh.home / "files").rglob("*") if path.is_file()}


@pytest.fixture
def disk(mesh: Mesh) -> Iterator[None]:
    """Afterwards only whole files are left, and the gigabyte that a test took is given back."""
    before = stored(mesh)
    yield
    until(lambda: not any((mesh.home / "files" / "incoming").iterdir()))
    for path in stored(mesh) - before:
        if path.stat().st_size >= MIB:
            path.unlink()


def processes(mesh: Mesh) -> dict[str, Path]:
    """The /proc directories of the mesh's own processes, by name and pid. What a sandbox holds isn't the mesh's."""
    children: dict[str, list[tuple[str, Path]]] = {}
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            fields = dict(
                line.split(":\t", 1) for line in status.read_text(errors="replace").splitlines() if ":\t" in line
            )
            words = (status.parent / "cmdline").read_text(errors="replace").split("\0")
        except OSError:  # it has just ended
            continue
        name = words[words.index("-m") + 1] if "-m" in words else fields["Name"]
        name = "spawner" if "executor.spawner" in " ".join(words) else name
        children.setdefault(fields["PPid"], []).append((name, status.parent))
    found: dict[str, Path] = {}
    waiting = [("runmesh", Path(f"/proc/{mesh.process.pid}"))]
    while waiting:
        name, process = waiting.pop()
        if name != "bwrap":
            found[f"{name} {process.name}"] = process
            waiting += children.get(process.name, [])
    return found


def high_water(process: Path) -> int:
    """VmHWM in bytes."""
    (line,) = (line for line in (process / "status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


@contextmanager
def hardly_growing(mesh: Mesh) -> Iterator[None]:
    """Every process of the mesh stays within 32 MiB of what it has in memory now, and none is replaced."""

    def settled() -> dict[str, Path] | None:
        """None while the spawner has forks, which live for some milliseconds."""
        found = processes(mesh)
        return found if sorted(name.split()[0] for name in found) == OURS else None

    ours: dict[str, Path] = until(settled)
    before = {}
    for name, process in ours.items():
        (process / "clear_refs").write_text("5")  # VmHWM begins anew: earlier tests' peaks hide nothing
        before[name] = high_water(process)
    yield
    assert until(settled) == ours
    grown = {name: high_water(process) - before[name] for name, process in ours.items()}
    assert not {name: growth for name, growth in grown.items() if growth > MOST_GROWTH}


def at_once(work: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(work, range(AT_ONCE)))


@pytest.mark.usefixtures("disk")
def test_four_large_files_at_once_without_growing(mesh: Mesh) -> None:
    def round_trip(seed: int, size: int) -> bool:
        uris = make(mesh)
        put = httpx.put(uris["upload_uri"], content=blocks(seed, size), timeout=240)
        assert put.status_code == 200, put.text
        digest = hashlib.sha256()
        with httpx.stream("GET", uris["download_uri"], timeout=240) as answer:
            for chunk in answer.iter_bytes(MIB):
                digest.update(chunk)
        expected = hashlib.sha256()
        for block in blocks(seed, size):
            expected.update(block)
        return digest.digest() == expected.digest()

    assert round_trip(9, 4 * MIB)  # what a first request costs is not what we measure
    with hardly_growing(mesh):
        assert all(at_once(lambda seed: round_trip(seed, SIZE)))


@pytest.mark.slow  # by callers they are tried above
@pytest.mark.usefixtures("disk")
def test_four_runs_at_once_with_large_files_without_growing(mesh: Mesh) -> None:
    def round_trip(number: int, size: int, up: list[dict[str, str]], down: list[dict[str, str]]) -> None:
        wanted = {"number": number, "size": size, "up": up, "down": down}
        with mesh.http(timeout=240) as client:
            answer = client.post("/run/porter/", json=wanted)
        assert answer.status_code == 200, answer.text
        result = answer.json()
        assert (result["status"], result["size"], result["received"]) == (200, size, result["sent"])

    mesh.deploy("porter", PORTER)
    round_trip(0, 4 * MIB, [make(mesh)], [make(mesh)])  # as above
    up, down = ([make(mesh) for _ in range(AT_ONCE)] for _ in range(2))
    with hardly_growing(mesh):
        at_once(lambda number: round_trip(number, SIZE, up, down))


@pytest.mark.usefixtures("disk")
async def test_a_run_cancelled_in_its_upload_leaves_nothing(mesh: Mesh) -> None:
    mesh.deploy("porter", PORTER)
    places = [make(mesh), make(mesh)]  # the second stays empty: the upload gets no further
    before = stored(mesh)
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {mesh.key}"}, timeout=60) as client:
        wanted = {"number": 0, "size": SIZE, "up": places, "down": places}
        run = asyncio.create_task(client.post(f"{mesh.url}/run/porter/", json=wanted))
        await asyncio.to_thread(until, lambda: httpx.head(places[0]["download_uri"]).status_code == 200)
        await asyncio.to_thread(until, lambda: any((mesh.home / "files" / "incoming").iterdir()))
        run.cancel()
        await asyncio.wait([run])
    await asyncio.to_thread(until, lambda: len(stored(mesh) - before) == 1)  # places[0]: it was whole


def test_a_file_is_the_same_inside_and_outside(mesh: Mesh) -> None:
    with mesh.http() as client:
        made = client.post("/run/probe/upload", json={"size": MIB}).json()
        assert made["status"] == 200
        assert hashlib.sha256(httpx.get(made["download_uri"]).content).hexdigest() == made["sha256"]
        uris = make(mesh)
        httpx.put(uris["upload_uri"], content=os.urandom(MIB)).raise_for_status()
        read = client.post("/run/probe/fetch", json={"url": uris["download_uri"]}).json()
    assert read["sha256"] == hashlib.sha256(httpx.get(uris["download_uri"]).content).hexdigest()


def test_ranges_etag_name_and_type(mesh: Mesh) -> None:
    uris = make(mesh, "grüße ../x.txt")
    assert (
        httpx.put(uris["upload_uri"], content=b"0123456789", headers={"Content-Type": "text/plain"}).status_code == 200
    )
    whole = httpx.get(uris["download_uri"])
    assert whole.content == b"0123456789"
    assert whole.headers["content-type"].startswith("text/plain")
    assert whole.headers["content-disposition"].startswith("attachment")
    assert "gr%C3%BC%C3%9Fe" in whole.headers["content-disposition"]
    assert whole.headers["x-content-type-options"] == "nosniff"
    part = httpx.get(uris["download_uri"], headers={"Range": "bytes=2-4"})
    assert (part.status_code, part.content) == (206, b"234")
    same = httpx.get(uris["download_uri"], headers={"If-None-Match": whole.headers["etag"]})
    assert same.status_code == 304
    head = httpx.head(uris["download_uri"])
    assert (head.status_code, head.headers["content-length"], head.content) == (200, "10", b"")


def test_an_empty_file_and_the_acl_header(mesh: Mesh) -> None:
    uris = make(mesh, "empty")
    put = httpx.put(uris["upload_uri"], content=b"", headers={"x-amz-acl": "public-read"})
    assert put.status_code == 200
    assert httpx.get(uris["download_uri"]).content == b""


def test_forged_addresses(mesh: Mesh) -> None:
    uris = make(mesh)
    assert httpx.get(uris["download_uri"]).status_code == 404  # nothing uploaded yet
    assert httpx.put(uris["upload_uri"][:-2] + "xx", content=b"1").status_code == 403
    assert httpx.put(uris["download_uri"], content=b"1").status_code in {403, 404, 405}
    httpx.put(uris["upload_uri"], content=b"1")
    assert httpx.get(uris["download_uri"][:-2] + "xx").status_code == 404
    assert httpx.put(uris["upload_uri"], content=b"2").status_code == 409
    assert httpx.get(uris["download_uri"]).content == b"1"


@pytest.mark.parametrize("name", ["x" * 300, "a\x00b", "a\nb"])
def test_bad_names(mesh: Mesh, name: str) -> None:
    with mesh.http() as client:
        answer = client.post("/file", params={"filename": name})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request"), answer.text


def test_a_broken_upload_leaves_nothing(mesh: Mesh) -> None:
    before = stored(mesh)
    uris = make(mesh)
    host, port = mesh.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        path = uris["upload_uri"].removeprefix(mesh.url)
        connection.sendall(
            f"PUT {path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {50 * MIB}\r\n\r\n".encode()
            + os.urandom(5 * MIB)
        )
        until(lambda: stored(mesh) - before)
    until(lambda: stored(mesh) == before)
    assert httpx.get(uris["download_uri"]).status_code == 404
    assert httpx.put(uris["upload_uri"], content=b"again").status_code == 200
