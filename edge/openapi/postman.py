"""The document as a collection for Postman (https://schema.postman.com/collection/json/v2.1.0/draft-07/docs/)."""

import json
from collections.abc import Mapping
from typing import Any

from edge.openapi.described import JSON

SCHEMA = "https://schema.getpostman.com/json/collection/v2.1.0/collection.json"


def collection(document: Mapping[str, Any]) -> dict[str, Any]:
    """A folder for each tag. `baseUrl` is the first server; the key goes into the variable `apiKey`."""
    folders: dict[str, list[dict[str, Any]]] = {tag["name"]: [] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            folders[operation["tags"][0]].append(_item(document, path, method, operation))
    return {
        "info": {"name": document["info"]["title"], "description": document["info"]["description"], "schema": SCHEMA},
        "auth": {"type": "bearer", "bearer": [{"key": "token", "value": "{{apiKey}}", "type": "string"}]},
        "variable": [
            {"key": "baseUrl", "value": document["servers"][0]["url"], "type": "string"},
            {"key": "apiKey", "value": "", "type": "string"},
        ],
        "item": [
            {"name": tag["name"], "description": tag["description"], "item": folders[tag["name"]]}
            for tag in document["tags"]
        ],
    }


def _item(document: Mapping[str, Any], path: str, method: str, operation: Mapping[str, Any]) -> dict[str, Any]:
    parameters = [_resolved(document, each) for each in operation.get("parameters", [])]
    headers = [_pair(each) for each in parameters if each["in"] == "header"]
    request: dict[str, Any] = {
        "method": method.upper(),
        "description": operation["description"],
        "header": headers,
        "url": _url(path, parameters),
    }
    if not operation["security"]:
        request["auth"] = {"type": "noauth"}
    if "requestBody" in operation:
        headers.insert(0, {"key": "Content-Type", "value": JSON})
        request["body"] = {
            "mode": "raw",
            "raw": json.dumps(_example(document, operation["requestBody"]), ensure_ascii=False, indent=2),
            "options": {"raw": {"language": "json"}},
        }
    return {"name": f"{operation['summary']} ({operation['operationId']})", "request": request, "response": []}


def _url(path: str, parameters: list[Mapping[str, Any]]) -> dict[str, Any]:
    steps = [f":{step[1:-1]}" if step.startswith("{") else step for step in path.strip("/").split("/")]
    return {
        "raw": "{{baseUrl}}/" + "/".join(steps),
        "host": ["{{baseUrl}}"],
        "path": steps,
        "query": [_pair(each) for each in parameters if each["in"] == "query"],
        "variable": [
            {"key": each["name"], "value": _value(each), "description": each.get("description", "")}
            for each in parameters
            if each["in"] == "path"
        ],
    }


def _pair(parameter: Mapping[str, Any]) -> dict[str, Any]:
    """One that may be left out, and is, until somebody ticks it."""
    return {
        "key": parameter["name"],
        "value": _value(parameter),
        "description": parameter.get("description", ""),
        "disabled": True,
    }


def _value(parameter: Mapping[str, Any]) -> str:
    schema = parameter["schema"]
    known = (*schema.get("examples", []), schema.get("default"), *schema.get("enum", []))
    return next((str(each) for each in known if each is not None), "")


def _example(document: Mapping[str, Any], body: Mapping[str, Any]) -> Any:
    """The first example of the shape, or of the first that it may be; {} where there is none."""
    shape = body["content"].get(JSON, {}).get("schema", {})
    while "$ref" in shape or "anyOf" in shape:
        shape = (
            document["components"]["schemas"][shape["$ref"].rpartition("/")[2]]
            if "$ref" in shape
            else shape["anyOf"][0]
        )
    return next(iter(shape.get("examples", [])), {})


def _resolved(document: Mapping[str, Any], part: Mapping[str, Any]) -> Mapping[str, Any]:
    """What it refers to, or itself."""
    if "$ref" not in part:
        return part
    kind, name = part["$ref"].removeprefix("#/components/").split("/")
    found: Mapping[str, Any] = document["components"][kind][name]
    return found
