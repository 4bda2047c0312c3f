"""The public listener and what workflows answer: rows N5, N6, N8, N10 and S20 of docs/security.md."""

import json
import posixpath
import socket
import struct
import textwrap
import time
from contextlib import ExitStack, suppress
from urllib.parse import unquote, urlsplit

import pytest

from tests.e2e.mesh import Mesh
from tests.escape.attacks import WIRE, Attacker, outside, serves
from tests.escape.naive import exchanged, naive_server

pytestmark = pytest.mark.slow  # hundreds of slow callers take their time; `make test-all` has it


def connected(mesh: Mesh) -> socket.socket:
    host, _, port = mesh.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), 10)


def test_slow_callers(besieged: Mesh) -> None:
    """Heads and bodies that come a byte at a time, answers that nobody reads."""
    with ExitStack() as stack:
        slow = [stack.enter_context(connected(besieged)) for _ in range(300)]
        head = f"POST /run/attacker/ HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {besieged.key}\r\n".encode()
        for number, sock in enumerate(slow):
            sock.sendall(head if number % 2 else head + b"content-length: 1000\r\n\r\n")
        for _ in range(5):
            for number, sock in enumerate(slow):
                with suppress(OSError):
                    sock.sendall(b"x" if number % 2 == 0 else b"x-slow: 1\r\n")
            began = time.monotonic()
            serves(besieged)
            assert time.monotonic() - began < 3
    serves(besieged)


def test_one_slow_caller_holds_up_a_naive_server() -> None:
    """The positive control of those around it."""
    asked = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
    with naive_server() as naive:
        with socket.create_connection(naive) as slow:
            slow.sendall(b"GET / HTTP/1.1\r\n")
            assert exchanged(naive, asked, seconds=2) == ""
        assert "200 OK" in exchanged(naive, asked)


def test_a_head_that_never_ends_is_cut_off(besieged: Mesh) -> None:
    with connected(besieged) as sock:
        sock.settimeout(30)
        sock.sendall(b"GET /healthz HTTP/1.1\r\n")
        answer = sock.recv(1000)
    assert answer == b"" or b" 408 " in answer.splitlines()[0]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Of HTTP/2."""
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


HEADERS, PRIORITY, RESET, SETTINGS, PING, GOAWAY, WINDOW, CONTINUATION = 1, 2, 3, 4, 6, 7, 8, 9
# :method GET, :scheme http, :path /, :authority a
REQUEST = b"\x82\x86\x84\x41\x01a"
FLOODS = {
    "rapid reset": [
        frame(HEADERS, 5, number, REQUEST) + frame(RESET, 0, number, struct.pack("!I", 8))
        for number in range(1, 40001, 2)
    ],
    "settings": [frame(SETTINGS, 0, 0)] * 20000,
    "pings": [frame(PING, 0, 0, b"x" * 8)] * 20000,
    "priorities": [frame(PRIORITY, 0, number, b"\0\0\0\0\x01") for number in range(1, 40001, 2)],
    "windows": [frame(WINDOW, 0, 0, struct.pack("!I", 1))] * 20000,
    "continuations": [frame(HEADERS, 1, 1, REQUEST), *[frame(CONTINUATION, 0, 1, b"\x00\x01a\x01b" * 100)] * 5000],
    "empty continuations": [frame(HEADERS, 1, 1, REQUEST)] + [frame(CONTINUATION, 0, 1)] * 20000,
}


def test_a_few_frames_are_no_flood(besieged: Mesh) -> None:
    """The positive control of the next."""
    with connected(besieged) as sock:
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0) + frame(PING, 0, 0, b"answered") * 3)
        answer = b""
        while answer.count(b"answered") < 3:
            answer += sock.recv(1000)


@pytest.mark.parametrize("name", FLOODS)
def test_floods_of_frames(besieged: Mesh, name: str) -> None:
    """The connection is closed on whoever does that."""
    with connected(besieged) as sock:
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0))
        sock.settimeout(0.0)
        closed, left = False, b"".join(FLOODS[name])
        deadline = time.monotonic() + 20
        while not closed and time.monotonic() < deadline:
            try:
                left = left[sock.send(left[:65536]) :] if left else left
            except BlockingIOError:
                pass
            except OSError:
                closed = True
            with suppress(BlockingIOError):
                try:
                    closed = closed or not sock.recv(1 << 16)
                except ConnectionError:
                    closed = True
            time.sleep(0.001)
        serves(besieged)
    assert closed


def kinds(mesh: Mesh, value: bytes) -> set[int]:
    """Which frames answer a request with this value in a header, until its stream or the connection ends."""
    block = REQUEST + b"\x00\x01x" + bytes([len(value)]) + value
    found: set[int] = set()
    with connected(mesh) as sock, sock.makefile("rb") as reader:
        sock.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0) + frame(HEADERS, 5, 1, block))
        while (head := reader.read(9)) and len(head) == 9 and not found & {HEADERS, RESET, GOAWAY}:
            found.add(head[3])
            reader.read(int.from_bytes(head[:3], "big"))
    return found


@pytest.mark.parametrize("value", [b"a\r\nx-runmesh-run: evil", b"a\nb: c", b"a\0b", b"a\r"])
def test_lines_within_a_value_of_http2(besieged: Mesh, value: bytes) -> None:
    assert HEADERS in kinds(besieged, b"a b")  # an ordinary value is answered
    assert HEADERS not in kinds(besieged, value)
    serves(besieged)


PATHS = (
        "/run/neighbour/../attacker/", "/run/neighbour/%2e%2e/attacker/", "/run/neighbour/..%2fattacker/",
        "//run/attacker/", "/./run/attacker/", "/run//attacker/", "/run/./attacker/", "/RUN/attacker/",
        "/run%2Fattacker/", "/run/neighbour@1/../attacker/",
        "/run/neighbour%2F..%2Fattacker/", "/run/neighbour\\..\\attacker/", "/run/neighbour%5C..%5Cattacker/",
        "/run;x/attacker/", "/run/attacker;x/", "/run/attacker%00/", "/run/neighbour?service_id=attacker",
        "/run/neighbour?path=../attacker", "/run/neighbour/?id.service_id=attacker", "run/attacker/",
        "/run_async/attacker", "/api/v1/run/attacker", "http://a/run/attacker/", "/run/neighbour/#/run/attacker/",
)  # fmt: skip


def readings(path: str) -> set[str]:
    """What somebody might take a path for who tidies it up, once or twice, in one of the usual ways."""
    found = {path, urlsplit(path).path, "/" + path.lstrip("/"), path.partition("#")[2], path.replace("\\", "/")}
    found |= {f"/run/{value}/" for value in urlsplit(path).query.replace("../", "").split("=")[1:]}
    for _ in range(2):
        found |= {
            tidy for it in found for tidy in (unquote(it), it.lower(), it.replace("\\", "/"), it.partition("\0")[0])
        }
        found |= {"/".join(part.partition(";")[0] for part in it.split("/")) for it in found}
        found |= {posixpath.normpath("/" + it.lstrip("/")) for it in found}
    return found | {it.replace("/run_async/", "/run/").replace("/api/v1/", "/") for it in found}


def test_the_key_for_it_reaches_the_attacker(besieged: Mesh) -> None:
    """The positive control of the next; and each of its paths is the attacker's in somebody's reading."""
    with besieged.http(besieged.new_key(scopes=["run:attacker"])["key"]) as client:
        assert client.post("/run/attacker/", content=b"result = 'reached'").text == '"reached"'
    for path in PATHS:
        assert [it for it in readings(path) if it.rstrip("/") == "/run/attacker"], path


@pytest.mark.parametrize("path", PATHS)
def test_paths_that_mean_something_else_to_somebody(besieged: Mesh, path: str) -> None:
    """The key may run the neighbour only; whoever reads a path as the attacker's must have asked the key about it."""
    key = besieged.new_key(scopes=["run:neighbour"])["key"]
    body = b"result = 'reached'"
    with connected(besieged) as sock:
        head = f"POST {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\nauthorization: Bearer {key}\r\n"
        sock.sendall(head.encode() + f"content-length: {len(body)}\r\n\r\n".encode() + body)
        answer = b""
        with suppress(ConnectionError):
            while piece := sock.recv(65536):
                answer += piece
    head, _, content = answer.decode().partition("\r\n\r\n")
    assert "x-attack" not in head
    assert "reached" not in content
    assert int(head.split()[1]) in {200, 400, 403, 404, 405}
    if head.split()[1] == "200":
        assert "fine" in content


ANSWERS = {
    "endless": "request.sendall(head())\nwhile True: request.sendall(frame(b'D', b'x' * 65536))",
    "many headers": "request.sendall(head(200, *[[f'x-{n}', 'y' * 1000] for n in range(900)]))",
    "large header": "request.sendall(head(200, ['x', 'y' * 900000]))",
    "interim": "for _ in range(1000): request.sendall(head(103))",
    "deep": "request.sendall(head(200, ['content-type', 'application/json']) + frame(b'D', b'[' * 99999))",
    "switch": "request.sendall(head(101, ['upgrade', 'websocket'], ['connection', 'upgrade']))",
}


# Who takes what comes, outside: the control.
READER = """
import threading
request, reader = socket.socketpair()
received = 0
def read():
    global received
    while received < 128 << 20 and (piece := reader.recv(1 << 20)):
        received += len(piece)
    reader.close()
thread = threading.Thread(target=read)
thread.start()
"""


@pytest.mark.parametrize("name", ANSWERS)
def test_answers_without_measure(attacker: Attacker, name: str) -> None:
    naive = f"{WIRE}{READER}try:\n{textwrap.indent(ANSWERS[name], '    ')}\nexcept OSError:\n    pass\n"
    taken = outside(naive + "request.close()\nthread.join()\nresult = received")
    assert taken >= {"endless": 128 << 20, "switch": 50}.get(name, 30_000)
    code = f"request, control = wires(send)\n{ANSWERS[name]}\ntime.sleep(2)\nos._exit(0)"
    with attacker.mesh.http(timeout=60) as client, suppress(Exception):
        with client.stream("POST", "/run/attacker/", content=code.encode()) as answer:
            assert answer.status_code in {200, 502}
            received = sum(len(piece) for piece in answer.iter_raw())
        assert received <= 110 << 20
    attacker.leaves_nothing()


def hurts(body: str) -> bool:
    """Whether it breaks a reader who merges it into a record and passes that on as JSON, or changes the record."""
    record = {"status": "succeeded", "id": "run_1"}
    try:
        merged = {**record, **json.loads(body)}
        json.dumps(merged, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, TypeError, RecursionError):
        return True
    return merged != {**merged, **record}


def test_json_that_hurts_its_readers(attacker: Attacker) -> None:
    """Kept as a result, read back with the record around it."""
    bodies = ['{"a": NaN, "b": Infinity}', '{"a": "\\ud800"}', "[" * 100000, '{"a": ' * 50000, "1" * 100000,
              '{"status": "queued", "id": 1, "run": 2, "responseStatus": 9}', '{"__proto__": {"x": 1}}', "\x00",
              "null"]  # fmt: skip
    assert [body for body in bodies if not hurts(body)] == ['{"__proto__": {"x": 1}}']  # which hurts scripts only
    with attacker.mesh.http() as client:
        for body in bodies:
            content = f"""
body = {body!r}.encode("utf-8", "surrogatepass")
request, control = wires(send)
request.sendall(head(200, ["content-type", "application/json"], ["content-length", str(len(body))])
                + frame(b"D", body) + frame(b"E") + frame(b"Z", b'{{"ok": true}}'))
time.sleep(20)
"""
            asked = client.post("/run_async/attacker", content=content.encode()).json()["request_id"]
            attacker.mesh.finished(asked)
            for path in (f"/result/{asked}", f"/request/{asked}"):
                answer = client.get(path)
                assert answer.status_code == 200, (body[:50], answer.text[:200])
                assert json.loads(answer.text)["id"] == asked
                assert "NaN" not in answer.text.replace(json.dumps(body), "") or '"a": NaN' not in answer.text
            assert client.get("/requests?limit=5").status_code == 200
