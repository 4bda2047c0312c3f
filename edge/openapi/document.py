"""The document: OpenAPI 3.1 (https://spec.openapis.org/oas/v3.1.1.html)."""

from collections.abc import Mapping
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

from edge.model import Access
from edge.openapi import errors
from edge.openapi.components import Components
from edge.openapi.described import PARAMETERS, Described
from edge.openapi.errors import ANY_ERROR
from edge.openapi.hooks import HOOKS
from edge.openapi.keys import KEYS, SECRETS, WEBHOOKS
from edge.openapi.money import MONEY, RECEIPTS
from edge.openapi.operations_wire import Operation, operations, tags
from edge.openapi.platform import DOCUMENTS, FILES, PLATFORM
from edge.openapi.runs import RUNS
from edge.openapi.shapes import Shape
from edge.openapi.workflows import SCHEDULES, TEMPLATES, WORKFLOWS
from edge.rates import API

DESCRIBED: Mapping[str, Described] = {
    **RUNS,
    **KEYS,
    **SECRETS,
    **WEBHOOKS,
    **WORKFLOWS,
    **TEMPLATES,
    **SCHEDULES,
    **HOOKS,
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
    Access.CALL: (
        "run",
        "Needs the scope `run`, or `run:SERVICE`; a one-time key does it once. An open workflow needs no key.",
    ),
    Access.START: ("run", "Needs the scope `run`, or `run:SERVICE`; a one-time key does it once."),
    Access.READ: ("run", "Needs the scope `run`, or `run:SERVICE`; a one-time key may, for its one run."),
    Access.RUN: ("run", "Needs the scope `run`, or `run:SERVICE`."),
    Access.FILES: ("files", "Needs the scope `files`."),
    Access.DEPLOY: ("deploy", "Needs the scope `deploy`."),
    Access.SCHEDULE: ("deploy", "Needs the scope `deploy`."),
    Access.HOOK: ("deploy", "Needs the scope `deploy`."),
    Access.ADMIN: ("admin", "Needs the scope `admin`."),
    Access.FIRST_ADMIN: ("admin", "Needs an `admin` key of the first organization."),
}
"""The scope, and a sentence."""
_ABOUT = """
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
        self._components = Components()

    def document(self, public_url: str) -> dict[str, Any]:
        paths: dict[str, dict[str, Any]] = {}
        for each in operations():
            paths.setdefault(each.path, {})[each.method] = self._operation(each)
        self._components.schema(ANY_ERROR)
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
            "components": {**self._components.all, "securitySchemes": dict(SCHEMES)},
        }

    def _operation(self, operation: Operation) -> dict[str, Any]:
        described = DESCRIBED.get(operation.rpc)
        if described is None:
            raise KeyError(f"{operation.rpc} isn't described: say in edge/openapi/ what it takes and gives")
        access = self._accesses[operation.rpc]
        scope, need = NEEDS[access]
        told: dict[str, Any] = {
            "operationId": operation.id,
            "tags": [operation.tag],
            "summary": operation.summary,
            "description": f"{operation.text}\n\n{need}",
            "security": _security(access, scope),
        }
        if parameters := self._parameters(operation, described):
            told["parameters"] = parameters
        if _has_body(operation, described):
            content = self._components.content(described.takes)
            told["requestBody"] = {"content": content, "required": not described.may_be_empty}
        told["responses"] = self._responses(operation, described)
        return told

    def _parameters(self, operation: Operation, described: Described) -> list[Any]:
        own = {name: PARAMETERS[name] for name in operation.parameters}
        places = {"path": own, "query": described.query, "header": described.headers}
        return [
            self._components.parameter(place, name, shape)
            for place, shapes in places.items()
            for name, shape in shapes.items()
        ]

    def _responses(self, operation: Operation, described: Described) -> dict[str, Any]:
        by_status = self._faults(operation, described)
        if described.foreign:
            listed = ", ".join(f"{status} `{code}`" for status, codes in by_status.items() for code in codes)
            runtime = {"x-runtime-errors": {str(status): codes for status, codes in by_status.items()}}
            return {"default": self._response(_FOREIGN + listed, {"*/*": {}}) | runtime}
        api = operation.path.startswith(API)
        tells = {**described.tells, **(errors.RATES if api else {})}
        told = {"200": self._response("It is done.", described.gives, tells)}
        for status, codes in by_status.items():
            name = f"{'api.' if api else ''}{status}.{'.'.join(codes)}"
            text = " ".join(f"`{code}`: {errors.WHEN[code]}" for code in codes)
            failure = self._failure(text, [] if described.relays else codes, status, api=api)
            told[str(status)] = self._components.share("responses", name, failure)
        if described.relays:
            told["default"] = self._failure("The workflow's own error.", [], 0, api=api)
        return told

    def _faults(self, operation: Operation, described: Described) -> dict[int, list[str]]:
        """The codes by status."""
        faults = {*errors.ANY_CALL, *map(errors.fault, described.codes)}
        if self._accesses[operation.rpc] is not Access.OPEN:
            faults |= set(errors.WITH_KEY)
        if _has_body(operation, described):
            faults |= set(errors.WITH_BODY)
        by_status: dict[int, list[str]] = {}
        for each in sorted(faults):
            by_status.setdefault(each.status, []).append(each.code)
        return by_status

    def _failure(self, text: str, codes: list[str], status: int, *, api: bool) -> dict[str, Any]:
        shapes = {"application/json": errors.error_shape(codes, api=api)}
        answer = self._response(text, shapes, {"error-origin": errors.ORIGIN})
        if status in errors.RETRIED:
            # Envoy's 408, to whoever is too slow, has none; nor need a workflow's own error.
            required = status != 408 and bool(codes)
            answer["headers"]["retry-after"] = self._components.header(
                "retry-after", errors.RETRY_AFTER, required=required
            )
        return answer

    def _response(
        self, text: str, content: Mapping[str, Shape], tells: Mapping[str, Shape] = MappingProxyType({})
    ) -> dict[str, Any]:
        told = {**errors.EVERY_ANSWER, **tells}
        return {
            "description": text,
            "headers": {name: self._components.header(name, shape) for name, shape in told.items()},
            "content": self._components.content(content),
        }


def _security(access: Access, scope: str) -> list[dict[str, list[str]]]:
    """Any of them; {} is no key."""
    if access is Access.OPEN:
        return []
    keys = [{name: [scope] if scope else []} for name in SCHEMES]
    return [{}, *keys] if access is Access.CALL else keys


def _has_body(operation: Operation, described: Described) -> bool:
    return bool(described.takes) and operation.method not in {"get", "delete"}
