"""A real S3 server for tests: SeaweedFS, which checks signatures and keeps multipart uploads apart, on free ports."""

import asyncio
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from filestore.bucket import Bucket, Place
from filestore.sigv4 import Credentials, presigned

WEED = Path(sys.executable).parent / "weed"
KEYS = Credentials("AKIDRUNMESHTESTS", "of+the/tests")
CONFIG = """{"identities": [{"name": "runmesh", "actions": ["Admin", "Read", "Write", "List"],
 "credentials": [{"accessKey": "AKIDRUNMESHTESTS", "secretKey": "of+the/tests"}]}]}"""
NAMES = ("s3", "s3.port.grpc", "master", "master.port.grpc", "volume", "volume.port.grpc", "filer", "filer.port.grpc")
BUCKET = "mesh"


@dataclass(frozen=True)
class S3Server:
    """A running server with one bucket. `process` may be stopped and continued."""

    url: str
    process: "subprocess.Popen[bytes]"

    def bucket(self, prefix: str = "", **changes: object) -> Bucket:
        """What the backend is told. Tests that share the server take a prefix each."""
        settings: dict[str, object] = {"endpoint": self.url, "credentials": lambda: KEYS} | changes
        return Bucket(Place(BUCKET, prefix), **settings)  # type: ignore[arg-type]

    def env(self, prefix: str = "", url: str = "") -> dict[str, str]:
        """The same, as a process is told. `url`: another way to the server."""
        return {
            "RUNMESH_FILES_URL": f"s3://{BUCKET}/{prefix}",
            "AWS_ENDPOINT_URL": url or self.url,
            "AWS_ACCESS_KEY_ID": KEYS.access_key_id,
            "AWS_SECRET_ACCESS_KEY": KEYS.secret_access_key,
        }

    def keys(self, prefix: str) -> list[str]:
        """All objects under it, without it."""
        found = self._ask({"list-type": "2", "prefix": f"{prefix}/"}, "Contents")
        return sorted(key.removeprefix(f"{prefix}/") for key in found)

    def uploads(self, prefix: str) -> list[str]:
        """Multipart uploads that were neither completed nor aborted."""
        return [key for key in self._ask({"uploads": ""}, "Upload") if key.startswith(prefix)]

    def _ask(self, query: dict[str, str], element: str) -> list[str]:
        address = f"{self.url}/{BUCKET}"
        url = presigned("GET", address, query, KEYS, region="us-east-1", now=datetime.now(UTC), seconds=60)
        answer = httpx.get(url, trust_env=False)
        assert answer.status_code == 200, answer.text
        root = ET.fromstring(answer.text)
        return [found.findtext("{*}Key") or "" for found in root.iter() if found.tag.endswith("}" + element)]


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """Gone, with all that is in it, afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="s3-", dir="/var/tmp"))
    (directory / "s3.json").write_text(CONFIG)
    for _ in range(3):  # somebody may have taken a port meanwhile
        ports = dict(zip([*NAMES, "admin", "admin.port.grpc"], free_ports(len(NAMES) + 2), strict=True))
        process = _started(directory, ports)
        server = S3Server(f"http://127.0.0.1:{ports['s3']}", process)
        try:
            if _answers(server):
                yield server
                break
        finally:
            process.kill()
            process.wait(10)
    else:
        raise AssertionError((directory / "log").read_text()[-4000:])
    shutil.rmtree(directory, ignore_errors=True)


def _started(directory: Path, ports: dict[str, int]) -> "subprocess.Popen[bytes]":
    flags = [f"-{name if '.port.' in name else name + '.port'}={port}" for name, port in ports.items()]
    command = [str(WEED), "-logtostderr=true", "mini", f"-dir={directory}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
    off = ["-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    with (directory / "log").open("wb") as log:
        return subprocess.Popen(
            [*command, *off, *flags, f"-s3.config={directory}/s3.json", f"-bucket={BUCKET}"],
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"HOME": str(directory)},
        )


def _answers(server: S3Server) -> bool:
    """Whether it is up within some seconds, with its bucket."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and server.process.poll() is None:
        try:
            server.keys("none")
        except (httpx.HTTPError, AssertionError):
            time.sleep(0.05)
        else:
            return True
    return False


def free_ports(count: int) -> list[int]:
    """That nobody listens on now."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


class Forwarding:
    """A listener that hands on to the server, while it is entered. All it has carried is cut off at its end."""

    def __init__(self, port: int, url: str) -> None:
        self._port = port
        self._to = urlsplit(url)
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", self._port)

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for writer in self._writers:
            writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, out = await asyncio.open_connection(self._to.hostname, self._to.port)
        self._writers += [writer, out]
        await asyncio.gather(_copy(reader, out), _copy(there, writer), return_exceptions=True)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
