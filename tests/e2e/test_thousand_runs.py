"""Many runs, and what is left of them: nothing. Whatever became of each."""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from tests.e2e.census import census, differences
from tests.e2e.mesh import Mesh, mesh_up, until

AT_ONCE = 8
CODE = """\
# /// script
# dependencies = ["uvicorn"]
# ///
import asyncio, os, signal, socket, subprocess, sys, time, urllib.request
import uvicorn

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    asked = scope["path"].strip("/")
    print("asked for", asked, flush=True)
    if asked == "exit":
        os._exit(3)
    if asked == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if asked == "raise":
        raise ValueError("a bug")
    if asked == "daemon":  # which would stay, with a file open and a socket listening
        subprocess.Popen(["/bin/sleep", "600"], start_new_session=True)
        listening = socket.create_server(("127.0.0.1", 7000))
        open("/tmp/left", "w").write("x" * 100000)
    if asked == "outside":
        try:
            socket.create_connection(("10.254.254.254", 5432), 5).recv(1)
        except OSError:
            pass
    if asked == "nested":
        request = urllib.request.Request(
            os.environ["CODEWORDS_RUNTIME_URI"] + "/run/many/plain", b"",
            {"Authorization": "Bearer " + os.environ["CODEWORDS_API_KEY"]},
        )
        urllib.request.urlopen(request, timeout=30).read()
    if asked == "sleep":
        await asyncio.sleep(60)
    content = b"x" * (300000 if asked == "large" else 4)
    # Without a length a long answer would be a stream: the executor has it for a minute, for who comes late.
    headers = [(b"content-length", b"%d" % len(content))] if asked == "large" else []
    await send({"type": "http.response.start", "status": 500 if asked == "failed" else 200, "headers": headers})
    if asked in ("stream", "broken", "endless"):
        for number in range(5 if asked != "endless" else 10000):
            await send({"type": "http.response.body", "body": b"data: x\\n\\n", "more_body": True})
            await asyncio.sleep(0.05)
        if asked == "broken":
            raise RuntimeError("the stream broke")
    await send({"type": "http.response.body", "body": content})

if __name__ == "__main__":
    uvicorn.run(app)
"""


@pytest.fixture(scope="module")
def temporary() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="temporary-", dir="/var/tmp") as directory:
        yield Path(directory)


@pytest.fixture(scope="module")
def busy(temporary: Path) -> Iterator[Mesh]:
    """A mesh of its own: what waits for others' next calls would come and go among what is counted."""
    with mesh_up(env={"TMPDIR": str(temporary)}) as mesh:
        mesh.deploy("many", CODE)
        mesh.deploy("short", CODE)
        with mesh.http() as client:
            assert client.patch("/workflows/short", json={"limits": {"sync_timeout_ms": 500}}).status_code == 200
        yield mesh


def answered(path: str, status: int) -> Callable[[httpx.Client], None]:
    def ask(client: httpx.Client) -> None:
        answer = client.post(f"/run/many/{path}", content=b"x" * 1000)
        assert answer.status_code == status, (path, answer.text)

    return ask


def broken(client: httpx.Client) -> None:
    with pytest.raises(httpx.HTTPError):
        client.post("/run/many/broken")


def timed_out(client: httpx.Client) -> None:
    assert client.post("/run/short/sleep", headers={"X-On-Timeout": "kill"}).status_code == 504


def hung_up(client: httpx.Client) -> None:
    with suppress(httpx.TimeoutException):
        client.post("/run/many/sleep", timeout=0.3)


def hung_up_on_a_stream(client: httpx.Client) -> None:
    with client.stream("POST", "/run/many/endless") as answer:
        next(answer.iter_raw())


def cancelled(client: httpx.Client) -> None:
    run = client.post("/run_async/many/sleep").json()["request_id"]
    assert client.delete(f"/request/{run}").status_code == 200
    assert client.get(f"/result/{run}?timeout=30").json()["status"] == "cancelled"


def cancelled_while_running(client: httpx.Client) -> None:
    run = client.post("/run_async/many/sleep").json()["request_id"]
    until(lambda: client.get(f"/request/{run}").json()["status"] == "running", 30)
    assert client.delete(f"/request/{run}").status_code == 200


def background(client: httpx.Client) -> None:
    run = client.post("/run_async/many/large").json()["request_id"]
    assert client.get(f"/result/{run}?timeout=60").json()["responseStatus"] == 200
    assert client.get(f"/logs/{run}").text


KINDS = (
    *(answered(path, 200) for path in ("plain", "stream", "large", "daemon", "outside", "nested", "plain", "plain")),
    *(answered(path, 500) for path in ("raise", "failed")),
    *(answered(path, 502) for path in ("exit", "kill")),
    broken, timed_out, hung_up, hung_up_on_a_stream, cancelled, cancelled_while_running, background, answered("", 200),
)  # fmt: skip


def run_them(mesh: Mesh, count: int) -> None:
    """So many runs, of each kind as many, eight at once."""
    at_hand = threading.local()

    def one(number: int) -> None:
        if not hasattr(at_hand, "client"):
            at_hand.client = clients.pop()
        KINDS[number % len(KINDS)](at_hand.client)

    clients = [mesh.http() for _ in range(AT_ONCE)]
    opened = list(clients)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(one, range(count)))
    for client in opened:
        client.close()


def settled(mesh: Mesh, temporary: Path) -> dict[str, object]:
    """Once all runs have ended and nothing changes for a second."""
    with mesh.http() as client:
        until(lambda: not client.get("/requests?status=running").json()["items"], 20)
    before = census(mesh, temporary)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        time.sleep(1)
        now = census(mesh, temporary)
        if now == before:
            return now
        before = now
    raise AssertionError("it doesn't come to rest")


def check_nothing_is_left(mesh: Mesh, temporary: Path, count: int) -> None:
    run_them(mesh, 3 * len(KINDS))  # pools of connections fill up when they are needed
    before = settled(mesh, temporary)
    run_them(mesh, count)
    deadline = time.monotonic() + 5
    while (left := differences(before, census(mesh, temporary))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, left


@pytest.mark.timeout(240)
@pytest.mark.slow  # as many again as test_slots.py has below the API
def test_a_hundred_runs_leave_nothing(busy: Mesh, temporary: Path) -> None:
    check_nothing_is_left(busy, temporary, 100)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_runs_leave_nothing(busy: Mesh, temporary: Path) -> None:
    check_nothing_is_left(busy, temporary, 1000)
