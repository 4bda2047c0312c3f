"""A run speaks to the runtime as itself and with the rights of a run, whatever it writes on its way out."""

import pytest

from tests.e2e.mesh import Mesh
from tests.escape.attacks import CANARY, Attacker
from tests.escape.naive import exchanged, naive_server

TARGET = "GET /keys HTTP/1.1\\r\\nhost: runtime.runmesh\\r\\nconnection: close\\r\\n"
KEYED = TARGET + "authorization: Bearer cwk-run-placeholder\\r\\n"
PROXY_V2 = r"""
token = b"e30.AAAA"
tlv = struct.pack("!BH", 0xE0, len(token)) + token
addresses = struct.pack("!4s4sHH", b"\x7f\0\0\1", b"\x7f\0\0\1", 1, 80)
forged = b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x21, 0x11, len(addresses + tlv)) + addresses + tlv
"""


def test_what_a_run_asks_for_is_there_for_an_admin(besieged: Mesh) -> None:
    """The positive control of what follows: by its own rights the request succeeds."""
    with besieged.http() as client:
        assert client.get("/keys").status_code == 200


@pytest.mark.parametrize(
    "forged",
    ["", 'forged = b"PROXY TCP4 127.0.0.1 127.0.0.1 1 80\\r\\n"', PROXY_V2],
    ids=["none", "version 1", "version 2"],
)
def test_an_own_proxy_header(attacker: Attacker, forged: str) -> None:
    answer = attacker.result(f'forged = b""\n{forged}\nresult = say(forged + b"{KEYED}\\r\\n")')
    assert answer.split()[1] == ("400" if forged else "403")


def test_headers_of_our_own(attacker: Attacker) -> None:
    headers = [
        "x-runmesh-run: none",
        "x-runmesh-run:",
        "X-Runmesh-Head: authorization:x",
        "connection: x-runmesh-run",
        "x-runmesh-path: %2Fhealth",
        "x-envoy-original-path: /health",
        "x-http-method-override: POST",
        "authorization: Bearer cwk-run-placeholder",
        "te: trailers",
    ]
    code = f'result = [say(b"{KEYED}" + header.encode() + b"\\r\\n\\r\\n").split()[1] for header in {headers}]'
    assert attacker.result(code) == ["403"] * len(headers)


def test_without_a_key_nothing_is_done(attacker: Attacker) -> None:
    """What is only given an address to fetch can be led here."""
    assert attacker.result(f'result = say(b"{TARGET}\\r\\n")').split()[1] == "401"


def test_the_admins_own_key_means_nothing_inside(attacker: Attacker) -> None:
    """A stolen key doesn't widen what a run may do through its way out: the identity counts, not the key."""
    key = attacker.mesh.key
    assert attacker.result(f'result = say(b"{TARGET}authorization: Bearer {key}\\r\\n\\r\\n")').split()[1] == "403"


def test_smuggling(attacker: Attacker) -> None:
    framings = [
        "content-length: 5\r\ntransfer-encoding: chunked",
        "content-length: 5\r\ncontent-length: 6",
        "transfer-encoding : chunked",
        "transfer-encoding: xchunked",
        "transfer-encoding: chunked, identity",
        "content-length: +5",
        "content-length:\x0b5",
        "content-length\t: 5",
        "x: a\0b",
    ]
    end = f"\r\n\r\n0\r\n\r\n{TARGET}\r\n".encode().decode("unicode_escape")
    with naive_server() as naive:
        for framing in framings:
            sent = f"POST / HTTP/1.1\r\nhost: a\r\n{framing}{end}"
            assert exchanged(naive, sent.encode()).count("HTTP/1.1") == 2, framing
    code = f"""
end = b"\\r\\n\\r\\n0\\r\\n\\r\\n{TARGET}\\r\\n"
result = [say(b"POST /run/attacker/ HTTP/1.1\\r\\nhost: a\\r\\n" + framing.encode() + end) for framing in {framings}]
"""
    answers = attacker.result(code)
    assert {answer.split()[1] for answer in answers} <= {"400", "501"}
    assert [answer.count("HTTP/1.1") for answer in answers] == [1] * len(framings)


@pytest.mark.parametrize("target", ["169.254.169.254", "127.0.0.1:4222", "admin/stats", "127.0.0.1:@CANARY@"])
def test_absolute_addresses_lead_nowhere_else(attacker: Attacker, canary_port: int, target: str) -> None:
    request = (
        f"GET http://{target.replace('@CANARY@', str(canary_port))}/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    )
    if "CANARY" in target:
        with naive_server() as naive:
            assert CANARY in exchanged(naive, request.encode())
    answer = attacker.result(f"result = say({request.encode()!r})")
    assert answer.split()[1] == "404"
    assert "error-origin: runtime" in answer


def test_no_tunnel_no_upgrade_no_grpc(attacker: Attacker, canary_port: int) -> None:
    with naive_server() as naive:
        assert CANARY in exchanged(naive, f"CONNECT 127.0.0.1:{canary_port} HTTP/1.1\r\n\r\n".encode())
        upgraded = exchanged(naive, b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\n\r\nspoken\n")
        assert upgraded == "HTTP/1.1 101 Switching Protocols\r\n\r\nspoken\n"
    code = r"""
result = [say(head + b"\r\nconnection: close, upgrade\r\ncontent-length: 0\r\n\r\n").split()[1] for head in (
    b"CONNECT 127.0.0.1:4222 HTTP/1.1\r\nhost: 127.0.0.1:4222",
    b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket",
    b"POST /mesh.keys.v1.Keys/Verify HTTP/1.1\r\nhost: a\r\ncontent-type: application/grpc",
)]
"""
    assert set(attacker.result(code)) <= {"400", "403", "404", "501"}


def test_who_a_nested_run_is_told_that_calls(attacker: Attacker) -> None:
    body = "result = {k.decode(): v.decode() for k, v in scope['headers']}"
    request = (
        "POST /run/attacker/ HTTP/1.1\\r\\nhost: a\\r\\nconnection: close\\r\\nx-api-key: cwk-run-x\\r\\n"
        "codewords-caller-id: org_evil\\r\\n"
        "x-request-id: run_evil\\r\\nx-deadline: never\\r\\nx-mine: kept\\r\\n"
        f"content-length: {len(body)}\\r\\n\\r\\n{body}"
    )
    answer = attacker.result(f'result = say(b"{request}")')
    assert answer.split()[1] == "200"
    assert "kept" in answer  # headers do reach a nested run
    assert "evil" not in answer
    assert "never" not in answer
