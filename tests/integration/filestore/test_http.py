"""Files over plain HTTP, on a real uvicorn, disk and SQLite."""

import asyncio
import hashlib
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from mesh.filestore.v1 import files_pb2, files_pb2_grpc

from filestore.settings import Settings
from kit.errors import Invalid
from kit.rpc_client import connect, unary
from migrations.__main__ import upgrade
from tests.integration.filestore.conftest import Service, over, running, until
from tests.integration.service_process import service_process

TEN = b"0123456789"
MIB = 1024 * 1024


async def uploaded(service: Service, content: bytes = TEN, name: str = "ten.txt", kind: str = "text/plain") -> str:
    """The download address of a file."""
    made = await service.create(name)
    answer = await service.http.put(made.upload_uri, content=content, headers={"content-type": kind})
    assert answer.status_code == 200
    return made.download_uri


def check_problem(answer: httpx.Response, status: int, code: str) -> None:
    body = json.loads(answer.text)
    assert (answer.status_code, body["code"], set(body)) == (status, code, {"detail", "code"})
    assert answer.headers["error-origin"] == "runtime"
    assert answer.headers["content-type"] == "application/json"


async def test_every_answer_bears_its_ids_once(service: Service) -> None:
    uri = await uploaded(service)
    for method, address in (("GET", uri), ("HEAD", uri), ("GET", f"{uri}0"), ("DELETE", uri)):
        answer = await service.http.request(method, address, headers={"x-correlation-id": "mine"})
        assert [len(answer.headers.get_list(name)) for name in ("x-request-id", "x-correlation-id")] == [1, 1]
        assert answer.headers["x-request-id"].startswith("req_")
        assert answer.headers["x-correlation-id"] == "mine"
    alone = await service.http.get(uri)
    assert alone.headers["x-correlation-id"] == alone.headers["x-request-id"]


async def test_addresses_are_under_the_public_url(service: Service) -> None:
    made = await service.create("a b.txt")
    assert made.upload_uri.startswith("http://runmesh.example/files/file_")
    assert "/a%20b.txt?signature=" in made.download_uri
    assert dict(made.upload_headers) == {}


async def test_a_bad_name_is_refused(service: Service) -> None:
    with pytest.raises(Invalid):
        await service.create("a\nb")


async def test_up_and_down_unchanged_with_type_and_name(service: Service) -> None:
    content = os.urandom(3 * MIB + 17)
    uri = await uploaded(service, content, "grüße ../x.pdf", "application/pdf; a=b")
    answer = await service.http.get(uri)
    assert answer.content == content
    assert answer.headers["content-type"] == "application/pdf; a=b"
    assert answer.headers["etag"] == f'"{hashlib.sha256(content).hexdigest()}"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    shown = "attachment; filename=\"gr__e .._x.pdf\"; filename*=UTF-8''gr%C3%BC%C3%9Fe%20..%2Fx.pdf"
    assert answer.headers["content-disposition"] == shown
    head = await service.http.head(uri)
    assert (head.status_code, head.content, head.headers["content-length"]) == (200, b"", str(len(content)))


async def test_a_chunked_upload_an_empty_one_and_the_acl_header(service: Service) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"x" * 10_000

    made = await service.create()
    assert (await service.http.put(made.upload_uri, content=pieces())).status_code == 200
    assert (await service.http.get(made.download_uri)).content == b"x" * 1_000_000
    made = await service.create()
    answer = await service.http.put(made.upload_uri, headers={"x-amz-acl": "public-read"})
    assert answer.status_code == 200
    answer = await service.http.get(made.download_uri, headers={"range": "bytes=0-"})
    assert answer.status_code == 416
    answer = await service.http.get(made.download_uri)
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("header", "content", "content_range"),
    [
        ("bytes=0-3", b"0123", "bytes 0-3/10"),
        ("bytes=-2", b"89", "bytes 8-9/10"),
        ("bytes=4-", b"456789", "bytes 4-9/10"),
        ("bytes=0-1,1-4", b"01234", "bytes 0-4/10"),
    ],
)
async def test_one_range(service: Service, header: str, content: bytes, content_range: str) -> None:
    answer = await service.http.get(await uploaded(service), headers={"range": header})
    assert (answer.status_code, answer.content) == (206, content)
    assert answer.headers["content-range"] == content_range


async def test_several_ranges(service: Service) -> None:
    answer = await service.http.get(await uploaded(service), headers={"range": "bytes=7-8,0-1"})
    assert answer.status_code == 206
    kind, _, boundary = answer.headers["content-type"].partition("; boundary=")
    assert kind == "multipart/byteranges"
    parts = answer.content.split(f"\r\n--{boundary}".encode())
    heads = [f"\r\nContent-Type: text/plain\r\nContent-Range: bytes {span}/10\r\n\r\n" for span in ("0-1", "7-8")]
    assert parts == [b"", heads[0].encode() + b"01", heads[1].encode() + b"78", b"--\r\n"]
    assert answer.headers["content-length"] == str(len(answer.content))


async def test_ranges_beyond_the_end_and_senseless_ones(service: Service) -> None:
    uri = await uploaded(service)
    answer = await service.http.get(uri, headers={"range": "bytes=10-"})
    check_problem(answer, 416, "bad_request")
    assert answer.headers["content-range"] == "bytes */10"
    answer = await service.http.get(uri, headers={"range": "bytes=x"})
    assert (answer.status_code, answer.content) == (200, TEN)


async def test_conditions(service: Service) -> None:
    uri = await uploaded(service)
    etag = (await service.http.head(uri)).headers["etag"]
    answer = await service.http.get(uri, headers={"if-none-match": f'"x", W/{etag}'})
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", etag)
    assert (await service.http.get(uri, headers={"if-none-match": '"x"'})).status_code == 200
    answer = await service.http.get(uri, headers={"range": "bytes=0-1", "if-range": etag})
    assert answer.status_code == 206
    answer = await service.http.get(uri, headers={"range": "bytes=0-1", "if-range": '"x"'})
    assert (answer.status_code, answer.content) == (200, TEN)


async def test_forged_and_old_addresses(service: Service) -> None:
    made = await service.create()
    check_problem(await service.http.get(made.download_uri), 404, "not_found")  # nothing there yet
    check_problem(await service.http.put(made.upload_uri + "0", content=b"1"), 403, "forbidden")
    check_problem(await service.http.put(urlsplit(made.upload_uri)._replace(query="").geturl()), 403, "forbidden")
    await service.clock.advance(3600)
    check_problem(await service.http.put(made.upload_uri, content=b"1"), 403, "forbidden")
    uri = await uploaded(service)
    check_problem(await service.http.get(uri + "0"), 404, "not_found")
    check_problem(await service.http.get("http://x/files/file_x/a?signature=1"), 404, "not_found")
    check_problem(await service.http.get("http://x/files/%00/a?signature=1"), 404, "not_found")
    check_problem(await service.http.get("http://x/elsewhere"), 404, "not_found")
    again = await service.create()
    await service.http.put(again.upload_uri, content=b"1")
    check_problem(await service.http.put(again.upload_uri, content=b"2"), 409, "conflict")


async def test_other_methods(service: Service) -> None:
    made = await service.create()
    for method, uri in (("POST", made.upload_uri), ("GET", made.upload_uri), ("DELETE", made.download_uri)):
        answer = await service.http.request(method, uri)
        check_problem(answer, 405, "method_not_allowed")
        assert answer.json()["detail"] == f"{method} isn't possible here; {answer.headers['allow']} is"
    assert answer.headers["allow"] == "GET, HEAD"


async def test_too_large(service: Service) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x" * MIB

    made = await service.create()
    check_problem(await service.http.put(made.upload_uri, content=b"x" * (4 * MIB + 1)), 413, "too_large")
    check_problem(await service.http.put(made.upload_uri, content=endless()), 413, "too_large")
    answer = await service.http.put(made.upload_uri, content=b"x", headers={"content-range": "bytes 0-0/2"})
    check_problem(answer, 400, "bad_request")
    assert service.on_disk() == []
    assert (await service.http.put(made.upload_uri, content=b"x" * 4 * MIB)).status_code == 200


async def begin_upload(service: Service, uri: str, size: int) -> socket.socket:
    """A connection that has sent the head and `size` bytes of a body of 4 MiB."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(service.settings.http_socket))
    url = urlsplit(uri)
    head = f"PUT {url.path}?{url.query} HTTP/1.1\r\nhost: x\r\ncontent-length: {4 * MIB}\r\n\r\n"
    await asyncio.to_thread(connection.sendall, head.encode() + b"x" * size)
    await service.until_on_disk(1)
    return connection


async def test_a_broken_upload_leaves_nothing_and_may_be_repeated(service: Service) -> None:
    made = await service.create()
    (await begin_upload(service, made.upload_uri, MIB)).close()
    await service.until_on_disk(0)
    check_problem(await service.http.get(made.download_uri), 404, "not_found")
    assert (await service.http.put(made.upload_uri, content=TEN)).status_code == 200
    assert (await service.http.get(made.download_uri)).content == TEN


async def test_of_two_uploads_at_once_one_counts(service: Service) -> None:
    made = await service.create()
    contents = [bytes([n]) * MIB for n in range(5)]
    answers = await asyncio.gather(*(service.http.put(made.upload_uri, content=content) for content in contents))
    assert sorted(answer.status_code for answer in answers) == [200, 409, 409, 409, 409]
    winner = next(n for n, answer in enumerate(answers) if answer.status_code == 200)
    assert (await service.http.get(made.download_uri)).content == contents[winner]
    assert len(service.on_disk()) == 1


async def test_files_go_after_seven_days(service: Service) -> None:
    uri = await uploaded(service)
    await service.clock.advance(7 * 24 * 3600)
    await service.until_on_disk(0)
    check_problem(await service.http.get(uri), 404, "not_found")


async def test_a_reader_that_hangs_up_leaves_no_open_file(service: Service) -> None:
    uri = await uploaded(service, b"x" * 4 * MIB)

    def opened() -> int:
        return sum("/files/" in os.path.realpath(link) for link in Path("/proc/self/fd").iterdir())

    async with service.http.stream("GET", uri) as answer:
        assert answer.status_code == 200
        assert opened() == 1
    await until(lambda: opened() == 0)


async def test_all_is_there_after_a_restart_but_leftovers(settings: Settings) -> None:
    async with running(settings) as service:
        uri = await uploaded(service)
    leftover = settings.storage / "files" / "incoming" / "tmp123"
    leftover.write_bytes(b"half")
    async with running(settings) as service:
        assert not leftover.exists()
        assert (await service.http.get(uri)).content == TEN


def takes_calls(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        return connection.connect_ex(str(path)) == 0


async def test_sigterm_lets_an_upload_end_and_breaks_off_one_that_doesnt(settings: Settings) -> None:
    await asyncio.to_thread(upgrade, "filestore", settings.database_url("filestore"))
    env = {"RUNMESH_HOME": str(settings.home), "RUNMESH_DRAIN_SECONDS": "4"}
    more = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"x" * MIB
        await more.wait()
        yield b"y"

    async def stuck() -> AsyncIterator[bytes]:
        yield b"x" * MIB
        await asyncio.Event().wait()

    with service_process("filestore", **env) as process:
        async with over(settings.http_socket) as http, connect(settings.address("filestore")) as channel:
            stub = files_pb2_grpc.FilesStub(channel)
            request = files_pb2.CreateFileRequest(organization_id="org_a", file_name="x")
            one, two = await unary(stub.CreateFile, request), await unary(stub.CreateFile, request)
            ending = asyncio.create_task(http.put(one.upload_uri, content=slow()))
            hanging = asyncio.create_task(http.put(two.upload_uri, content=stuck()))
            incoming = settings.storage / "files" / "incoming"
            await until(lambda: sum(path.stat().st_size >= MIB // 2 for path in incoming.iterdir()) == 2)
            process.send_signal(signal.SIGTERM)
            await until(lambda: not takes_calls(settings.http_socket))
            more.set()
            assert (await ending).status_code == 200
            _, said = await asyncio.to_thread(process.communicate, timeout=15)
            hanging.cancel()
            await asyncio.gather(hanging, return_exceptions=True)
    assert process.returncode == 0, said
    assert [path.parent.name for path in (settings.storage / "files").rglob("*") if path.is_file()] == [
        urlsplit(one.upload_uri).path.split("/")[2]
    ]
