"""What a workflow does to the sockets that the shim speaks on: its own run fails, is recorded, and no other notices."""

import time

import httpx
import pytest

from tests.escape.attacks import Attacker

SOCKETS = "request, control = wires(send)\n"
CONNECTIONS = """
kept = []
while True:
    tried(lambda: kept.append(socket.create_connection(("127.0.0.2", 80), 5)))
    if len(kept) > 300:
        kept.pop().close()
"""


def test_a_whole_conversation_is_believed(attacker: Attacker) -> None:
    """The positive control of the next: an attack does speak to the executor."""
    whole = (
        """request.sendall(head(201, ["a", "b"]) + frame(b"D", b"body") + frame(b"E") + frame(b"Z", b'{"ok":true}'))"""
    )
    answer = attacker.run(f"{SOCKETS}{whole}\ntime.sleep(20)")
    assert (answer.status_code, answer.text, answer.headers["a"]) == (201, "body", "b")


@pytest.mark.parametrize(
    ("attack", "code"),
    [
        (r"request.sendall(os.urandom(65536))", "workflow_crashed"),
        (r"request.sendall(struct.pack('!I', 0xffffffff) + b'H')", "workflow_crashed"),
        (r"""request.sendall(frame(b"H", b'{"a":' + b"[" * 200000))""", "workflow_crashed"),
        (r"request.sendall(head(99))", "workflow_crashed"),
        (r"request.sendall(head(1000))", "workflow_crashed"),
        (r"request.sendall(head(-1))", "workflow_crashed"),
        (r"request.sendall(head(101))", "workflow_crashed"),
        (r"""request.sendall(head(200, ["a", "b\r\nset-cookie: c=d"]))""", "workflow_crashed"),
        (r"""request.sendall(head(200, [":status", "500"]))""", "workflow_crashed"),
        (r"""request.sendall(head(200, *[["a", "b"]] * 999))""", "workflow_crashed"),
        (r"""request.sendall(head(200, ["content-length", "1"], ["content-length", "2"]))""", "workflow_crashed"),
        (r"""request.sendall(head(200, ["content-length", "9" * 15]))""", "too_much_output"),
        (r"""request.sendall(frame(b"Z", b'{"ok": false, "error": "\\ud800 \\u0000"}'))""", "workflow_crashed"),
        (
            r"""control.sendall(frame(b"X", b'{"kind": "import", "error": "\\udc00", "line": 1e9}')); os._exit(0)""",
            "workflow_failed_to_start",
        ),
        (
            r"""control.sendall(frame(b"X", b'{"error": ' + b"[" * 940 + b"]" * 940 + b"}")); os._exit(0)""",
            "workflow_failed_to_start",
        ),
        (r"socket.send_fds(request, [b'xxxxx'], [0] * 100)", "workflow_crashed"),
        (r"os._exit(255)", "workflow_crashed"),
    ],
)
def test_a_broken_conversation_ends_the_run_and_is_recorded(attacker: Attacker, attack: str, code: str) -> None:
    answer = attacker.run(f"{SOCKETS}{attack}\ntime.sleep(20)")
    assert (answer.status_code, answer.json()["code"]) == (502, code), answer.text
    record = attacker.mesh.finished(answer.headers["x-request-id"], 5)
    assert record["status"] == "failed"


def test_headers_that_mean_something_to_our_proxy(attacker: Attacker) -> None:
    names = ["x-http-code", "x-runmesh-answer", "grpc-status", "x-envoy-upstream-service-time", "a-bin", "upgrade"]
    pairs = [[name, "500|x:y"] for name in [*names, "transfer-encoding", "error-origin", "x-request-id"]]
    attack = (
        f"request.sendall(head(200, *{pairs}) + frame(b'D', b'body') + frame(b'E') + frame(b'Z', b'{{\"ok\":true}}'))"
    )
    answer = attacker.run(f"{SOCKETS}{attack}\ntime.sleep(20)")
    assert (answer.status_code, answer.text) == (200, "body")
    assert not {*names, "error-origin", "x"} & set(answer.headers)
    assert answer.headers["x-request-id"].startswith("run_")


@pytest.mark.parametrize(
    "flood",
    [
        "request.sendall(head())\nwhile True: request.sendall(frame(b'D') * 50000)",
        "request.sendall(head())\nwhile True: request.sendall(frame(b'D', b'x') * 50000)",
        "while True: os.write(1, b'\\n' * 32768 + b'{\"a\":' + b'[' * 30000 + b'\\n')",
        CONNECTIONS,
    ],
    ids=["empty frames", "tiny frames", "lines", "connections"],
)
def test_a_flood_drowns_nobody_else(attacker: Attacker, flood: str) -> None:
    """Before small frames were taken together, calls beside the first two took 4 to 13 seconds."""
    with attacker.meanwhile(SOCKETS + flood):
        time.sleep(0.8)
        began = time.monotonic()
        attacker.result("result = 1")
        took = time.monotonic() - began
    assert took < 4
    attacker.leaves_nothing()


def test_it_stops_itself_and_ignores_every_signal(attacker: Attacker) -> None:
    code = """
for number in range(1, 65):
    tried(lambda: signal.signal(number, signal.SIG_IGN)) if number not in (9, 19, 32, 33) else None
if os.fork() == 0:
    os.setsid()
    os.fork() or time.sleep(600)
    time.sleep(600)
tried(lambda: os.kill(1, signal.SIGSTOP))
os.kill(os.getpid(), signal.SIGSTOP)
"""
    with pytest.raises(httpx.TimeoutException):
        attacker.run(code, seconds=2)
    attacker.leaves_nothing()
