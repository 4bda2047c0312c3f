"""Secrets and keys that workflows and callers gave away: nothing of the platform keeps them. The search is grep's, for
spellings that are made here, and has to find what is planted.
"""

import base64
import http.server
import json
import os
import secrets
import string
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc

from tests.databases import kept
from tests.e2e.mesh import Mesh, mesh_up, own_address, until
from tests.e2e.test_tracing import Receiver
from tests.postgres import Server, postgres_server

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow]

# Where the inputs of runs are kept: a file, or a server's directory and its dump.
THE_DATABASE = ("/data/scheduler.db", "/pg-", "the database")
HEADERS = ("Authorization", "X-Api-Key", "x-goog-api-key", "bare")


def random_text(length: int = 24) -> str:
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(length))


def spellings(value: str) -> set[bytes]:
    """Raw, in JSON, in an address, in base64 with 0 to 2 bytes before it, as a dump shows bytes."""
    data = value.encode()
    found = {data, data.hex().encode(), json.dumps(value)[1:-1].encode(), quote_plus(value).encode()}
    found |= {quote(value).encode(), quote(value, safe="").encode(), quote(value, safe="").lower().encode()}
    for before in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            # Without the characters at both ends that what stands around it has a part in.
            inside = encode(b"\0" * before + data + b"\0" * (-(before + len(data)) % 3))
            found.add(inside[4 if before else 0 : -4])
    return found


@dataclass
class World:
    """A mesh with a receiver of its spans, and what must be found nowhere."""

    mesh: Mesh
    spans: Receiver
    began: float
    target: str
    database: str = ""
    canaries: dict[str, str] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def canary(self, name: str, value: str) -> str:
        self.canaries[name] = value
        return value

    def where(self, wanted: Sequence[bytes]) -> list[str]:
        """All places that hold one of these."""
        found = self._in_files(wanted)
        dumped = b"" if not self.database else kept(_Settings(self.database))  # type: ignore[arg-type]
        places = {
            "the database": dumped,
            "spans": b"".join(span.SerializeToString() for span in self.spans.spans),
            "the services' output": "".join(self.mesh.output).encode(),
        }
        return found + [place for place, data in places.items() if any(each in data for each in wanted)]

    def _in_files(self, wanted: Sequence[bytes]) -> list[str]:
        """Below RUNMESH_HOME, the databases' among them, and what is newer than we are in /tmp and /var/tmp."""
        newer = ["-newermt", f"@{self.began:.0f}"]
        listed = subprocess.run(
            ["find", self.mesh.home, "/tmp", "/var/tmp", "-xdev", "-type", "f", *newer, "-print0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
        ).stdout.split(b"\0")
        own = [path for path in listed if path and b"/pytest-" not in path and b"/canary-patterns" not in path]
        patterns = self.mesh.home.parent / f"canary-patterns-{os.getpid()}"
        patterns.write_bytes(b"\n".join(wanted) + b"\n")
        try:
            grep = ["xargs", "-0", "-r", "grep", "-laF", "-s", "-f", str(patterns), "--"]
            done = subprocess.run(grep, input=b"\0".join(own), stdout=subprocess.PIPE, check=False, env={"LC_ALL": "C"})
        finally:
            patterns.unlink()
        return sorted(set(done.stdout.decode().splitlines()))


@dataclass
class _Settings:
    """What `kept` needs of them."""

    database: str


@contextmanager
def world(server: Server | None = None) -> Iterator[World]:
    receiver = Receiver()
    otlp = grpc.server(futures.ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, otlp)  # type: ignore[no-untyped-call]
    port = otlp.add_insecure_port("127.0.0.1:0")
    otlp.start()
    began = time.time() - 1
    kek = base64.b64encode(secrets.token_bytes(32)).decode()
    database = server.url(server.empty(), tcp=True) if server else ""
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "RUNMESH_EGRESS_ALLOW_PRIVATE": own_address(),
        "RUNMESH_LOG_LEVEL": "DEBUG",
        "RUNMESH_KEK": kek,
        **({"RUNMESH_DATABASE_URL": database} if database else {}),
    }
    with outside() as (target, asked), mesh_up(env=env) as mesh:
        yield World(mesh, receiver, began, target, database, {"kek": kek}, asked)
    otlp.stop(1)


@contextmanager
def outside() -> Iterator[tuple[str, list[str]]]:
    """A server that workflows call; what it was asked."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.path} {dict(self.headers)}")
            self.send_response(200)
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer((own_address(), 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{own_address()}:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


def give_away_secrets(world: World) -> None:
    mesh, host = world.mesh, world.target.removeprefix("http://")
    values = {
        "CANARY_PLAIN": f"plain{random_text()}",
        "CANARY_ODD": f"{random_text(12)}/+ é\"'\\&?=%{random_text(12)}",
        "CANARY_LINES": f"{random_text(30)}\n{random_text(30)}",
        "CANARY_OUTSIDE": f"outside{random_text()}",
        "CANARY_NESTED": f"nested{random_text()}",
    }
    mesh.deploy("probe")
    with mesh.http() as client:
        for name, value in values.items():
            hosts = {"hosts": [f"http://{host}"]} if name == "CANARY_OUTSIDE" else {}
            assert client.put(f"/secrets/{name}", json={"value": value, **hosts}).status_code == 200
            for number, line in enumerate(value.splitlines()):
                world.canary(f"{name}.{number}", line)
        mesh.deploy("canary")
        for path in ("print", "raise", "exit", "later"):
            client.post(f"/run/canary/{path}")
            accepted = client.post(f"/run_async/canary/{path}")
            mesh.finished(accepted.json()["request_id"])
        called = client.post("/run/canary/call", json={"target": world.target})
        told = called.json()
        assert (told[0], told[3], told[4]) == ("200", "404", "200"), told
        assert set(told[1:3]) <= {"ConnectError", "ReadError"}, told
        # What it was for has reached the one who may have it.
        assert values["CANARY_PLAIN"] in world.asked[0]
        assert values["CANARY_OUTSIDE"] in world.asked[0]
        # It doesn't even start any more, here and at a check.
        client.put("/secrets/CANARY_AT_IMPORT", json={"value": "yes please"})
        until(lambda: client.post("/run/canary/print").status_code == 502)  # a second at most
        for _ in range(2):
            failed = client.post("/run/canary/print")
            assert failed.status_code == 502, failed.text
            assert "can't connect with" in failed.json()["detail"]
            assert not [value for value in values.values() if value in failed.text]
        code = (Path(__file__).parent / "workflows" / "canary.py").read_text()
        report = client.post("/validate", json={"code": code}).text
        assert "can't connect with" in report
        assert not [value for value in values.values() if value in report]
        client.delete("/secrets/CANARY_AT_IMPORT")


def use_keys(world: World) -> None:
    mesh = world.mesh
    made = mesh.new_key()
    keys = {
        "standard": made["key"],
        "revoked": mesh.new_key()["key"],
        "malformed": f"cwk-{random_text(36)}",
        "one-time": "",
        "other": mesh.new_organization("canaries")["key"],
    }
    with mesh.http() as client:
        for name in ("one-time", "one-time in the query", "one-time async"):
            keys[name] = client.post("/keys", json={"kind": "one_time"}).json()["key"]
        listed = client.get("/keys").json()["items"]
        client.delete(f"/keys/{next(one['id'] for one in listed if keys['revoked'].startswith(one['prefix']))}")
    for name, key in keys.items():
        world.canary(name, key)
    with mesh.http("") as client:
        for key in (keys["standard"], keys["malformed"], keys["revoked"], keys["other"]):
            for header in HEADERS:
                sent = {"Authorization" if header == "bare" else header: f"Bearer {key}" if header[0] == "A" else key}
                for path in ("/run/canary/print", "/run/canary/sink/x", "/credits", "/keys", "/api/v1/run/probe"):
                    client.post(path, headers=sent, json={})
                    client.get(path, headers=sent)
            for path in ("/run/canary/sink/x", "/credits", "/request/run_1", "/nowhere", "/file", "/logs/run_1"):
                for name in ("key", "api_key", "access_token"):
                    for method in ("GET", "POST"):
                        client.request(method, path, params={name: key})
                        # The right way, and the wrong one besides.
                        client.request(method, path, params={name: key}, headers={"X-Api-Key": key, "Cookie": key})
                        client.post(f"/run_async/canary/sink?{name}={key}", headers={"X-Api-Key": key})
        client.post("/run/probe", json={}, headers={"X-Api-Key": keys["one-time"]})
        client.post("/run/canary/sink/x", params={"key": keys["one-time in the query"]})
        accepted = client.post("/run_async/probe", json={}, headers={"Authorization": keys["one-time async"]})
        assert accepted.status_code == 200, accepted.text
        # A key that it sends as something else, too, and that the workflow would print.
        client.post("/run/canary/print", headers={"X-For-You": keys["standard"], "Authorization": keys["standard"]})


def check(world: World) -> None:
    mesh = world.mesh
    # A workflow's own output is kept: what it says there is found, so the search works.
    control = f"control{random_text()}"
    with mesh.http() as client:
        accepted = client.post("/run_async/probe", json={"name": control})
        mesh.finished(accepted.json()["request_id"])
        mesh.deploy(f"named-{control.lower()}", (Path(__file__).parent / "workflows" / "probe.py").read_text())
        client.post(f"/run/named-{control.lower()}", json={})
        client.get(f"/workflows/{control}")
    until(lambda: any(control.lower().encode() in span.SerializeToString() for span in world.spans.spans), 15)
    found = world.where(sorted(spellings(control)))
    assert [place for place in found if "scheduler" in place or place == "the database"], found
    assert "spans" in world.where(sorted(spellings(control.lower())))
    odd = sorted(spellings(world.canaries["CANARY_ODD.0"]))
    planted = {mesh.home / f"planted-{number}": spelling for number, spelling in enumerate(odd)}
    for path, spelling in planted.items():
        path.write_bytes(b"something " + spelling + b" else")
    found = world.where(odd)
    assert {str(path) for path in planted} <= set(found)
    for path in planted:
        path.unlink()
    mesh.output.append(f"x{base64.b64encode(control.encode()).decode()}y")
    assert "the services' output" in world.where(sorted(spellings(control)))
    mesh.output.pop()
    # And now what nobody may find.
    everything = {name: sorted(spellings(value)) for name, value in world.canaries.items()}
    given = everything.pop("CANARY_NESTED.0")
    assert not [place for place in world.where(given) if not any(part in place for part in THE_DATABASE)]
    if world.where(sorted(set().union(*everything.values()))):
        told = {name: places for name, wanted in everything.items() if (places := world.where(wanted))}
        raise AssertionError(json.dumps(told, indent=1))


def shown_in_logs(world: World) -> None:
    """The runs' own logs say that something is hidden, and show nothing of it either."""
    with world.mesh.http() as client:
        runs = client.get("/requests", params={"service_id": "canary", "limit": 1000}).json()["items"]
        logs = "".join(
            client.get(f"/logs/{run['id']}", headers={"Accept": "application/x-ndjson"}).text for run in runs
        )
        egress = "".join(client.get(f"/request/{run['id']}/egress").text for run in runs)
    assert "imported with *** ***" in logs
    assert "***.example.invalid" in egress
    assert "cwk-***" in logs
    for name, value in world.canaries.items():
        assert not [spelling for spelling in spellings(value) if spelling in (logs + egress).encode()], name


def kek_is_known_to_one(world: World) -> None:
    """And to nobody's arguments; with it, no file is made."""
    kek = world.canaries["kek"].encode()
    for pid, words in world.mesh.programs().items():
        assert (kek in Path(f"/proc/{pid}/environ").read_bytes()) == (words[1:] == ["-m", "keys"]), words
        assert kek.decode() not in " ".join(words)
    assert not (world.mesh.home / "secrets" / "kek").exists()


def go(world: World) -> None:
    kek_is_known_to_one(world)
    give_away_secrets(world)
    use_keys(world)
    time.sleep(2)  # spans and reports come in batches
    shown_in_logs(world)
    check(world)


def test_nothing_of_secrets_and_keys_is_left_anywhere() -> None:
    with world() as one:
        go(one)


def test_nothing_is_left_on_postgresql_either() -> None:
    with postgres_server() as server, world(server) as one:
        go(one)
