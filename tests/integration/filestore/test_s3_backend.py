"""What the S3 backend does when something breaks, on a real server and on ones that fail."""

import asyncio
import json
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from filestore.model import disposition
from filestore.s3 import PART_BYTES, S3Backend
from filestore.sigv4 import Credentials
from kit.errors import NotFound, Unavailable
from kit.names import new_id
from tests.s3_server import KEYS, S3Server

KEY = "files/aa/file_1/1"
BLOB = "blobs/ab/cd/abcd"
PART = os.urandom(PART_BYTES)


@pytest.fixture
def prefix() -> str:
    return new_id("test")


@pytest.fixture
def backend(s3: S3Server, prefix: str, tmp_path: Path) -> S3Backend:
    return S3Backend(s3.bucket(prefix), tmp_path / "spool")


@pytest.fixture
def stopped(s3: S3Server) -> Iterator[Callable[[], None]]:
    """Makes the server hang, until the test is over."""

    def stop() -> None:
        s3.process.send_signal(signal.SIGSTOP)
        tasks = Path(f"/proc/{s3.process.pid}/task")
        while not all(") T " in (task / "stat").read_text() for task in tasks.iterdir()):
            time.sleep(0.01)

    yield stop
    s3.process.send_signal(signal.SIGCONT)


async def put(backend: S3Backend, key: str, *pieces: bytes) -> None:
    async with backend.receive(key) as incoming:
        for piece in pieces:
            await incoming.write(piece)
        await incoming.finish()
        await incoming.keep(key)


@pytest.mark.parametrize("key", ["", KEY], ids=["unknown", "known"])
@pytest.mark.parametrize("parts", [1, 2])
async def test_a_broken_reception_leaves_nothing(
    s3: S3Server, backend: S3Backend, prefix: str, key: str, parts: int
) -> None:
    async def broken() -> None:
        async with backend.receive(key) as incoming:
            for _ in range(parts):
                await incoming.write(PART)
            await incoming.write(b"more")
            assert len(s3.uploads(prefix)) == 1
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await broken()
    assert (s3.uploads(prefix), s3.keys(prefix)) == ([], [])


@pytest.mark.parametrize("seconds", [0.0, 0.01, 0.03, 0.1, 0.2])
async def test_a_cancelled_reception_leaves_nothing(
    s3: S3Server, backend: S3Backend, prefix: str, seconds: float
) -> None:
    writing = asyncio.Event()

    async def endless() -> None:
        async with backend.receive(KEY) as incoming:
            while True:
                writing.set()
                await incoming.write(PART)

    task = asyncio.create_task(endless())
    await writing.wait()
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert (s3.uploads(prefix), s3.keys(prefix)) == ([], [])


async def test_a_large_blob_lies_under_its_key_only(s3: S3Server, backend: S3Backend, prefix: str) -> None:
    async with backend.receive() as incoming:
        await incoming.write(PART + b"more")
        await incoming.keep(BLOB)
    assert (s3.uploads(prefix), s3.keys(prefix)) == ([], [BLOB])


async def test_uploads_of_a_killed_process_are_aborted_when_they_are_old(
    s3: S3Server, backend: S3Backend, prefix: str, tmp_path: Path
) -> None:
    neighbours = S3Backend(s3.bucket(f"{prefix}-too"), tmp_path)
    async with backend.receive(KEY) as one, backend.receive() as two, neighbours.receive(KEY) as other:
        for incoming in (one, two, other):
            await incoming.write(PART)
        assert len(s3.uploads(prefix)) == 3
        for incoming in (one, two, other):
            incoming._writer = None  # as if nobody were there to abort them
        assert await backend.delete_old("incoming", datetime.now(UTC) - timedelta(hours=1)) == 0
        assert len(s3.uploads(prefix)) == 3
        assert await backend.delete_old("incoming", datetime.now(UTC) + timedelta(hours=1)) == 2
    assert s3.uploads(prefix) == [f"{prefix}-too/{KEY}"]
    assert await neighbours.delete_old("incoming", datetime.now(UTC) + timedelta(hours=1)) == 1
    assert await backend.delete_old("incoming", datetime.now(UTC) + timedelta(hours=1)) == 0


async def test_what_a_killed_process_left_of_a_large_blob_is_old_some_day(backend: S3Backend) -> None:
    await put(backend, "incoming/0", b"left")
    assert await backend.delete_old("incoming", datetime.now(UTC)) == 0
    await asyncio.sleep(1.1)
    assert await backend.delete_old("incoming", datetime.now(UTC)) == 1


async def test_nothing_is_deleted_as_old_while_it_is_put_again(backend: S3Backend) -> None:
    """The sweeper has listed it as old; then it is put; then the sweeper comes to delete it."""
    await put(backend, BLOB, b"same")
    await asyncio.sleep(2.1)
    before = datetime.now(UTC)
    await asyncio.sleep(1.1)
    async with backend.turn(BLOB):
        sweeping = asyncio.create_task(backend.delete_old("blobs", before))
        await asyncio.sleep(0.2)
        assert not sweeping.done()
        await asyncio.create_task(_unlocked_put(backend, BLOB))
    assert await sweeping == 0
    assert await backend.size(BLOB) == 4


async def _unlocked_put(backend: S3Backend, key: str) -> None:
    """As `keep` does while it has its turn."""
    async with backend.receive(key) as incoming:
        await incoming._keep(key, b"same")


async def test_a_link_is_good_for_its_bytes_with_name_and_type(backend: S3Backend) -> None:
    await put(backend, KEY, b"0123456789")
    shown = disposition("grüße ../x.pdf")
    link = backend.link(KEY, "application/pdf; a=b", shown)
    assert link is not None
    assert KEYS.secret_access_key not in link
    async with httpx.AsyncClient(trust_env=False) as http:
        answer = await http.get(link)
        assert (answer.status_code, answer.content) == (200, b"0123456789")
        assert answer.headers["content-type"] == "application/pdf; a=b"
        assert answer.headers["content-disposition"] == shown
        answer = await http.get(link, headers={"range": "bytes=2-4"})
        assert (answer.status_code, answer.content) == (206, b"234")
        for forged in (link.replace("files/aa", "files/ab"), link.replace("pdf", "xml"), link + "0"):
            assert (await http.get(forged)).status_code == 403
        assert (await http.put(link, content=b"mine")).status_code == 403
    assert await backend.size(KEY) == 10


def test_no_link_where_there_is_nothing_to_sign_with(s3: S3Server, tmp_path: Path) -> None:
    for changes in ({"redirect": False}, {"credentials": None}):
        assert S3Backend(s3.bucket(**changes), tmp_path).link(KEY, "a/b", "attachment") is None


async def fails_soon(step: Awaitable[object], seconds: float = 1.5) -> Unavailable:
    """How it failed: typed, and within so many seconds."""
    begun = time.monotonic()
    with pytest.raises(Unavailable) as caught:
        await step
    assert time.monotonic() - begun < seconds
    return caught.value


async def opened(backend: S3Backend) -> None:
    async with backend.open(KEY):
        pass


STEPS: list[Callable[[S3Backend], Awaitable[object]]] = [
    lambda backend: backend.size(KEY),
    lambda backend: backend.delete(KEY),
    lambda backend: backend.delete_all("files"),
    lambda backend: backend.delete_old("files", datetime.now(UTC)),
    lambda backend: backend.delete_old("incoming", datetime.now(UTC)),
    lambda backend: put(backend, KEY, b"small"),
    lambda backend: put(backend, KEY, PART, PART),
    opened,
]
NAMES = ["size", "delete", "delete_all", "delete_old", "leftovers", "small", "large", "open"]


@pytest.mark.parametrize("step", STEPS, ids=NAMES)
async def test_away(s3: S3Server, tmp_path: Path, step: Callable[[S3Backend], Awaitable[object]]) -> None:
    backend = S3Backend(s3.bucket(endpoint="http://127.0.0.1:9"), tmp_path)
    problem = await fails_soon(step(backend))
    assert problem.code == "unavailable"


@pytest.fixture
def unreachable() -> Iterator[str]:
    """An address at which nobody answers, not even with a refusal: its queue is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            caller.connect_ex(listener.getsockname())
        time.sleep(0.1)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@pytest.mark.parametrize("step", [STEPS[0], STEPS[5], STEPS[6]], ids=["size", "small", "large"])
async def test_unreachable(
    s3: S3Server, tmp_path: Path, unreachable: str, step: Callable[[S3Backend], Awaitable[object]]
) -> None:
    await fails_soon(step(S3Backend(s3.bucket(endpoint=unreachable), tmp_path)))


@pytest.mark.parametrize("step", STEPS, ids=NAMES)
async def test_refused(s3: S3Server, tmp_path: Path, step: Callable[[S3Backend], Awaitable[object]]) -> None:
    wrong = Credentials(KEYS.access_key_id, "not the secret")
    backend = S3Backend(s3.bucket(credentials=lambda: wrong), tmp_path)
    problem = await fails_soon(step(backend))
    assert "may not use" in problem.message or "S3 answered 403" in problem.message


@asynccontextmanager
async def answering(answer: bytes, heads: list[bytes] | None = None) -> AsyncIterator[str]:
    """The address of a server that says this to whatever it is asked; it notes that in `heads`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if heads is not None:
            heads.append(head)
        writer.write(answer)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


NO_BUCKET = b"<?xml version='1.0'?><Error><Code>NoSuchBucket</Code><Message>no</Message></Error>"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 503 Slow Down\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 500 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 301 Elsewhere\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
        b"HTTP/1.1 404 No\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%s" % (len(NO_BUCKET), NO_BUCKET),
        b"no HTTP at all\r\n\r\n",
        b"",
    ],
    ids=["503", "500", "301", "bucket", "nonsense", "nothing"],
)
async def test_whatever_a_server_says_is_typed(s3: S3Server, tmp_path: Path, answer: bytes) -> None:
    async with answering(answer) as endpoint:
        backend = S3Backend(s3.bucket(endpoint=endpoint), tmp_path)
        await fails_soon(put(backend, KEY, b"small"), 3)
        await fails_soon(opened(backend), 3)


async def test_slow(backend: S3Backend, stopped: Callable[[], None]) -> None:
    await put(backend, KEY, b"data")
    stopped()
    steps = (backend.size(KEY), put(backend, KEY, b"small"), opened(backend), backend.delete_all("files"))
    await asyncio.gather(*(fails_soon(step, 7) for step in steps))


async def test_an_answer_that_breaks_off_is_no_end(s3: S3Server, tmp_path: Path) -> None:
    fields = b'content-length: 1000000\r\netag: "x"\r\nlast-modified: Thu, 01 Jan 2026 00:00:00 GMT'
    async with answering(b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n\r\n" + b"x" * 400_000) as endpoint:
        backend = S3Backend(s3.bucket(endpoint=endpoint), tmp_path)
        async with backend.open(KEY) as reader:
            assert reader.size == 1_000_000
            assert await reader.read(0, 250_000) == b"x" * 250_000
            with pytest.raises(Unavailable):
                await reader.read(250_000, 250_000)


async def test_what_was_filled_anew_is_never_mixed(backend: S3Backend) -> None:
    await put(backend, BLOB, b"1" * 3_000_000)
    async with backend.open(BLOB) as reader:
        assert await reader.read(0, 10) == b"1" * 10
        await put(backend, BLOB, b"2" * 3_000_000)
        with pytest.raises(Unavailable):
            await reader.read(2_000_000, 10)
    async with backend.open(BLOB) as reader:
        await backend.delete(BLOB)
        with pytest.raises(Unavailable):
            await reader.read(2_000_000, 10)


async def test_a_rotated_key_is_used_from_now_on(s3: S3Server, tmp_path: Path) -> None:
    now = [Credentials(KEYS.access_key_id, "old")]
    backend = S3Backend(s3.bucket(credentials=lambda: now[0]), tmp_path)
    await fails_soon(backend.size(KEY))
    now[0] = KEYS
    assert await backend.size(KEY) is None


async def test_the_credentials_of_a_role(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a container on EKS has them. They can't be looked at, so there is no link."""
    found = {
        "AccessKeyId": KEYS.access_key_id,
        "SecretAccessKey": KEYS.secret_access_key,
        "Token": "",
        "Expiration": "2099-01-01T00:00:00Z",
    }
    text = json.dumps(found).encode()
    head = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    (tmp_path / "token").write_text("of the container")
    asked: list[bytes] = []
    async with answering(head % len(text) + text, asked) as address:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", address)
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "token"))
        backend = S3Backend(s3.bucket(new_id("test"), credentials=None), tmp_path / "spool")
        await put(backend, KEY, b"data")
        assert await backend.size(KEY) == 4
    assert b"of the container" in asked[0]
    assert backend.link(KEY, "a/b", "attachment") is None


async def test_the_buckets_name_in_the_servers(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a proxy, which is told the whole address; the operator's proxy is heeded."""
    heads: list[bytes] = []
    async with answering(b"HTTP/1.1 502 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", heads) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        backend = S3Backend(s3.bucket(endpoint="http://s3.example:90", path_style=False), tmp_path)
        link = backend.link(KEY, "a/b", "attachment")
        assert link is not None
        assert link.startswith(f"http://mesh.s3.example:90/{KEY}?")
        with pytest.raises(Unavailable):
            await backend.size(KEY)
    assert heads[0].startswith(f"HEAD http://mesh.s3.example:90/{KEY} HTTP/1.1\r\n".encode())


async def test_it_says_whether_the_bucket_can_be_used(
    s3: S3Server, backend: S3Backend, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    await backend.announce()
    wrong = Credentials(KEYS.access_key_id, "not the secret")
    await S3Backend(s3.bucket(credentials=lambda: wrong), tmp_path).announce()
    said = capfd.readouterr()
    assert "s3.ready" in said.out + said.err
    assert "s3.unusable" in said.out + said.err
    assert "not the secret" not in said.out + said.err


async def test_an_object_of_nobody_isnt_found(backend: S3Backend) -> None:
    with pytest.raises(NotFound):
        await opened(backend)
