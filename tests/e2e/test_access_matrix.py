"""Every call of the protos by everybody: exactly what docs/access.md says."""

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
    "Deploy": {"code": ECHO, "name": "matrix"},
    "UpdateWorkflow": {"name": "matrix"},
    "RollBackWorkflow": {"version": 1},
    "SplitTraffic": {"1": 100},
    "PutSecret": {"value": "1"},
    "CreateSchedule": {**SCHEDULE, "service_id": "matrix"},
    "ReplayRequest": {},
}


@dataclass
class Caller:
    """Somebody. `make` gives what is used up by a call; `inside`: through a workflow."""

    client: httpx.Client
    inside: bool = False

    def call(self, method: str, path: str, body: Any, key: str | None = None) -> tuple[int, dict[str, Any]]:
        """Status, and the answer's JSON if it is an error."""
        if self.inside:
            wanted = {"method": method, "path": path, "json": body}
            told = self.client.post("/run/probe/nested", json=wanted).json()
            answer = httpx.Response(told["status"], text=told["text"])
        else:
            headers = {} if key is None else {"Authorization": f"Bearer {key}"}
            answer = self.client.request(method, path, json=body, headers=headers)
        return answer.status_code, answer.json() if answer.status_code >= 400 else {}


class Things:
    """What the first organization has, and keys of everybody."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        self.first = mesh.http()
        mesh.deploy("matrix", ECHO)
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

    def close(self) -> None:
        for caller in (*self.callers.values(), *self.lacking.values(), self.files_alone):
            caller.client.close()

    def _settled(self) -> bool:
        """Whether all is known that may be told of the runs."""
        ids = (self.run_id, self.replay_id, self.once_run_id)
        return all(self.first.get(f"/request/{run_id}/receipt").status_code == 200 for run_id in ids)

    def one_time(self) -> str:
        return str(self.mesh.new_key(kind="one_time")["key"])

    def caller(self, who: str, needs: str) -> Caller:
        if who != "lacking":
            return self.callers[who]
        scope = needs.split("`")[1] if "`" in needs else ""
        return self.lacking[scope] if scope else self.files_alone

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
            "file_name": lambda: "start.js",
        }
        return re.sub(r"\{(\w+)\}", lambda found: values[found[1]](), operation.path)

    def _organization(self) -> str:
        return str(self.first.get("/workflows/matrix").json()["url"].rpartition("/")[2].partition(".")[0])

    def _secret(self, operation: Operation) -> str:
        if operation.id == "DeleteSecret":
            self.first.put("/secrets/MATRIX", json={"value": "1"})
        return "MATRIX"

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
    wrong = []
    # What deletes the workflow is the last of all, since all are made with it.
    for name in sorted(CALLS, key=lambda name: CALLS[name].id == "DeleteWorkflow"):
        operation, (needs, *cells) = CALLS[name], table()[name]
        expected = int(re.sub(r"\D", "", cells[WHO.index(who)])[:3])
        caller, key = things.caller(who, needs), things.key(who, operation)
        status, error = caller.call(operation.method.upper(), things.path(operation, who), things.body(operation), key)
        if (status, error.get("code")) != (expected, CODES.get(expected)):
            wrong.append(f"{name}: {status} {error}, not {expected}")
    assert not wrong, "\n".join(wrong)
