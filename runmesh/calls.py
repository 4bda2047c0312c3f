"""What is asked, and what the answers mean: the part that sync and async code share. No I/O."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from runmesh.errors import NotConfigured, RunmeshError, told_by
from runmesh.model import Deployment, Integration, Secret, SecretsResult, Validation, WorkflowOutput, checks

DEPLOY_SECONDS = 900.0
NDJSON = "application/x-ndjson"
_SET = {"set", "create", "update"}
_DELETE = {"delete", "remove"}


@dataclass(frozen=True)
class Call:
    """A request to the platform. `seconds` of silence until it is given up."""

    method: str
    path: str
    body: dict[str, Any] | None = None
    params: dict[str, Any] = field(default_factory=dict)
    seconds: float = 60.0

    def options(self) -> dict[str, Any]:
        """For httpx."""
        return {"params": self.params or None, "timeout": self.seconds} | ({"json": self.body} if self.body else {})


def settings(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """How the published client is made. It must not fall back on somebody else's address. Errors: NotConfigured."""
    address = environ.get("CODEWORDS_RUNTIME_URI") or environ.get("RUNTIME_URI")
    key = environ.get("CODEWORDS_API_KEY")
    if not address or not key:
        lacks = " and ".join(
            name for name, value in (("CODEWORDS_RUNTIME_URI", address), ("CODEWORDS_API_KEY", key)) if not value
        )
        raise NotConfigured(f"{lacks} must be set: the server's address, such as http://127.0.0.1:8080, and an API key")
    return {"base_url": address, "api_key": key}


def no_client() -> NotConfigured:
    """The published client is an extra: what else is in this distribution doesn't need it."""
    return NotConfigured("codewords-client isn't installed: pip install 'codewords-client>=0.2.4'")


def validate(code: str | Path) -> Call:
    """POST /validate."""
    return Call("POST", "/validate", {"code": _code(code)}, seconds=DEPLOY_SECONDS)


def validation(told: Any) -> Validation:
    """Its answer."""
    return Validation(bool(told["all_passed"]), checks(told["report"]))


def deploy(code: str | Path, name: str, service_id: str | None, *, publish: bool) -> Call:
    """POST /deploy."""
    body = {"code": _code(code), "name": name} | ({"service_id": service_id} if service_id else {})
    return Call("POST", "/deploy", body, {} if publish else {"publish": "false"}, DEPLOY_SECONDS)


def deployment(told: Any) -> Deployment:
    """Its answer."""
    return Deployment(told["service_id"], told["version"], told["url"], checks(told["report"]))


def secrets(operation: str, name: str, value: str | None, hosts: Sequence[str]) -> Call:
    """What `manage_secrets` asks. Errors: ValueError."""
    if operation not in {"list", "check"} | _SET | _DELETE:
        raise ValueError(f"operation is {operation!r}; it must be list, check, set (create, update) or delete (remove)")
    if operation != "list" and not name:
        raise ValueError(f"secret_name is missing: {operation} needs it")
    if operation in _SET:
        if value is None:
            raise ValueError("secret_value is missing")
        return Call("PUT", _secret(name), {"value": value} | ({"hosts": list(hosts)} if hosts else {}))
    if operation in _DELETE:
        return Call("DELETE", _secret(name))
    return Call("GET", "/secrets", params={"limit": 1000})


def secrets_result(operation: str, name: str, hosts: Sequence[str], told: Sequence[Any]) -> SecretsResult:
    """Of the answers: all pages of a list."""
    if operation in _DELETE:
        return SecretsResult(operation, ())
    if operation in _SET:
        return SecretsResult(operation, (Secret(name, hosts=tuple(hosts)),))
    found = [Secret(item["name"], item["updated_at"], tuple(item["hosts"])) for page in told for item in page["items"]]
    return SecretsResult(operation, tuple(one for one in found if operation == "list" or one.name == name))


def following(call: Call, told: Any) -> Call | None:
    """The next page of a list."""
    if call.method != "GET" or not told.get("next"):
        return None
    return Call(call.method, call.path, params={**call.params, "after": told["next"]})


def pipedream(operation: str, app_slug: str) -> dict[str, str]:
    """What its service is asked. Errors: ValueError."""
    if operation != "check_auth":
        raise ValueError(f"operation is {operation!r}; it must be check_auth")
    if not app_slug:
        raise ValueError("app_slug is missing: the app's name at Pipedream, such as slack")
    return {"app": app_slug}


def integration(app_slug: str, told: Any) -> Integration:
    """Its answer. Errors: RunmeshError."""
    if not isinstance(told, dict) or not isinstance(told.get("connected"), bool):
        raise RunmeshError("the service pipedream answered something else than {connected, connect_link_url}")
    return Integration(app_slug, told["connected"], told.get("connect_link_url"))


def output(record: dict[str, Any]) -> WorkflowOutput:
    """Of the record of a run that is over."""
    answer = record["responseContent"] if record["responseJson"] is None else record["responseJson"]
    return WorkflowOutput(
        record["id"],
        record["status"],
        record["responseStatus"],
        answer,
        record.get("detail") or "",
        record["code"] or "",
        record,
    )


def log_line(line: dict[str, Any]) -> dict[str, Any]:
    """A line of the published client's; it gives what went wrong as lines, too. Errors: RunmeshError."""
    if "createdAt" in line:
        return line
    if "detail" in line:
        raise told_by(line)
    raise RunmeshError(f"the log broke off: {line.get('error') or line.get('rawText') or line}")


def _secret(name: str) -> str:
    return f"/secrets/{quote(name, safe='')}"


def _code(code: str | Path) -> str:
    if isinstance(code, Path):
        return code.read_text(encoding="utf-8")
    if code.endswith(".py") and "\n" not in code:
        raise ValueError(f"code is {code!r}, the name of a file: give Path({code!r}), or its text")
    return code
