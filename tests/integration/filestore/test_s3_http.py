"""The filestore as it runs, with its bytes in a bucket of a real S3 server."""

import asyncio
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from urllib.parse import urlsplit

import grpc
import httpx
import pytest
from mesh.filestore.v1 import blobs_pb2

from filestore.bucket import Place
from filestore.s3 import PART_BYTES, S3Backend
from filestore.s3_settings import Secret
from filestore.settings import Settings
from filestore.sigv4 import presigned
from kit.errors import Unavailable
from kit.names import new_id
from kit.rpc_client import stream, unary
from kit.settings import BadSettings
from tests.integration.filestore.conftest import Service, running, until
from tests.s3_server import BUCKET, KEYS, Forwarding, S3Server, free_ports

TEN = b"0123456789"
LARGE = PART_BYTES * 2 + 12_345


@dataclass
class OnS3:
    """A running filestore, and where its bytes lie."""

    service: Service
    server: S3Server
    prefix: str
    outside: httpx.AsyncClient

    def keys(self, under: str = "") -> list[str]:
        return [key for key in self.server.keys(self.prefix) if key.startswith(under)]

    def nothing_is_left(self) -> bool:
        return not self.keys() and not self.server.uploads(self.prefix)

    async def uploaded(self, content: bytes = TEN, name: str = "ten.txt", kind: str = "text/plain") -> str:
        """The download address of a file."""
        made = await self.service.create(name)
        answer = await self.service.http.put(made.upload_uri, content=content, headers={"content-type": kind})
        assert answer.status_code == 200, answer.text
        return made.download_uri

    async def followed(self, uri: str, **headers: str) -> httpx.Response:
        """What the redirect leads to."""
        answer = await self.service.http.get(uri, headers=headers)
        assert answer.status_code == 307, answer.text
        return await self.outside.get(answer.headers["location"], headers=headers)


def on_s3(settings: Settings, server: S3Server, prefix: str) -> Settings:
    return replace(
        settings,
        files_url=Place(BUCKET, prefix),
        s3_endpoint=server.url,
        access_key_id=KEYS.access_key_id,
        secret_access_key=Secret(KEYS.secret_access_key),
        max_file_bytes=32 * 1024 * 1024,
        max_blob_bytes=32 * 1024 * 1024,
    )


@pytest.fixture
async def there(settings: Settings, s3: S3Server) -> AsyncIterator[OnS3]:
    prefix = new_id("test")
    async with running(on_s3(settings, s3, prefix)) as service, httpx.AsyncClient(trust_env=False) as outside:
        yield OnS3(service, s3, prefix, outside)


def check_problem(answer: httpx.Response, status: int, code: str) -> None:
    body = json.loads(answer.text)
    assert (answer.status_code, body["code"], set(body)) == (status, code, {"detail", "code"})
    assert answer.headers["error-origin"] == "runtime"


async def test_what_passes_the_quota_leaves_nothing(settings: Settings, s3: S3Server) -> None:
    prefix, most = new_id("test"), LARGE + 10
    limited = replace(on_s3(settings, s3, prefix), organization_file_bytes=most)

    async def pieces(size: int) -> AsyncIterator[bytes]:
        for start in range(0, size, PART_BYTES):
            yield b"x" * min(PART_BYTES, size - start)

    async with running(limited) as service, httpx.AsyncClient(trust_env=False) as outside:
        there = OnS3(service, s3, prefix, outside)
        made = [await service.create() for _ in range(4)]
        check_problem(await service.http.put(made[0].upload_uri, content=pieces(most + 1)), 413, "too_large")
        check_problem(await service.http.put(made[0].upload_uri, content=b"x" * (most + 1)), 413, "too_large")
        assert there.nothing_is_left()
        # Who doesn't say its size takes room step by step: of several each may be in the way of the others.
        sent = await asyncio.gather(*(service.http.put(one.upload_uri, content=pieces(LARGE)) for one in made))
        kept = [answer.status_code for answer in sent].count(200)
        assert sorted(answer.status_code for answer in sent) == [200] * kept + [413] * (4 - kept)
        assert (len(there.keys()), s3.uploads(prefix)) == (kept, [])
        assert kept <= 1


async def test_of_uploads_that_say_their_size_those_that_fit_are_kept(settings: Settings, s3: S3Server) -> None:
    prefix = new_id("test")
    limited = replace(on_s3(settings, s3, prefix), organization_file_bytes=LARGE + 10)
    async with running(limited) as service, httpx.AsyncClient(trust_env=False) as outside:
        there = OnS3(service, s3, prefix, outside)
        made = [await service.create() for _ in range(4)]
        sent = await asyncio.gather(*(service.http.put(one.upload_uri, content=b"x" * LARGE) for one in made))
        assert sorted(answer.status_code for answer in sent) == [200, 413, 413, 413]
        assert (len(there.keys()), s3.uploads(prefix)) == (1, [])


@pytest.mark.parametrize("size", [0, 10, PART_BYTES, LARGE])
async def test_up_and_down_unchanged_with_type_and_name(there: OnS3, size: int) -> None:
    content = os.urandom(size)
    uri = await there.uploaded(content, "grüße ../x.pdf", "application/pdf; a=b")
    answer = await there.followed(uri)
    assert (answer.status_code, answer.content) == (200, content)
    assert answer.headers["content-type"] == "application/pdf; a=b"
    shown = "attachment; filename=\"gr__e .._x.pdf\"; filename*=UTF-8''gr%C3%BC%C3%9Fe%20..%2Fx.pdf"
    assert answer.headers["content-disposition"] == shown
    head = await there.service.http.head(uri)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(size))
    assert head.headers["etag"] == f'"{hashlib.sha256(content).hexdigest()}"'
    assert len(there.keys("files/")) == 1


async def test_the_redirect_is_short_lived_and_kept_by_nobody(there: OnS3) -> None:
    uri = await there.uploaded()
    answer = await there.service.http.get(uri)
    assert answer.headers["cache-control"] == "private, no-store"
    assert urlsplit(answer.headers["location"]).netloc == urlsplit(there.server.url).netloc
    assert "X-Amz-Expires=300&" in answer.headers["location"]
    again = await there.service.http.get(uri)
    assert again.headers["location"].split("Signature=")[1]
    check_problem(await there.service.http.get(f"{uri}0"), 404, "not_found")


async def test_ranges_and_conditions(there: OnS3) -> None:
    uri = await there.uploaded()
    part = await there.followed(uri, range="bytes=2-4")
    assert (part.status_code, part.content, part.headers["content-range"]) == (206, b"234", "bytes 2-4/10")
    etag = (await there.service.http.head(uri)).headers["etag"]
    http = there.service.http
    answer = await http.get(uri, headers={"if-none-match": etag})
    assert (answer.status_code, answer.content) == (304, b"")
    answer = await http.get(uri, headers={"range": "bytes=2-4", "if-range": etag})  # S3 doesn't know this one
    assert (answer.status_code, answer.content) == (206, b"234")
    answer = await http.get(uri, headers={"range": "bytes=7-8,0-1"})  # … and not several
    assert (answer.status_code, answer.content.count(b"Content-Range: bytes ")) == (206, 2)
    answer = await http.get(uri, headers={"range": "bytes=10-"})
    check_problem(answer, 416, "bad_request")
    theirs = (await there.followed(uri)).headers["etag"]
    assert (await there.followed(uri, **{"if-none-match": theirs})).status_code == 304
    part = await there.followed(uri, **{"range": "bytes=2-4", "if-range": theirs})
    assert (part.status_code, part.content) == (206, b"234")


async def test_a_sandbox_gets_the_bytes_here(there: OnS3) -> None:
    content = os.urandom(LARGE)
    uri = await there.uploaded(content, kind="application/x")
    inside = {"x-runmesh-nested": "1"}
    answer = await there.service.http.get(uri, headers=inside)
    assert (answer.status_code, answer.content) == (200, content)
    assert answer.headers["content-type"] == "application/x"
    assert answer.headers["content-disposition"].startswith("attachment")
    answer = await there.service.http.get(uri, headers={**inside, "range": "bytes=6000000-"})
    assert (answer.status_code, answer.content) == (206, content[6_000_000:])


async def test_where_callers_dont_reach_the_bucket(settings: Settings, s3: S3Server) -> None:
    prefix = new_id("test")
    quiet = replace(on_s3(settings, s3, prefix), s3_redirect=False)
    async with running(quiet) as service, httpx.AsyncClient() as outside:
        there = OnS3(service, s3, prefix, outside)
        answer = await service.http.get(await there.uploaded())
        assert (answer.status_code, answer.content) == (200, TEN)


async def test_what_was_on_the_disk_is_there_when_it_was_copied(settings: Settings, s3: S3Server) -> None:
    prefix = new_id("test")
    async with running(settings) as service, httpx.AsyncClient(trust_env=False) as outside:
        on_disk = OnS3(service, s3, prefix, outside)
        uri = await on_disk.uploaded(TEN, "grüße.txt", "text/x")
        source = await put_blob(service, b"app = 1", lasting=True)
        copied = S3Backend(s3.bucket(prefix), settings.home / "spool")
        for path in [path for name in ("files", "lasting") for path in (settings.home / name).rglob("*")]:
            if path.is_file():
                async with copied.receive() as incoming:
                    await incoming.write(path.read_bytes())
                    await incoming.keep(str(path.relative_to(settings.home)))
    async with running(on_s3(settings, s3, prefix)) as service, httpx.AsyncClient(trust_env=False) as outside:
        answer = await OnS3(service, s3, prefix, outside).followed(uri)
        assert (answer.content, answer.headers["content-type"]) == (TEN, "text/x")
        assert "gr%C3%BC%C3%9Fe.txt" in answer.headers["content-disposition"]
        assert await get_blob(service, source.digest) == b"app = 1"


@pytest.mark.parametrize("limit", [{"max_file_bytes": 60 * 1024**3}, {"max_blob_bytes": 6 * 1024**3}])
async def test_limits_beyond_what_s3_takes_are_refused_at_the_start(
    settings: Settings, s3: S3Server, limit: dict[str, int]
) -> None:
    with pytest.raises(BadSettings, match="in a bucket at most"):
        async with running(replace(on_s3(settings, s3, "none"), **limit)):  # type: ignore[arg-type]  # fields are many
            pass


async def test_too_large(there: OnS3) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(33):
            yield b"x" * 1024 * 1024

    made = await there.service.create()
    check_problem(await there.service.http.put(made.upload_uri, content=endless()), 413, "too_large")
    await until(there.nothing_is_left)
    assert (await there.service.http.put(made.upload_uri, content=TEN)).status_code == 200


@pytest.mark.parametrize("size", [100, PART_BYTES, LARGE])
async def test_a_broken_upload_leaves_nothing_and_may_be_repeated(there: OnS3, size: int) -> None:
    made = await there.service.create()

    async def stuck() -> AsyncIterator[bytes]:
        yield b"x" * size
        await asyncio.Event().wait()

    sending = asyncio.create_task(there.service.http.put(made.upload_uri, content=stuck()))
    expected = 1 if size >= PART_BYTES else 0
    await until(lambda: len(there.server.uploads(there.prefix)) == expected)
    await asyncio.sleep(0.1)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await until(there.nothing_is_left)
    check_problem(await there.service.http.get(made.download_uri), 404, "not_found")
    assert (await there.service.http.put(made.upload_uri, content=TEN)).status_code == 200
    assert (await there.followed(made.download_uri)).content == TEN


async def test_of_two_uploads_at_once_one_counts(there: OnS3) -> None:
    made = await there.service.create()
    contents = [bytes([n]) * (LARGE if n % 2 else 1000) for n in range(5)]
    puts = [there.service.http.put(made.upload_uri, content=content) for content in contents]
    answers = await asyncio.gather(*puts)
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409]
    winner = next(n for n, answer in enumerate(answers) if answer.status_code == 200)
    assert (await there.followed(made.download_uri)).content == contents[winner]
    assert len(there.keys()) == 1
    assert there.server.uploads(there.prefix) == []


async def test_files_go_after_seven_days(there: OnS3) -> None:
    uri = await there.uploaded()
    await there.service.clock.advance(7 * 24 * 3600)
    await until(there.nothing_is_left)
    check_problem(await there.service.http.get(uri), 404, "not_found")


async def put_blob(service: Service, content: bytes, *, lasting: bool = False) -> blobs_pb2.PutBlobResponse:
    async def parts() -> AsyncIterator[blobs_pb2.PutBlobRequest]:
        for start in range(0, len(content), 1 << 20):
            yield blobs_pb2.PutBlobRequest(data=content[start : start + (1 << 20)], lasting=lasting)
        yield blobs_pb2.PutBlobRequest(lasting=lasting, whole=True)

    return await unary(service.blobs.PutBlob, parts())  # type: ignore[arg-type]  # a stream in


async def get_blob(service: Service, digest: str) -> bytes:
    request = blobs_pb2.GetBlobRequest(digest=digest)
    return b"".join([message.data async for message in stream(service.blobs.GetBlob, request, timeout=20)])


@pytest.mark.parametrize("size", [0, 1000, LARGE])
async def test_blobs_in_and_out(there: OnS3, size: int) -> None:
    content = os.urandom(size)
    for lasting, folder in ((False, "blobs"), (True, "lasting")):
        stored = await put_blob(there.service, content, lasting=lasting)
        digest = hashlib.sha256(content).hexdigest()
        assert (stored.digest, stored.size) == (digest, size)
        assert there.keys(folder) == [f"{folder}/{digest[:2]}/{digest[2:4]}/{digest}"]
    assert await get_blob(there.service, digest) == content
    assert len(there.keys()) == 2
    assert there.server.uploads(there.prefix) == []


async def test_a_blob_that_was_changed_in_the_bucket_is_not_handed_out_as_whole(there: OnS3) -> None:
    one, two = await put_blob(there.service, b"1" * 300_000), await put_blob(there.service, b"2" * 300_000)
    url = there.server.bucket(there.prefix).public_url(f"blobs/{one.digest[:2]}/{one.digest[2:4]}/{one.digest}")
    signed = presigned("PUT", url, {}, KEYS, region="us-east-1", now=datetime.now(UTC), seconds=60)
    assert (await there.outside.put(signed, content=b"2" * 300_000)).status_code == 200
    with pytest.raises(grpc.aio.AioRpcError):
        await get_blob(there.service, one.digest)
    assert await get_blob(there.service, two.digest) == b"2" * 300_000


async def test_away_and_back(settings: Settings, s3: S3Server) -> None:
    """The service starts without S3, says 503 within about a second, and needs no restart when S3 is there."""
    prefix, port = new_id("test"), free_ports(1)[0]
    away = replace(on_s3(settings, s3, prefix), s3_endpoint=f"http://127.0.0.1:{port}")
    async with running(away) as service, httpx.AsyncClient(trust_env=False) as outside:
        there = OnS3(service, s3, prefix, outside)
        made = await service.create()
        begun = time.monotonic()
        answer = await service.http.put(made.upload_uri, content=TEN)
        check_problem(answer, 503, "unavailable")
        assert answer.headers["retry-after"] == "1"
        with pytest.raises(Unavailable):
            await put_blob(service, TEN)
        with pytest.raises(Unavailable):
            await get_blob(service, "0" * 64)
        assert time.monotonic() - begun < 4
        async with Forwarding(port, s3.url):
            assert (await service.http.put(made.upload_uri, content=TEN)).status_code == 200
            assert (await there.followed(made.download_uri)).content == TEN
            stored = await put_blob(service, TEN)
            assert await get_blob(service, stored.digest) == TEN
        answer = await service.http.get(made.download_uri, headers={"x-runmesh-nested": "1"})
        check_problem(answer, 503, "unavailable")
        with pytest.raises(Unavailable):
            await get_blob(service, stored.digest)


async def test_secrets_are_not_in_the_log(settings: Settings, s3: S3Server, capfd: pytest.CaptureFixture[str]) -> None:
    wrong = replace(
        on_s3(settings, s3, new_id("test")), secret_access_key=Secret("mine+alone"), session_token=Secret("my+token")
    )
    async with running(wrong) as service:
        made = await service.create()
        for size in (10, LARGE):
            check_problem(await service.http.put(made.upload_uri, content=b"x" * size), 503, "unavailable")
    said = capfd.readouterr()
    assert "s3.refused" in said.out + said.err
    for secret in ("mine+alone", "my+token", "mine%2B", "my%2B"):
        assert secret not in said.out + said.err
