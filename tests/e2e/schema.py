"""Calls that schemathesis makes of openapi.json, through Envoy, and what they are judged by. Part of them are of things
that exist, so that every operation has something to do.
"""

import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jsonschema_rs
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import APIOperation, GenerationMode, Response
from schemathesis import Case as AnyCase
from schemathesis.specs.openapi import checks

from tests.e2e.mesh import Mesh

Case = AnyCase[Any]
CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
ECHO = """# /// script
# requires-python = ">=3.11"
# dependencies = ["uvicorn"]
# ///
import json, uvicorn

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    size, more = 0, True
    while more:
        part = await receive()
        size, more = size + len(part.get("body", b"")), part.get("more_body", False)
    print("called", flush=True)
    body = json.dumps({"method": scope["method"], "path": scope["path"], "size": size}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})

if __name__ == "__main__":
    uvicorn.run(app)
"""
# What would hold for the whole mesh, and other tests on it: an own meter instead.
METER = "tokens:openai/nobody-s-model:in"
OF_RUNS = {"Run", "RunGet", "RunPut", "RunPatch", "RunDelete", "RunAsync", "RunPublished", "StreamPublished"}
FOR_FIRST = {"CreateOrganization", "SetRates", "GrantCredits", "SetPrice", "RotateReceiptKey"}


@dataclass
class Tally:
    """What became of the calls, by operation."""

    made: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)


class Things:
    """An organization with one of each; what a call uses up is made for it."""

    def __init__(self, mesh: Mesh) -> None:
        made = mesh.new_organization("schema")
        self.organization_id, self.key = made["id"], made["key"]
        self._first = mesh.http()
        self._own = mesh.http(self.key)
        self._first.post("/credits", json={"organization_id": made["id"], "amount": 10**9, "reason": "tests"})
        self.throttled = mesh.new_organization("throttled")["id"]
        mesh.deploy("echo", ECHO, self.key)
        answer = self._own.post("/run/echo", json={"a": 1}, headers={"X-Callback-Url": "http://127.0.0.1:9/"})
        self.run_id = answer.headers["x-request-id"]
        self.replay_id = self._own.post(f"/request/{self.run_id}/replay", json={}).json()["request_id"]
        self._own.get(f"/result/{self.replay_id}?timeout=60")
        wanted = {"service_id": "echo", "kind": "whatsapp", "secret": HOOK_SECRET, "verify_token": "agreed"}
        self.hook: dict[str, str] = self._own.post("/hooks", json=wanted).json()

    def close(self) -> None:
        self._first.close()
        self._own.close()

    def key_for(self, operation_id: str, mesh: Mesh) -> str:
        return mesh.key if operation_id in FOR_FIRST else self.key

    def parameters(self, operation_id: str, names: Mapping[str, Any]) -> dict[str, str]:
        """Those of a path that lead somewhere."""
        known: dict[str, Callable[[], str]] = {
            "service_id": lambda: self._service(operation_id),
            "workflow_id": lambda: "echo",
            "path": lambda: "a/b",
            "request_id": lambda: self.replay_id if operation_id == "ReadDiff" else self.run_id,
            "key_id": lambda: str(self._made("/keys", kind="standard")),
            "organization_id": lambda: self.throttled,
            "schedule_id": lambda: str(self._made("/schedules", **SCHEDULE)),
            "name": self._secret,
            "template_id": lambda: "person_finder",
            "hook": lambda: self._hook(operation_id),
        }
        return {name: known[name]() for name in names if name in known}

    def _hook(self, operation_id: str) -> str:
        if operation_id != "DeleteHook":
            return self.hook["url"].rpartition("/")[2]
        return str(self._made("/hooks", service_id="echo"))

    def _service(self, operation_id: str) -> str:
        return "echo" if operation_id in OF_RUNS or operation_id.startswith(("Read", "List", "Roll")) else "deployed"

    def _made(self, path: str, **body: Any) -> str:
        answer = self._own.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["id"])

    def _secret(self) -> str:
        assert self._own.put("/secrets/A_SECRET", json={"value": "1"}).status_code == 200
        return "A_SECRET"

    def body(self, operation_id: str) -> dict[str, Any]:
        """Fields that make sense, for those whose generated ones hardly do."""
        return {
            "IssueKey": {"kind": "standard", "name": "a", "scopes": ["run"], "bind": None, "expires_at": None},
            "GrantCredits": {"organization_id": self.organization_id, "amount": 5, "reason": "tests"},
            "SetPrice": {"meter": METER, "micro_credits_per_million": 5, "valid_from": None},
            "Validate": {"code": "x ="},
            "Deploy": {"code": ECHO, "name": "deployed", "service_id": "deployed", "kind": None},
            "UpdateWorkflow": {"name": "changed"},
            "RollBackWorkflow": {"version": 1},
            "CreateSchedule": SCHEDULE,
            "CreateHook": {"service_id": "echo", "kind": "standard", "secret": None},
            "CreateOrganization": {"name": "made"},
            "PutSecret": {"value": "1", "hosts": None},
            "ReplayRequest": {"version": None, "mode": "live"},
        }.get(operation_id, {})


HOOK_SECRET = "of Meta"
SCHEDULE = {"service_id": "echo", "cron_expression": "0 0 1 1 *", "timezone": "UTC"}


def described(mesh: Mesh) -> dict[str, Any]:
    """The document, as anybody gets it."""
    with mesh.http("") as client:
        found: dict[str, Any] = client.get("/openapi.json").json()
    return found


class Explorer:
    """Makes the calls that `document` describes. `fill(operation_id, case)` may set what only its mesh knows."""

    def __init__(
        self,
        mesh: Mesh,
        things: Things,
        document: dict[str, Any],
        first_seed: int,
        fill: Callable[[str, Case], None] = lambda _id, _case: None,
    ) -> None:
        self._mesh = mesh
        self._things = things
        self._seed = first_seed
        self._fill = fill
        self.tally = Tally()
        self._schema: Any = schemathesis.openapi.from_dict(document)
        self._errors = jsonschema_rs.validator_for(
            {"$ref": "#/components/schemas/Error", "components": document["components"]}
        )
        self._lines = jsonschema_rs.validator_for(
            {"$ref": "#/components/schemas/LogLine", "components": document["components"]}
        )
        self._session = requests.Session()
        self._session.trust_env = False

    def operations(self) -> list[APIOperation[Any, Any, Any, Any]]:
        """All; what uses another one's workflow up comes last."""
        found = [each.ok() for each in self._schema.get_all_operations()]
        return sorted(found, key=lambda each: each.definition.raw["operationId"] == "DeleteWorkflow")

    def explore(self, operation: Any, mode: GenerationMode, examples: int) -> None:
        """So many calls of it, none where nothing can be wrong with one."""
        operation_id: str = operation.definition.raw["operationId"]

        @seed(self._seed)
        @settings(
            max_examples=examples,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode), known=st.booleans())
        def attempt(case: Case, known: bool) -> None:  # Hypothesis gives it by name
            first = not self.tally.made[operation_id]
            if known or first:
                self._know(operation_id, case, whole=mode is GenerationMode.POSITIVE)
            self._judged(operation_id, case)

        try:
            attempt()
        except Unsatisfiable:
            assert mode is GenerationMode.NEGATIVE, operation_id

    def _know(self, operation_id: str, case: Case, *, whole: bool) -> None:
        case.path_parameters = {
            **(case.path_parameters or {}),
            **self._things.parameters(operation_id, case.path_parameters or {}),
        }
        if not whole:
            return
        fields = self._things.body(operation_id)
        if operation_id == "SplitTraffic":
            case.body = {"1": 100}
        elif operation_id == "Deploy":
            case.body = fields
        elif fields:
            case.body = {**(case.body if isinstance(case.body, dict) else {}), **fields}
        if operation_id == "ReceiveEvent":
            case.body = {}
            digest = hmac.new(HOOK_SECRET.encode(), b"{}", hashlib.sha256).hexdigest()
            case.headers["x-hub-signature-256"] = f"sha256={digest}"
        for name in ("X-Provisioned-Request-Id", "X-Budget", "X-Callback-Url", "Idempotency-Key"):
            if case.headers and name in case.headers:
                del case.headers[name]
        if operation_id == "ReceiveEventGet":
            case.query = {"hub.mode": "subscribe", "hub.verify_token": "agreed", "hub.challenge": "1"}
        elif case.query and operation_id != "CreateFile":
            case.query = {name: each for name, each in case.query.items() if name in {"limit", "group_by", "timeout"}}
        self._fill(operation_id, case)

    def _judged(self, operation_id: str, case: Case) -> None:
        if operation_id == "SetPrice" and isinstance(case.body, dict) and isinstance(case.body.get("meter"), str):
            case.body["meter"] = METER
        key = self._things.key_for(operation_id, self._mesh)
        answer = case.call(
            base_url=self._mesh.url, session=self._session, headers={"Authorization": f"Bearer {key}"}, timeout=150
        )
        self.tally.made[operation_id] += 1
        self.tally.statuses[answer.status_code] += 1
        self.tally.done[operation_id] += 200 <= answer.status_code < 300
        case.validate_response(answer, checks=CHECKS)
        self._own_rules(operation_id, case, answer)

    def _own_rules(self, operation_id: str, case: Case, answer: Response) -> None:
        headers = {name: values[0] for name, values in answer.headers.items()}
        told = (operation_id, answer.status_code, answer.text[:500] if answer.content else "")
        if answer.status_code >= 400:
            assert headers["error-origin"] in {"runtime", "service"}, told
        assert answer.status_code < 500, told  # the workflows that are called here, the library's too, have no reason
        if headers.get("error-origin") == "runtime":
            self._errors.validate(answer.json())
            codes = case.operation.definition.raw["responses"].get("default", {}).get("x-runtime-errors")
            assert codes is None or answer.json()["code"] in codes[str(answer.status_code)], told
        if operation_id == "ReadLogs" and headers["content-type"] == "application/x-ndjson":
            for line in answer.text.splitlines():
                self._lines.validate(json.loads(line)) if line else None
