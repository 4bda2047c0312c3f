"""The document: OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.1.html)."""

import re
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from edge.model import Access
from edge.openapi import errors
from edge.openapi.described import PARAMETERS, Described
from edge.openapi.errors import Fault, error_shape
from edge.openapi.keys import KEYS, SECRETS, WEBHOOKS
from edge.openapi.money import MONEY, RECEIPTS
from edge.openapi.operations_wire import Operation, operations, tags
from edge.openapi.platform import DOCUMENTS, FILES, PLATFORM
from edge.openapi.runs import RUNS
from edge.openapi.shapes import Shape
from edge.openapi.workflows import SCHEDULES, WORKFLOWS

DESCRIBED: Mapping[str, Described] = {
    **RUNS,
    **KEYS,
    **SECRETS,
    **WEBHOOKS,
    **WORKFLOWS,
    **SCHEDULES,
    **MONEY,
    **RECEIPTS,
    **FILES,
    **PLATFORM,
    **DOCUMENTS,
}
"""By rpc, all but Platform.Refuse."""
SCHEMES: Mapping[str, Shape] = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "`Authorization: Bearer KEY`"},
    "authorization": {"type": "apiKey", "in": "header", "name": "Authorization", "description": "the key alone"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "X-Api-Key", "description": "as Anthropic's SDK sends it"},
    "x-goog-api-key": {"type": "apiKey", "in": "header", "name": "x-goog-api-key", "description": "as Google's does"},
}
NEEDS: Mapping[Access, tuple[str, str]] = {
    Access.OPEN: ("", "Needs no key."),
    Access.ANY: ("", "Needs any key but a one-time one."),
    Access.START: ("run", "Needs the scope `run`, or `run:SERVICE`; a one-time key does it once."),
    Access.READ: ("run", "Needs the scope `run`, or `run:SERVICE`; a one-time key may, for its one run."),
    Access.RUN: ("run", "Needs the scope `run`, or `run:SERVICE`."),
    Access.FILES: ("files", "Needs the scope `files`."),
    Access.DEPLOY: ("deploy", "Needs the scope `deploy`."),
    Access.SCHEDULE: ("deploy", "Needs the scope `deploy`."),
    Access.ADMIN: ("admin", "Needs the scope `admin`."),
    Access.FIRST_ADMIN: ("admin", "Needs an `admin` key of the first organization."),
}
"""The scope, and a sentence."""
_ABOUT = """
Runmesh runs single-file Python workflows as authenticated HTTP APIs.

Bodies are JSON, whatever their content type says; a field that isn't known is refused, and `null` stands for one that
was left out. Names are `snake_case`, those of run records and log lines `camelCase`. A slash at the end of a path is
optional, `HEAD` stands for `GET` where that is all there is. Amounts are micro-credits.

An error has a `code`, and `Error-Origin: runtime` where the platform answered, `service` where a workflow did. Besides
those listed, a call may get 405 `method_not_allowed` (another method), 501 `not_supported` (an upgrade to WebSocket),
and from inside of a workflow that is being imported 409 `conflict`.
"""
_FOREIGN = (
    "The workflow's own answer: any status, headers and body. With `Error-Origin: runtime` it is the platform's"
    " instead, an `Error` of one of these codes: "
)


def document(accesses: Mapping[str, Access], public_url: str) -> dict[str, Any]:
    """The whole document. `accesses` by rpc. Errors: KeyError, with advice, for an rpc that nothing is said of."""
    return _Writer(accesses).document(public_url)


class _Writer:
    def __init__(self, accesses: Mapping[str, Access]) -> None:
        self._accesses = accesses
        self._schemas: dict[str, Shape] = {}

    def document(self, public_url: str) -> dict[str, Any]:
        paths: dict[str, dict[str, Any]] = {}
        for each in operations():
            paths.setdefault(each.path, {})[each.method] = self._operation(each)
        self._schema(error_shape(sorted(errors.WHEN), "") | {"title": "Error"})
        return {
            "openapi": "3.1.1",
            "info": {
                "title": "Runmesh",
                "version": version("runmesh"),
                "summary": "Single-file Python workflows as authenticated HTTP APIs",
                "description": _ABOUT.strip(),
                "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
            },
            "servers": [{"url": public_url}],
            "tags": [{"name": name, "description": text} for name, text in tags().items()],
            "paths": paths,
            "components": {"schemas": dict(sorted(self._schemas.items())), "securitySchemes": dict(SCHEMES)},
        }

    def _operation(self, operation: Operation) -> dict[str, Any]:
        described = DESCRIBED.get(operation.rpc)
        if described is None:
            raise KeyError(f"{operation.rpc} isn't described: say in edge/openapi/ what it takes and gives")
        scope, need = NEEDS[self._accesses[operation.rpc]]
        told: dict[str, Any] = {
            "operationId": operation.id,
            "tags": [operation.tag],
            "summary": operation.summary,
            "description": f"{operation.text}\n\n{need}",
            "security": [],
        }
        if self._accesses[operation.rpc] is not Access.OPEN:
            told["security"] = [{name: [scope] if scope else []} for name in SCHEMES]
        if parameters := self._parameters(operation, described):
            told["parameters"] = parameters
        if self._has_body(operation, described):
            told["requestBody"] = {"content": self._content(described.takes), "required": not described.may_be_empty}
        told["responses"] = self._responses(operation, described)
        return told

    def _has_body(self, operation: Operation, described: Described) -> bool:
        return bool(described.takes) and operation.method not in {"get", "delete"}

    def _parameters(self, operation: Operation, described: Described) -> list[dict[str, Any]]:
        own = {name: PARAMETERS[name] for name in operation.parameters}
        places = {"path": own, "query": described.query, "header": described.headers}
        return [
            _named(shape, {"name": name, "in": place, **({"required": True} if place == "path" else {})})
            for place, shapes in places.items()
            for name, shape in shapes.items()
        ]

    def _responses(self, operation: Operation, described: Described) -> dict[str, Any]:
        faults = self._faults(operation, described)
        by_status: dict[int, list[str]] = {}
        for each in sorted(faults):
            by_status.setdefault(each.status, []).append(each.code)
        if described.foreign:
            codes = ", ".join(f"{each.status} `{each.code}`" for each in sorted(faults))
            answer = self._response(_FOREIGN + codes, {"*/*": {}}, {})
            return {"default": answer | {"x-runtime-errors": {str(status): by_status[status] for status in by_status}}}
        tells = {**described.tells, **(errors.RATES if operation.path.startswith("/api/v1/") else {})}
        told: dict[str, Any] = {"200": self._response("It is done.", described.gives, tells)}
        for status, listed in by_status.items():
            text = " ".join(f"`{code}`: {errors.WHEN[code]}" for code in listed)
            told[str(status)] = self._failure(operation, text, [] if described.relays else listed, status)
        if described.relays:
            told["default"] = self._failure(operation, "The workflow's own error.", [], 0)
        return told

    def _faults(self, operation: Operation, described: Described) -> set[Fault]:
        faults = {*errors.ANY_CALL, *map(errors.fault, described.codes)}
        if self._accesses[operation.rpc] is not Access.OPEN:
            faults |= set(errors.WITH_KEY)
        if self._has_body(operation, described):
            faults |= set(errors.WITH_BODY)
        return faults

    def _failure(self, operation: Operation, text: str, codes: list[str], status: int) -> dict[str, Any]:
        answer = self._response(
            text, {"application/json": error_shape(codes, operation.path)}, {"error-origin": errors.ORIGIN}
        )
        if status in errors.RETRIED:
            # Envoy's 408, to whoever is too slow, has none.
            answer["headers"]["retry-after"] = _named(errors.RETRY_AFTER, {"required": status != 408})
        return answer

    def _response(self, text: str, content: Mapping[str, Shape], tells: Mapping[str, Shape]) -> dict[str, Any]:
        told = {**errors.EVERY_ANSWER, **tells}
        return {
            "description": text,
            "headers": {name: _named(shape, {"required": True}) for name, shape in told.items()},
            "content": self._content(content),
        }

    def _content(self, shapes: Mapping[str, Shape]) -> dict[str, Any]:
        return {kind: {"schema": self._schema(shape)} if shape else {} for kind, shape in shapes.items()}

    def _schema(self, shape: Any) -> Any:
        """With what has a title in the components, and a reference in its place."""
        if isinstance(shape, list):
            return [self._schema(each) for each in shape]
        if not isinstance(shape, dict):
            return shape
        written = {name: each if name in _VALUES else self._schema(each) for name, each in shape.items()}
        title = shape.get("title")
        if not isinstance(title, str):
            return written
        if self._schemas.setdefault(title, written) != written:
            raise ValueError(f"two shapes are called {title}")
        return {"$ref": f"#/components/schemas/{title}"}


_VALUES = frozenset({"example", "examples", "default", "enum", "const", "required"})


def _named(shape: Shape, told: dict[str, Any]) -> dict[str, Any]:
    """A parameter or a header: its description stands beside its schema."""
    schema = {name: each for name, each in shape.items() if name != "description"}
    description = {"description": shape["description"]} if "description" in shape else {}
    return told | description | {"schema": schema}


def reference(document: Mapping[str, Any], ref: str) -> Any:
    """What a `$ref` of the document names."""
    found: Any = document
    for part in re.sub("^#/", "", ref).split("/"):
        found = found[part]
    return found
