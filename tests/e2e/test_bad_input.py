"""What callers get wrong, by accident or not: a typed error each time, and nothing left behind."""

import http.client
import json
import socket
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from tests.e2e.mesh import Mesh, until

pytestmark = pytest.mark.timeout(180)
MAIN = "if __name__ == '__main__':\n    import uvicorn\n    uvicorn.run(app)\n"
APP = "async def app(scope, receive, send):\n    pass\n"
SETTINGS = '# [tool.env-checker]\n# env_vars = ["HANG="]\n# [tool.runmesh]\n# timeout = "3s"\n'
HEADER = '# /// script\n# dependencies = ["uvicorn"]\n# ///\n'


def refused(mesh: Mesh, code: str, **fields: object) -> httpx.Response:
    with mesh.http() as client:
        answer = client.post("/deploy", json={"code": code, "name": "bad", **fields}, timeout=120)
        assert client.get("/workflows/bad").status_code == 404
    return answer


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ('# /// script\n# dependencies = ["uvicorn"\n# ///\n' + APP, "line 2"),
        ('# /// script\n# requires-python = ">=4.1"\n# ///\n' + APP, "Widen `requires-python`"),
        (
            '# /// script\n# dependencies = ["runmesh-no-such-package-here"]\n# ///\n' + APP,
            "runmesh-no-such-package-here",
        ),
        ('# /// script\n# dependencies = ["uvicorn @ file:///etc/passwd"]\n# ///\n' + APP, "uvicorn"),
        ("def broken(:\n", "line 1"),
        (HEADER + APP + "raise RuntimeError('at import')\n", "at import"),
        (HEADER + APP, "Its app is `app` (line 4): end the file with"),
        (HEADER + "import sys\nsys.exit(3)\n", "exit status 3 before it handed an app to uvicorn. It has to come to"),
        (HEADER + "import os\nos.kill(os.getpid(), 9)\n", "killed"),
        (HEADER + "from cv2 import x\n" + MAIN, 'Add "opencv-python-headless" to `dependencies`'),
    ],
)
def test_a_bad_workflow_is_refused_with_its_cause(mesh: Mesh, code: str, says: str) -> None:
    answer = refused(mesh, code)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_workflow"), answer.text
    assert says in answer.json()["detail"]
    last = answer.json()["report"][-1]
    assert not last["passed"]
    assert says in last["detail"] or says == f"line {last['line']}"


def test_validate_reports_without_deploying(mesh: Mesh) -> None:
    with mesh.http() as client:
        bad = client.post("/validate", json={"code": "def broken(:\n"}).json()
        assert bad["all_passed"] is False
        failed = [check for check in bad["report"] if not check["passed"]]
        assert (failed[0]["check"], failed[0]["line"]) == ("syntax", 1)
        log_id = client.post("/provision-request").json()["request_id"]
        code, naming = {"code": HEADER + APP + MAIN}, {"X-Provisioned-Request-Id": log_id}
        good = client.post("/validate", json=code, headers=naming, timeout=120).json()
        assert good["all_passed"] is True, good
        lines = [json.loads(line) for line in client.get(f"/logs/{log_id}").text.splitlines()]
        assert [line["stream"] for line in lines] == ["system"] * len(lines)
        assert [line["message"].split()[0] for line in lines] == ["resolving", "getting", "starting"]
        assert client.post("/validate", json=code, headers={"X-Provisioned-Request-Id": "run_x"}).status_code == 404


@pytest.mark.parametrize(
    "service", ["nothing", "..", "%2e%2e", "a%00b", "x" * 300, "org_nobody.probe", "probe@99", "@"]
)
def test_unknown_services(mesh: Mesh, service: str) -> None:
    with mesh.http() as client:
        for path in (f"/run/{service}", f"/run_async/{service}"):
            answer = raw(mesh, "POST", path)
            assert answer[0] in {400, 404}, (path, answer)
            assert json.loads(answer[2])["code"] in {"not_found", "bad_request"}
        assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize("request_id", ["nothing", "../keys", "%00", "x" * 300, "run_" + "0" * 26])
@pytest.mark.parametrize("path", ["/request/{}", "/result/{}", "/logs/{}"])
def test_unknown_ids(mesh: Mesh, path: str, request_id: str) -> None:
    status, _, body = raw(mesh, "GET", path.format(request_id))
    assert status in {400, 404}
    assert json.loads(body)["code"] in {"not_found", "bad_request"}


def test_unknown_paths_and_methods(mesh: Mesh) -> None:
    with mesh.http() as client:
        for method, path, status, code in (
            ("GET", "/nothing/here", 404, "not_found"),
            ("GET", "/", 404, "not_found"),
            ("PUT", "/keys", 405, "method_not_allowed"),
            ("POST", "/result/x", 405, "method_not_allowed"),
            ("PROPFIND", "/run/probe", 405, "method_not_allowed"),
        ):
            answer = client.request(method, path)
            assert (answer.status_code, answer.json()["code"]) == (status, code), (method, path, answer.text)


def test_forged_headers_mean_nothing(mesh: Mesh) -> None:
    forged = {
        "x-envoy-original-path": "/run/other",
        "x-envoy-original-method": "DELETE",
        "x-envoy-internal": "true",
        "x-http-code": "299",
        "x-runmesh-run": "e30.e30",
        "x-runmesh-path": "/keys",
        "x-runmesh-method": "DELETE",
        "grpc-timeout": "1n",
        "grpc-encoding": "gzip",
        "x-anything-bin": "!!not base64!!",
        "te": "trailers",
    }
    with mesh.http(headers={}) as client:
        answer = client.get("/run/probe/echo/x", headers=forged)
        assert answer.status_code == 200, answer.text
        seen = dict(answer.json()["headers"])
        assert not [
            name for name in seen if name.startswith(("x-envoy-", "grpc-", "x-runmesh-")) or name.endswith("-bin")
        ]
        assert "x-http-code" not in seen
    with mesh.http("") as nobody:
        assert nobody.get("/requests", headers=forged).status_code == 401


def test_native_grpc_on_the_public_port_is_refused(mesh: Mesh) -> None:
    with mesh.http() as client:
        answer = client.post("/mesh.keys.v1.Keys/ListKeys", headers={"Content-Type": "application/grpc"}, content=b"")
        assert answer.status_code in {400, 404}
    with grpc.insecure_channel(mesh.url.removeprefix("http://")) as channel:
        call: Any = channel.unary_unary("/mesh.keys.v1.Keys/ListKeys")
        with pytest.raises(grpc.RpcError):
            call(b"", timeout=5)


def test_a_body_that_is_too_large(mesh: Mesh) -> None:
    with mesh.http() as client:
        answer = client.post("/run/probe/echo/x", content=b"x" * (11 << 20))
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
        assert "/file" in answer.json()["detail"]
        answer = client.post("/run_async/probe/echo/x", content=b"x" * (11 << 20))
        assert answer.status_code == 413


@pytest.mark.parametrize("body", [b"{", b"[1]", b"null", b'{"unknown": 1}', b"\xff", b"[" * 100_000])
@pytest.mark.parametrize("path", ["/keys", "/deploy", "/validate"])
def test_malformed_json(mesh: Mesh, path: str, body: bytes) -> None:
    with mesh.http() as client:
        answer = client.post(path, content=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "bad_request"), answer.text


def test_an_answer_that_is_too_large(mesh: Mesh) -> None:
    with mesh.http() as client:
        request_id = client.post("/run_async/probe/large", json={"bytes": 11 << 20}).json()["request_id"]
        record = mesh.finished(request_id)
    assert (record["status"], record["code"]) == ("failed", "too_much_output")


def test_a_hanging_import_is_ended(mesh: Mesh) -> None:
    """Deployed without the import check seeing it: it hangs only from the second start on."""
    code = HEADER + "import os, time\nif os.environ.get('HANG'):\n    time.sleep(600)\n" + APP + MAIN
    code = code.replace("# ///\n" + "import", SETTINGS + "# ///\nimport")
    mesh.deploy("hangs", code)
    with mesh.http() as client:
        client.put("/secrets/HANG", json={"value": "yes"})

        def hung() -> httpx.Response | None:
            """An executor may work with the secret as it was for up to a second."""
            answer = client.post("/run/hangs")
            return answer if answer.headers["error-origin"] == "runtime" else None

        answer = until(hung)
        client.delete("/secrets/HANG")
    assert answer.json()["code"] in {"timeout", "workflow_failed_to_start"}
    assert answer.status_code in {502, 504}


def test_a_missing_secret_is_named(mesh: Mesh) -> None:
    code = (HEADER + APP + MAIN).replace(
        '# dependencies = ["uvicorn"]\n',
        '# dependencies = ["uvicorn"]\n# [tool.env-checker]\n# env_vars = ["NOT_THERE"]\n',
    )
    made = mesh.deploy("needs_secret", code)
    assert any(not check["passed"] and "NOT_THERE" in check["detail"] for check in made["report"])
    with mesh.http() as client:
        answer = client.post("/run/needs_secret")
    assert (answer.status_code, answer.json()["code"]) == (424, "missing_secret")
    assert "NOT_THERE" in answer.json()["detail"]


def test_a_websocket_is_not_supported(mesh: Mesh) -> None:
    headers = {
        "Connection": "Upgrade", "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "a" * 22 + "==",
    }  # fmt: skip
    status, _, body = raw(mesh, "GET", "/run/probe", headers)
    assert (status, json.loads(body)["code"]) == (501, "not_supported")


def test_nothing_private_is_reached_from_inside(mesh: Mesh) -> None:
    with mesh.http() as client, socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        for host, port in (
            ("127.0.0.1", listener.getsockname()[1]),
            ("169.254.169.254", 80),
            ("10.0.0.1", 53),
            ("::1", 22),
        ):
            answer = client.post("/run/probe/connect", json={"host": host, "port": port})
            assert answer.json()["refused"], (host, port)


def test_nothing_is_left_behind(mesh: Mesh) -> None:
    """After all of the above: no sandbox, no run directory, no mount; a waiting slot at most for what is hot."""

    def left() -> list[object]:
        bases = list((mesh.home / "runs").glob("base-*"))
        places = [*(mesh.home / "runs").iterdir(), *(mesh.home / "runs").glob("base-*/slots/*")]
        templates = [path for path in places if path.name.startswith("template-")]
        alone = {path for path in templates if path.parent.name == "runs"}
        sandboxes = [path for path in Path("/proc").glob("[0-9]*/cmdline") if b"bwrap\0" in read(path)]
        ours = [path for path in sandboxes if str(mesh.home).encode() in read(path)]
        slots = [path for template in templates for path in list((template / "slots").iterdir())[1:]]
        mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if str(mesh.home) in line]
        wrong = set(places) - set(templates) - set(bases)
        return [*ours[2 * len({*alone, *bases}) :], *wrong, *slots, *mounts]

    until(lambda: not left(), 10)


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def raw(mesh: Mesh, method: str, path: str, headers: dict[str, str] | None = None) -> tuple[int, dict[str, str], bytes]:
    """One request as it stands, with no client that tidies the path up."""
    host, port = mesh.url.removeprefix("http://").split(":")
    lines = {"Host": f"{host}:{port}", "Authorization": f"Bearer {mesh.key}", "Content-Length": "0", **(headers or {})}
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines.items()) + "\r\n"
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head.encode("latin-1"))
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, dict(response.getheaders()), response.read()
