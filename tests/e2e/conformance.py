"""Every answer that an end-to-end test gets through Mesh.http is held against openapi.json."""

import re
from functools import cache
from typing import Any

import httpx
import jsonschema_rs

from tests.fakes.handlers import openapi

# What any call may be answered: another method, an upgrade, a call at import; see the document's own description.
ANYWHERE = {405, 409, 501}
JSON = "application/json"


@cache
def document() -> dict[str, Any]:
    return openapi()


@cache
def routes() -> list[tuple[re.Pattern[str], dict[str, Any]]]:
    """Patterns of paths, and the operations by method. Those whose answers are a workflow's own aren't there."""
    return [
        (re.compile(re.sub(r"\{\w+\}", "[^/]+", path) + "/?"), methods)
        for path, methods in document()["paths"].items()
        if not any("x-runtime-errors" in each["responses"].get("default", {}) for each in methods.values())
    ]


@cache
def validator(operation_id: str, status: str) -> Any:
    """Of an answer's body."""
    (operation,) = (
        each
        for methods in document()["paths"].values()
        for each in methods.values()
        if each["operationId"] == operation_id
    )
    shape = resolved(operation["responses"][status])["content"][JSON]["schema"]
    return jsonschema_rs.validator_for({**shape, "components": document()["components"]})


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    """What it refers to, or itself."""
    if "$ref" not in part:
        return part
    kind, name = part["$ref"].removeprefix("#/components/").split("/")
    found: dict[str, Any] = document()["components"][kind][name]
    return found


def check(response: httpx.Response) -> None:
    """Fails the test where this isn't an answer that the document knows. Of streams only the head is looked at."""
    method, path = response.request.method.lower(), response.request.url.raw_path.decode().partition("?")[0]
    operation = _operation("get" if method == "head" else method, path)
    if operation is None or response.status_code in ANYWHERE:
        return
    status = str(response.status_code)
    status = status if status in operation["responses"] else "default"
    told = f"{method.upper()} {path}: {response.status_code}"
    assert status in operation["responses"], f"{told} isn't documented: add its code in edge/openapi/"
    answer = resolved(operation["responses"][status])
    for name, header in answer["headers"].items():
        assert name in response.headers or not resolved(header).get("required"), f"{told} lacks {name}"
    kind = response.headers.get("content-type", "").partition(";")[0]
    assert kind in answer["content"], f"{told} is {kind}, which isn't documented"
    if kind == JSON and method != "head" and "content-length" in response.headers:
        response.read()
        faults = [each.message for each in validator(operation["operationId"], status).iter_errors(response.json())]
        assert not faults, f"{told} isn't of the documented shape (edge/openapi/): {faults}"


def _operation(method: str, path: str) -> dict[str, Any] | None:
    for pattern, methods in routes():
        if pattern.fullmatch(path):
            found: dict[str, Any] | None = methods.get(method)
            return found
    return None
