"""`X-Callback-Url`: the record of a run arrives where its caller wanted it, signed, whatever dies meanwhile."""

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from standardwebhooks import Webhook

from tests.e2e.mesh import ROOT, Mesh, own_address, until

pytestmark = pytest.mark.timeout(180)


class Receiver(ThreadingHTTPServer):
    """Where the mesh's operator allows it. Answers `answers` one after the other, the last one for ever; `got`:
    (headers, body) each.
    """

    daemon_threads = True

    def __init__(self, *answers: int) -> None:
        super().__init__((own_address(), 0), Handler)
        self.answers = list(answers)
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.before_answer: Callable[[], None] = lambda: None

    @property
    def url(self) -> str:
        return f"http://{own_address()}:{self.server_address[1]}/hook?token=1"


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        answer = self.server.answers.pop(0) if len(self.server.answers) > 1 else self.server.answers[0]
        self.server.got.append((dict(self.headers), body))
        self.server.before_answer()
        self.send_response(answer)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def receiving(*answers: int) -> Iterator[Receiver]:
    with Receiver(*answers) as receiver:
        thread = threading.Thread(target=receiver.serve_forever)
        thread.start()
        yield receiver
        receiver.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def mesh(mesh: Mesh) -> Mesh:
    """Everybody's, with the example."""
    mesh.deploy("hello", (ROOT / "deploy" / "examples" / "hello.py").read_text())
    return mesh


def begun(client: httpx.Client, url: str, name: str = "Ada") -> str:
    answer = client.post("/run_async/hello", json={"name": name}, headers={"X-Callback-Url": url})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["request_id"])


def delivery(client: httpx.Client, run_id: str) -> dict[str, Any]:
    """The one of this run, once it is there."""

    def found() -> Any:
        answer = client.get(f"/request/{run_id}/deliveries").json()
        assert answer["next"] is None
        return answer["items"]

    (only,) = until(found, 30)
    result: dict[str, Any] = only
    return result


def over(client: httpx.Client, run_id: str, seconds: float = 30) -> dict[str, Any]:
    """The same once it is no longer pending."""

    def ended() -> dict[str, Any] | None:
        now = delivery(client, run_id)
        return now if now["state"] != "pending" else None

    result: dict[str, Any] = until(ended, seconds)
    return result


def test_a_receiver_that_fails_twice_gets_it_all_the_same(mesh: Mesh) -> None:
    with receiving(500, 302, 204) as receiver, mesh.http() as client:
        run_id = begun(client, receiver.url)
        delivered = over(client, run_id)
        assert (delivered["state"], delivered["attempts"], delivered["last_status"]) == ("delivered", 3, 204)
        assert (delivered["url"], delivered["last_error"], delivered["next_attempt_at"]) == (receiver.url, None, None)
        assert delivered["created_at"] <= delivered["delivered_at"]
        assert len(receiver.got) == 3
        assert {headers["webhook-id"] for headers, _ in receiver.got} == {delivered["id"]}
        secret = client.get("/webhook-secret").json()["secret"]
        record = client.get(f"/request/{run_id}").json()
        for headers, body in receiver.got:
            assert Webhook(secret).verify(body, headers) == record
        assert record["responseJson"] == {"message": "Hello Ada!"}
        assert headers["content-type"] == "application/json"


def test_a_synchronous_call_and_one_that_fails_tell_their_end_too(mesh: Mesh) -> None:
    with receiving(200) as receiver, mesh.http() as client:
        answer = client.post("/run/hello", json={"name": "Bob"}, headers={"X-Callback-Url": receiver.url})
        assert answer.json() == {"message": "Hello Bob!"}
        assert over(client, answer.headers["x-request-id"])["state"] == "delivered"
        failed = client.post("/run/probe/exit", headers={"X-Callback-Url": receiver.url})
        assert failed.status_code == 502
        assert over(client, failed.headers["x-request-id"])["state"] == "delivered"
        told = [json.loads(body) for _, body in receiver.got]
        assert [(each["status"], each["code"]) for each in told] == [
            ("succeeded", None),
            ("failed", "workflow_crashed"),
        ]


def test_after_a_rotation_old_and_new_secret_verify(mesh: Mesh) -> None:
    with receiving(200) as receiver, mesh.http() as client:
        old = client.get("/webhook-secret").json()
        new = client.post("/webhook-secret/rotate").json()
        assert new["secret"] != old["secret"]
        assert new["previous_until"] > new["created_at"]
        over(client, begun(client, receiver.url))
        ((headers, body),) = receiver.got
        for secret in (old["secret"], new["secret"]):
            Webhook(secret).verify(body, headers)
    with mesh.http(mesh.new_key(scopes=["run", "deploy"])["key"]) as client:
        assert client.get("/webhook-secret").status_code == 403
        assert client.post("/webhook-secret/rotate").status_code == 403


def test_gone_is_the_end(mesh: Mesh) -> None:
    with receiving(410) as receiver, mesh.http() as client:
        ended = over(client, begun(client, receiver.url))
        assert (ended["state"], ended["attempts"], ended["last_status"]) == ("failed", 1, 410)


@pytest.mark.slow
def test_the_sender_is_killed_between_sending_and_marking(mesh: Mesh) -> None:
    with receiving(200) as receiver, mesh.http() as client:
        killed: list[int] = []

        def kill() -> None:
            if not killed:
                killed.append(mesh.pid_of("edge"))
                os.kill(killed[0], signal.SIGKILL)

        receiver.before_answer = kill
        run_id = begun(client, receiver.url)
        until(lambda: killed, 20)
        until(lambda: _answers(client), 30)
        delivered = over(client, run_id, 60)
        assert (delivered["state"], delivered["attempts"]) == ("delivered", 2)
        first, second = receiver.got
        assert first[0]["webhook-id"] == second[0]["webhook-id"] == delivered["id"]
        assert first[1] == second[1]
        assert second[0]["webhook-timestamp"] > first[0]["webhook-timestamp"]


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.HTTPError:
        return False


def test_private_addresses_are_refused_and_that_is_told(mesh: Mesh) -> None:
    """The operator of this mesh allows another address of this machine, not its loopback."""
    with receiving(200) as receiver, mesh.http() as client:
        port = receiver.server_address[1]
        hosts = ("127.0.0.1", "2130706433", "0x7f.1", "localhost", "[::ffff:127.0.0.1]", "169.254.169.254")
        runs = {host: begun(client, f"http://{host}:{port}/") for host in hosts}
        for host, run_id in runs.items():
            ended = over(client, run_id)
            assert (ended["state"], ended["attempts"], ended["last_status"]) == ("failed", 1, None), host
            assert "address" in ended["last_error"]
        assert receiver.got == []


def test_bad_addresses_are_told_and_start_nothing(mesh: Mesh) -> None:
    with mesh.http() as client:
        one_time = client.post("/keys", json={"kind": "one_time"}).json()["key"]
        for url in ("ftp://a.example", "https://u:p@a.example/", "https://a.example/#x", "https://" + "a" * 3000, "x"):
            for path in ("/run/hello", "/run_async/hello"):
                headers = {"X-Callback-Url": url, "Authorization": f"Bearer {one_time}"}
                answer = client.post(path, json={"name": "x"}, headers=headers)
                assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
                assert "X-Callback-Url" in answer.json()["detail"]
        # Nothing was spent.
        assert client.post("/run/hello", json={"name": "x"}, headers={"Authorization": one_time}).status_code == 200


def test_who_sees_where_a_record_went(mesh: Mesh) -> None:
    with mesh.http() as client:
        run_id = begun(client, "http://127.0.0.1:9/secret-path")
        assert over(client, run_id)["url"] == "http://127.0.0.1:9/secret-path"
        plain = client.post("/run_async/hello", json={"name": "x"}).json()["request_id"]
        mesh.finished(plain)
        assert client.get(f"/request/{plain}/deliveries").json() == {"items": [], "next": None}
        assert client.get(f"/request/{run_id[:-1]}/deliveries").status_code == 404
        stranger = mesh.new_organization("strangers")["key"]
        # A caller of somebody's public workflow: its owner sees the run, and of the address where it leads.
        assert client.patch("/workflows/hello", json={"visibility": "public"}).status_code == 200
        owner = client.get("/workflows/hello").json()["url"]
    with mesh.http(stranger) as other:
        assert other.get(f"/request/{run_id}/deliveries").status_code == 404
        reference = owner.rsplit("/run/", 1)[1]
        answer = other.post(
            f"/run_async/{reference}", json={"name": "x"}, headers={"X-Callback-Url": "http://127.0.0.1:9/theirs"}
        )
        assert answer.status_code == 200, answer.text
        theirs = answer.json()["request_id"]
        assert over(other, theirs)["url"] == "http://127.0.0.1:9/theirs"
    with mesh.http() as client:
        assert over(client, theirs)["url"] == "http://127.0.0.1:9"
        client.patch("/workflows/hello", json={"visibility": "private"})
