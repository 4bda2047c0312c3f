"""Clients that know of no proxy, as they come from the index, with real servers: each connects as it would anywhere."""

import http.server
import os
import shutil
import socket
import socketserver
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.mesh import PACKAGES, Mesh, free_port, own_address, until
from tests.fakes.certificates import Authority

pytestmark = pytest.mark.timeout(300)
CODE = """\
# /// script
# dependencies = PACKAGES
# ///
import asyncio, json, smtplib, socket, ssl
from fastapi import FastAPI
import aiohttp, asyncpg, grpc, httpx, redis, redis.asyncio, requests, uvicorn

app = FastAPI()

@app.post("/https")
async def https(asked: dict):
    open("/tmp/ca.pem", "w").write(asked["authority"])
    context, url = ssl.create_default_context(cadata=asked["authority"]), asked["url"]
    async with httpx.AsyncClient(verify=context) as client:
        first = (await client.get(url)).text
    async with aiohttp.ClientSession() as session, session.get(url, ssl=context) as answer:
        second = await answer.text()
    third = await asyncio.to_thread(lambda: requests.get(url, verify="/tmp/ca.pem").text)
    return [first, second, third]

@app.post("/redirected")
async def redirected(asked: dict):
    async def by_httpx():
        async with httpx.AsyncClient(follow_redirects=True) as client:
            return (await client.get(asked["url"])).text

    async def by_aiohttp():
        async with aiohttp.ClientSession() as session, session.get(asked["url"]) as answer:
            return await answer.text()

    async def by_requests():
        return await asyncio.to_thread(lambda: requests.get(asked["url"]).text)

    said = []
    for way in (by_httpx, by_aiohttp, by_requests):
        try:
            said.append(await way())
        except (OSError, httpx.HTTPError, aiohttp.ClientError, requests.RequestException) as error:
            said.append("refused")
    return said

@app.post("/redis")
async def redis_(asked: dict):
    with redis.Redis(**asked, decode_responses=True) as client:
        client.set("name", "Ada", ex=60)
        with client.pipeline() as several:
            said = several.incr("count").incr("count").get("name").execute()
    async with redis.asyncio.Redis(**asked) as client, client.pubsub() as heard:
        await client.set("large", b"x" * 1_000_000)
        await heard.subscribe("news")
        await client.publish("news", "told")
        async for message in heard.listen():
            if message["type"] == "message":
                return [*said, len(await client.get("large")), message["data"].decode()]

@app.post("/grpc")
async def grpc_(asked: dict):
    with grpc.insecure_channel(asked["target"]) as channel:
        said = [channel.unary_unary("/a.B/Echo")(b"x" * 100_000, timeout=20).count(b"x")]
    async with grpc.aio.insecure_channel(asked["target"]) as channel:
        return said + [part.decode() async for part in channel.unary_stream("/a.B/Thrice")(b"y", timeout=20)]

@app.post("/smtp")
def smtp(asked: dict):
    with smtplib.SMTP(asked["host"], asked["port"], timeout=10) as client:
        return client.sendmail("a@example.com", ["b@example.com"], "Subject: hi\\r\\n\\r\\nthere")

@app.post("/postgres")
async def postgres(asked: dict):
    connection = await asyncpg.connect(**asked)
    try:
        return await connection.fetchval("SELECT repeat('x', 1000000) || $1::text", "end")
    finally:
        await connection.close()

if __name__ == "__main__":
    uvicorn.run(app)
""".replace("PACKAGES", PACKAGES)

GRPC_SERVER = """
import concurrent.futures, grpc, sys
server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
handlers = {
    "Echo": grpc.unary_unary_rpc_method_handler(lambda request, context: request),
    "Thrice": grpc.unary_stream_rpc_method_handler(lambda request, context: iter([request] * 3)),
}
server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("a.B", handlers),))
port = server.add_insecure_port(sys.argv[1] + ":0")
server.start()
print(port, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def deployed(mesh: Mesh) -> Mesh:
    mesh.deploy("clients", CODE)
    return mesh


def asked(deployed: Mesh, path: str, **what: object) -> object:
    with deployed.http(timeout=60) as client:
        answer = client.post(f"/run/clients/{path}", json=what)
    assert answer.status_code == 200, answer.text
    return answer.json()


@contextmanager
def serving(server: socketserver.BaseServer) -> Iterator[int]:
    """The port of a server."""
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_address[1]  # type: ignore[misc,index]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """Says hello, or sends whoever asks `/to/URL` there."""
        _, to, url = self.path.partition("/to/")
        self.send_response(302 if to else 200)
        if to:
            self.send_header("location", url)
        self.send_header("content-length", "5")
        self.end_headers()
        self.wfile.write(b"hello")

    def log_message(self, *_: object) -> None:
        pass


class Mail(socketserver.StreamRequestHandler):
    """The server speaks first."""

    taken: list[bytes]

    def handle(self) -> None:
        self.wfile.write(b"220 mail.example\r\n")
        while line := self.rfile.readline().upper():
            if line.startswith(b"DATA"):
                self.wfile.write(b"354 go on\r\n")
                text = b""
                while not text.endswith(b"\r\n.\r\n"):
                    text += self.rfile.readline()
                self.taken.append(text)
            self.wfile.write(b"221 bye\r\n" if line.startswith(b"QUIT") else b"250 fine\r\n")
            if line.startswith(b"QUIT"):
                return


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


def test_https(deployed: Mesh, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    server = http.server.ThreadingHTTPServer((own_address(), 0), Hello)
    server.socket = authority.server(own_address()).wrap_socket(server.socket, server_side=True)
    with serving(server) as port:
        said = asked(deployed, "https", url=f"https://{own_address()}:{port}/", authority=authority.certificate)
    assert said == ["hello"] * 3


def test_redirects(deployed: Mesh) -> None:
    """To where it may go they are followed; to a private address they lead nowhere, whoever follows them."""
    server = http.server.ThreadingHTTPServer((own_address(), 0), Hello)
    with serving(server) as port:
        here = f"http://{own_address()}:{port}"
        assert asked(deployed, "redirected", url=f"{here}/to/{here}/") == ["hello"] * 3
        for there in (
            "http://10.254.254.254/",
            "http://169.254.169.254/latest",
            f"http://127.1:{port}/",
            "http://[::1]/",
        ):
            assert asked(deployed, "redirected", url=f"{here}/to/{there}") == ["refused"] * 3, there


def test_redis(deployed: Mesh, redis: dict[str, object]) -> None:
    assert asked(deployed, "redis", **redis) == [1, 2, "Ada", 1_000_000, "told"]


def test_grpc(deployed: Mesh) -> None:
    """The server is a process of its own: grpc's threads and other tests' forks don't go together."""
    command = [sys.executable, "-c", GRPC_SERVER, own_address()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        assert asked(deployed, "grpc", target=f"{own_address()}:{port}") == [100_000, "y", "y", "y"]
        server.kill()


@pytest.fixture(scope="module")
def redis() -> Iterator[dict[str, object]]:
    """A real server."""
    program = shutil.which("redis-server")
    assert program, "redis-server isn't installed: run deploy/setup.sh tests"
    port = free_port()
    options = {"bind": own_address(), "port": str(port), "requirepass": "s3cret", "save": "", "appendonly": "no"}
    with tempfile.TemporaryDirectory(dir="/var/tmp") as home:
        argv = [program, *(word for name, value in options.items() for word in (f"--{name}", value))]
        with subprocess.Popen(argv, cwd=home, stdout=subprocess.DEVNULL) as server:
            until(lambda: _answers(port), 30)
            yield {"host": own_address(), "port": port, "password": "s3cret"}
            server.terminate()


def test_mail(deployed: Mesh) -> None:
    taken: list[bytes] = []
    with serving(Server((own_address(), 0), type("OurMail", (Mail,), {"taken": taken}))) as port:
        assert asked(deployed, "smtp", host=own_address(), port=port) == {}
    assert taken == [b"Subject: hi\r\n\r\nthere\r\n.\r\n"]


def test_postgresql(deployed: Mesh, postgres: dict[str, object]) -> None:
    assert asked(deployed, "postgres", **postgres) == "x" * 1_000_000 + "end"


@pytest.fixture(scope="module")
def postgres() -> Iterator[dict[str, object]]:
    """A real server, which doesn't run as root."""
    found = [shutil.which("initdb"), *map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    if not any(found):
        pytest.skip("PostgreSQL isn't installed on this machine")
    programs = Path(next(filter(None, found))).parent
    user = 65534 if os.getuid() == 0 else os.getuid()
    with socket.create_server((own_address(), 0)) as sock:
        port = sock.getsockname()[1]
    with tempfile.TemporaryDirectory(dir="/var/tmp") as home:
        os.chown(home, user, -1)
        data, password = Path(home, "data"), Path(home, "password")
        password.write_text("s3cret")
        password.chmod(0o644)
        subprocess.run(
            [programs / "initdb", "-D", data, "-U", "ada", "-A", "scram-sha-256", "--pwfile", password, "--no-sync"],
            user=user, check=True, capture_output=True, cwd="/", env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        )  # fmt: skip
        (data / "pg_hba.conf").write_text("host all all all scram-sha-256\n")
        server = subprocess.Popen(
            [programs / "postgres", "-D", data, "-h", own_address(), "-p", str(port), "-k", "", "-c", "fsync=off"],
            user=user, cwd="/", stderr=subprocess.DEVNULL, env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        )  # fmt: skip
        try:
            until(lambda: _answers(port), 30)
            yield {"host": own_address(), "port": port, "user": "ada", "password": "s3cret", "database": "postgres"}
        finally:
            server.terminate()
            server.wait()


def _answers(port: int) -> bool:
    try:
        with socket.create_connection((own_address(), port), 1):
            return True
    except OSError:
        return False
