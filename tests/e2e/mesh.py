"""The whole mesh, as `runmesh up` runs it, in a directory of its own on a free port."""

import json
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.e2e.conformance import check

ROOT = Path(__file__).parent.parent.parent
RUNMESH = Path(sys.executable).parent / "runmesh"
LIBRARY = ROOT / "library"
WORKFLOWS = Path(__file__).parent / "workflows"
# What tests need besides FastAPI: one set for all of them, since each is an environment to build.
PACKAGES = (
    '["fastapi", "uvicorn[standard]", "httpx", "aiohttp", "requests", "asyncpg", "redis", "grpcio", "numpy", '
    '"cryptography"]'
)
# Where this interpreter and the system's are: uv starts all that it finds, and a developer's machine may have many.
_PATH = f"{Path(sys.executable).resolve().parent}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # reading the system's roots would take 20 ms for each client


@dataclass
class Mesh:
    """A running mesh. `output` grows as it prints."""

    process: "subprocess.Popen[str]"
    home: Path
    url: str
    key: str = ""
    output: list[str] = field(default_factory=list)

    def programs(self) -> dict[int, list[str]]:
        """By their pids, what `runmesh up` keeps running, with its arguments."""
        found = {}
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            for pid in (task / "children").read_text().split():
                with suppress(OSError):  # it has ended since
                    words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
                    found[int(pid)] = words[:-1]
        return found

    def pid_of(self, service: str) -> int:
        """The process of a service of ours."""
        (pid,) = (pid for pid, words in self.programs().items() if words[1:] == ["-m", service])
        return pid

    def http(self, key: str | None = None, **options: Any) -> httpx.Client:
        """A client with the admin key, or another one; no key at all for ""."""
        headers = {"Authorization": f"Bearer {self.key if key is None else key}"} if key != "" else {}
        options = {"timeout": 60, "trust_env": False, "verify": _NO_TLS, **options}
        options.setdefault("event_hooks", {"response": [check]})
        options["headers"] = {**headers, **options.get("headers", {})}
        return httpx.Client(base_url=self.url, **options)

    def deploy(self, name: str, code: str | None = None, key: str | None = None) -> dict[str, Any]:
        """Deploys `tests/e2e/workflows/NAME.py`, or this code; fails the test unless it is accepted."""
        code = (WORKFLOWS / f"{name}.py").read_text() if code is None else code
        with self.http(key, headers={}) as client:
            answer = client.post("/deploy", json={"code": code, "name": name, "service_id": name}, timeout=180)
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()
        return result

    def new_key(self, **fields: Any) -> dict[str, Any]:
        with self.http() as client:
            answer = client.post("/keys", json={"kind": "standard", **fields})
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()
        return result

    def new_organization(self, name: str) -> dict[str, Any]:
        with self.http() as client:
            answer = client.post("/organizations", json={"name": name})
        assert answer.status_code == 200, answer.text
        result: dict[str, Any] = answer.json()
        return result

    def finished(self, request_id: str, seconds: float = 30) -> dict[str, Any]:
        """The record of a run once it has ended."""
        with self.http() as client:

            def ended() -> dict[str, Any] | None:
                record: dict[str, Any] = client.get(f"/request/{request_id}").json()
                return record if record.get("status") not in {"provisioned", "queued", "running"} else None

            finished: dict[str, Any] = until(ended, seconds)
        return finished


def events(text: str) -> list[tuple[str, Any]]:
    """Server-sent ones: their name, and their data as JSON."""
    blocks = [dict(line.split(": ", 1) for line in block.split("\n")) for block in text.split("\n\n")[:-1]]
    return [(block.get("event", ""), json.loads(block["data"])) for block in blocks]


def until(found: Callable[[], Any], seconds: float = 10) -> Any:
    """What `found` returns as soon as it is true; fails after that many seconds."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        result = found()
        if result:
            return result
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s")


def control_groups(spawners: Collection[int]) -> Iterator[Path]:
    """That these made, in any tree of either version. Others' may go meanwhile, which `rglob` would mind."""
    for directory, below, _ in os.walk("/sys/fs/cgroup"):
        for name in below:
            if re.fullmatch(r"runmesh-\d+", name) and int(name.partition("-")[2]) in spawners:
                yield Path(directory, name)


def own_address() -> str:
    """One of this machine's, besides the loopback. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("192.0.2.1", 9))
        return str(sock.getsockname()[0])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def library_of(directory: Path, *names: str) -> Path:
    """`directory`, with these services of the library, what they share, and the templates: deploying all takes long."""
    directory.chmod(0o755)
    for name in (*(f"{each}.py" for each in names), "models", "parts", "prompts", "templates"):
        if (LIBRARY / name).exists():
            (directory / name).symlink_to(LIBRARY / name)
    return directory


@contextmanager
def mesh_up(
    *,
    home: Path | None = None,
    port: int | None = None,
    env: Mapping[str, str] | None = None,
    user: int | None = None,
    runmesh: Path = RUNMESH,
) -> Iterator[Mesh]:
    """`runmesh up` until the block is left; then SIGTERM, and it must end by itself. Without the library and the
    example, whose deploy takes some seconds, unless `env` says so.
    """
    own = home is None
    home = home or Path(tempfile.mkdtemp(prefix="mesh-", dir="/var/tmp"))  # /tmp is another one inside a sandbox
    if user is not None:
        os.chown(home, user, user)
    port = port or free_port()
    process = subprocess.Popen(
        [runmesh, "up"],
        cwd=ROOT,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith(("RUNMESH_", "OTEL_"))},
            "PATH": _PATH,
            "RUNMESH_HOME": str(home),
            "RUNMESH_PORT": str(port),
            "RUNMESH_LIBRARY": str(home / "no-library"),
            "RUNMESH_EXAMPLE": "off",
            # Each run costs something.
            "RUNMESH_INITIAL_CREDITS": "1000000000000",
            **(env or {}),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        user=user,
        group=user,
        extra_groups=[] if user is not None else None,
    )
    mesh = Mesh(process, home, f"http://127.0.0.1:{port}")
    reader = threading.Thread(target=_read, args=(mesh,), daemon=True)
    reader.start()
    try:
        until(lambda: process.poll() is not None or any("Runmesh is ready" in line for line in mesh.output), 90)
        assert process.poll() is None, "".join(mesh.output[-50:])
        mesh.key = (home / "admin.key").read_text().strip()
        yield mesh
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(60)
        finally:
            if process.poll() is None:
                process.kill()
            reader.join(5)
            if process.stdout:
                process.stdout.close()
            (ROOT / "mesh.log").write_text("".join(mesh.output)) if os.environ.get("KEEP_MESH_LOG") else None
            if own:
                shutil.rmtree(home, ignore_errors=True)


def _read(mesh: Mesh) -> None:
    assert mesh.process.stdout is not None
    for line in mesh.process.stdout:
        mesh.output.append(line)


def at_once(client: httpx.Client, calls: int, path: str) -> tuple[list[httpx.Response], float]:
    """The answers, and how many seconds passed."""
    began = time.monotonic()
    with ThreadPoolExecutor(calls) as pool:
        answers = list(pool.map(lambda _: client.get(path), range(calls)))
    return answers, time.monotonic() - began
