"""Every call of the protos by everybody: exactly what docs/access.md says."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from edge.openapi.operations_wire import Operation, operations
from keys.mint import checksum
from tests.e2e.mesh import ROOT, Mesh, until
from tests.e2e.schema import ECHO, METER, SCHEDULE

pytestmark = pytest.mark.timeout(180)
ALL = ["run", "files", "deploy", "admin"]
WHO = ("no key", "unknown", "token", "lacking", "one-time", "other", "other's admin", "in a run", "first admin")
CODES = {401: "unauthenticated", 403: "forbidden", 404: "not_found", 424: "missing_secret"}
NEVER_MADE = "cwk-" + "0" * 30
BODIES: dict[str, Any] = {
    "IssueKey": {"kind": "standard", "scopes": ["run"]},
    "RotateKey": {},
    "CreateOrganization": {"name": "made"},
    "SetRates": {"per_second": 500},
    "GrantCredits": {"amount": 1, "reason": "tests"},
    "SetPrice": {"meter": METER, "micro_credits_per_million": 1},
    "Validate": {"code": "x ="},
    "Deploy": {"code": ECHO, "name": "deployed"},
    "UpdateWorkflow": {"name": "matrix"},
    "RollBackWorkflow": {"version": 1},
    "SplitTraffic": {"1": 100},
    "PutSecret": {"value": "1"},
    "CreateSchedule": {**SCHEDULE, "service_id": "matrix"},
    "ReplayRequest": {},
    "CreateHook": {"service_id": "matrix"},
    "ReceiveEvent": {"unsigned": True},
}


INSIDE = """# /// script
# requires-python = ">=3.11"
# dependencies = ["uvicorn"]
# ///
import asyncio, json, os, urllib.error, urllib.request, uvicorn

def call(method, path, body):
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": os.environ["CODEWORDS_API_KEY"], "Content-Type": "application/json"}
    address = os.environ["CODEWORDS_RUNTIME_URI"] + path
    request = urllib.request.Request(address, data, headers, method=method)
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status, ""
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    raw, more = b"", True
    while more:
        part = await receive()
        raw, more = raw + part.get("body", b""), part.get("more_body", False)
    told = [await asyncio.to_thread(call, *wanted) for wanted in json.loads(raw or "[]")]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": json.dumps(told).encode()})

if __name__ == "__main__":
    uvicorn.run(app)
"""
"""Makes the calls that it is given."""


@dataclass
class Wanted:
    """A call. `key`: where it needs one of its own."""

    method: str
    path: str
    body: Any
    key: str | None = None


@dataclass
class Caller:
    """Somebody. `inside`: a workflow, in one run."""

    client: httpx.Client
    inside: bool = False

    def make(self, calls: list[Wanted]) -> list[tuple[int, dict[str, Any]]]:
        """Status, and the answer's JSON if it is an error."""
        if not self.inside:
            return [self._made(each) for each in calls]
        wanted = [(each.method, each.path, each.body) for each in calls]
        told = self.client.post("/run/matrix", json=wanted).json()
        return [(status, json.loads(text) if text else {}) for status, text in told]

    def _made(self, wanted: Wanted) -> tuple[int, dict[str, Any]]:
        headers = {} if wanted.key is None else {"Authorization": f"Bearer {wanted.key}"}
        answer = self.client.request(wanted.method, wanted.path, json=wanted.body, headers=headers)
        return answer.status_code, answer.json() if answer.status_code >= 400 else {}


class Things:
    """What the first organization has, and keys of everybody."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.first = mesh.http()
        mesh.deploy("matrix", INSIDE)
        self.run_id = self.first.post("/run/matrix", json={}).headers["x-request-id"]
        self.replay_id = self.first.post(f"/request/{self.run_id}/replay", json={}).json()["request_id"]
        self.own_once = self.one_time()
        with mesh.http(self.own_once) as client:
            self.once_run_id = client.post("/run/matrix", json={}).headers["x-request-id"]
        self.other = mesh.new_organization("others")
        with mesh.http(self.other["key"]) as client:
            made = client.post("/keys", json={"kind": "standard"}).json()
        self.callers = {
            "no key": Caller(mesh.http("")),
            "unknown": Caller(mesh.http(NEVER_MADE + checksum(NEVER_MADE))),
            "token": Caller(mesh.http("cwk-run-" + "a" * 36)),
            "one-time": Caller(mesh.http("")),
            "other": Caller(mesh.http(made["key"])),
            "other's admin": Caller(mesh.http(self.other["key"])),
            "in a run": Caller(self.first, inside=True),
            "first admin": Caller(self.first),
        }
        self.lacking = {
            scope: Caller(mesh.http(mesh.new_key(scopes=[one for one in ALL if one != scope])["key"])) for scope in ALL
        }
        self.files_alone = Caller(mesh.http(mesh.new_key(scopes=["files"])["key"]))
        until(self._settled)
        until(self._stocked, 150)

    def close(self) -> None:
        for caller in (*self.callers.values(), *self.lacking.values(), self.files_alone):
            caller.client.close()

    def _settled(self) -> bool:
        """Whether all is known that may be told of the runs."""
        ids = (self.run_id, self.replay_id, self.once_run_id)
        return all(self.first.get(f"/request/{run_id}/receipt").status_code == 200 for run_id in ids)

    def _stocked(self) -> bool:
        """Whether the services of the library that have paths of their own are there: they come while the mesh runs."""
        names = ("openai", "anthropic", "gemini")
        return all(self.first.get(f"/workflows/{name}").json().get("visibility") == "public" for name in names)

    def one_time(self) -> str:
        return str(self.mesh.new_key(kind="one_time")["key"])

    def by_caller(self, who: str, needs: dict[str, str]) -> list[tuple[Caller, list[str]]]:
        """Who makes which calls. `needs` by call, in their order."""
        if who != "lacking":
            return [(self.callers[who], list(needs))]
        scopes = {name: need.split("`")[1] if "`" in need else "" for name, need in needs.items()}
        callers = {**self.lacking, "": self.files_alone}
        return [(caller, [name for name in needs if scopes[name] == scope]) for scope, caller in callers.items()]

    def key(self, who: str, operation: Operation) -> str | None:
        """Where each call needs one of its own."""
        if who != "one-time":
            return None
        return self.own_once if "request_id" in operation.parameters else self.one_time()

    def path(self, operation: Operation, who: str) -> str:
        organization = "" if who in {"one-time", "in a run", "first admin", "lacking"} else self._organization() + "."
        run_id = self.once_run_id if who == "one-time" else self.run_id
        values: dict[str, Callable[[], str]] = {
            "service_id": lambda: f"{organization}matrix",
            "workflow_id": lambda: f"{organization}matrix",
            "path": lambda: "models",
            "request_id": lambda: self.replay_id if operation.id == "ReadDiff" else run_id,
            "key_id": lambda: str(self.mesh.new_key()["id"]),
            "organization_id": lambda: str(self.other["id"]),
            "schedule_id": lambda: str(self.first.post("/schedules", json=BODIES["CreateSchedule"]).json()["id"]),
            "name": lambda: self._secret(operation),
            "template_id": lambda: "person_finder",
            "hook": lambda: self._hook(operation),
            "file_name": lambda: "start.js",
        }
        missing = set(operation.parameters) - set(values)
        assert not missing, f"say here what {missing} of {operation.id} may be"
        return re.sub(r"\{(\w+)\}", lambda found: values[found[1]](), operation.path)

    def _organization(self) -> str:
        return str(self.first.get("/workflows/matrix").json()["url"].rpartition("/")[2].partition(".")[0])

    def _hook(self, operation: Operation) -> str:
        wanted = {"service_id": "matrix", "kind": "whatsapp", "secret": "of Meta"}
        made = self.first.post("/hooks", json=wanted).json()
        return str(made["id"] if operation.id == "DeleteHook" else made["url"].rpartition("/")[2])

    def _secret(self, operation: Operation) -> str:
        if operation.id == "PutSecret":
            return "WRITTEN"
        self.first.put("/secrets/DOOMED", json={"value": "1"})
        return "DOOMED"

    def wanted(self, operation: Operation, who: str) -> Wanted:
        return Wanted(
            operation.method.upper(), self.path(operation, who), self.body(operation), self.key(who, operation)
        )

    def body(self, operation: Operation) -> Any:
        if operation.id == "GrantCredits":
            return {**BODIES[operation.id], "organization_id": self.other["id"]}
        return BODIES.get(operation.id)


@pytest.fixture(scope="module")
def things(mesh: Mesh) -> Iterator[Things]:
    made = Things(mesh)
    yield made
    made.close()


def table() -> dict[str, list[str]]:
    """By method and path: what is needed, and the cells."""
    text = (ROOT / "docs" / "access.md").read_text()
    rows = [
        [cell.strip() for cell in line.strip("|\n").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    header = next(row for row in rows if row[0] == "call")
    assert tuple(header[2:]) == WHO
    return {row[0].strip("`"): row[1:] for row in rows if re.match(r"`[A-Z]+ /", row[0])}


CALLS = {f"{each.method.upper()} {each.path}": each for each in operations()}


def test_the_table_has_every_call() -> None:
    assert list(table()) == list(CALLS), "docs/access.md has a row for each call of the protos, in their order"


@pytest.mark.parametrize("who", WHO)
def test_everybody_gets_what_is_documented(mesh: Mesh, things: Things, who: str) -> None:
    rows = table()
    # What deletes the workflow is the last of all, since all are made with it.
    names = sorted(CALLS, key=lambda name: CALLS[name].id == "DeleteWorkflow")
    wrong = []
    for caller, group in things.by_caller(who, {name: rows[name][0] for name in names}):
        answers = caller.make([things.wanted(CALLS[name], who) for name in group])
        for name, (status, error) in zip(group, answers, strict=True):
            expected = int(re.sub(r"\D", "", rows[name][1 + WHO.index(who)])[:3])
            if (status, error.get("code")) != (expected, CODES.get(expected)):
                wrong.append(f"{name}: {status} {error}, not {expected}")
    assert not wrong, "\n".join(wrong)
