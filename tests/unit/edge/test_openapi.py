"""edge.openapi and edge.documents: the API described, from the protos."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest

from edge.documents import DocumentHandlers
from edge.http import Request
from edge.model import Access
from edge.openapi.described import PARAMETERS
from edge.openapi.document import DESCRIBED, NEEDS, document
from edge.openapi.errors import WHEN
from edge.openapi.explorer import files
from edge.openapi.operations_wire import operations, tags
from edge.openapi.postman import collection
from edge.problems import STATUS
from kit.errors import NotFound
from tests.e2e.conformance import check
from tests.fakes.handlers import PUBLIC_URL, accesses

ROOT = Path(__file__).parents[3]


ACCESSES = accesses()
DOCUMENT = document(ACCESSES, PUBLIC_URL)


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    """What it refers to, or itself."""
    if not isinstance(part.get("$ref"), str):
        return part
    kind, name = part["$ref"].removeprefix("#/components/").split("/")
    found: dict[str, Any] = DOCUMENT["components"][kind][name]
    return found


def all_of() -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            yield path, method, operation


def test_every_rpc_is_described_and_nothing_else_is() -> None:
    rpcs = {each.rpc for each in operations()}
    assert not rpcs - set(DESCRIBED), "say in edge/openapi/ what these take and give"
    assert not set(DESCRIBED) - rpcs, "no proto has these any more"
    assert not rpcs - set(ACCESSES), "say in edge/endpoints.py who serves these"


def test_every_rpc_has_a_comment_that_says_what_it_does() -> None:
    for each in operations():
        assert each.text.endswith((".", "`", '"')), f"{each.rpc}: write a sentence above the rpc in its proto"
        assert 0 < len(each.summary) <= 120, f"{each.rpc}: the first sentence is its summary; at most 120 characters"
    assert all(tags().values()), "write a sentence above each service"


def test_every_parameter_of_a_path_is_described() -> None:
    named = {name for each in operations() for name in each.parameters}
    assert named == set(PARAMETERS), "edge/openapi/described.py lists them"


def test_every_access_says_what_it_needs() -> None:
    assert set(NEEDS) == set(Access)


def test_ids_are_unique() -> None:
    ids = [operation["operationId"] for _, _, operation in all_of()]
    assert len(ids) == len(set(ids))


def test_errors_are_those_of_the_docs() -> None:
    table = (ROOT / "docs" / "errors.md").read_text().split("\n## ")[0]
    rows = re.findall(r"^\| (\d+) \| (`[^|]*`) \|", table, re.MULTILINE)
    told = {code: int(status) for status, codes in rows for code in re.findall(r"`(\w+)`", codes)}
    assert set(WHEN) == set(STATUS) == set(told)


def test_a_call_needs_what_its_endpoint_asks() -> None:
    for each in operations():
        security = DOCUMENT["paths"][each.path][each.method]["security"]
        assert (not security) == (ACCESSES[each.rpc] is Access.OPEN), each.rpc
        assert {name for way in security for name in way} in (set(), set(DOCUMENT["components"]["securitySchemes"]))
    deploy = DOCUMENT["paths"]["/deploy"]["post"]
    assert {"bearer": ["deploy"]} in deploy["security"]
    assert "scope `deploy`" in deploy["description"]


def test_every_answer_of_ours_names_its_status_shape_and_headers() -> None:
    for path, method, operation in all_of():
        for status, answer in ((status, resolved(each)) for status, each in operation["responses"].items()):
            assert set(answer["headers"]) >= {"x-request-id", "x-correlation-id", "traceparent"}, (path, method)
            assert answer["content"], (path, method, status)
        if operation["security"] and "default" not in operation["responses"]:
            assert {"200", "400", "401", "403", "429", "500", "503"} <= set(operation["responses"]), (path, method)


def test_every_schema_is_one_and_every_reference_leads_somewhere() -> None:
    def look(value: Any) -> None:
        if isinstance(value, dict):
            assert resolved(value) is not None
            for name, each in value.items():
                if name == "schema" and isinstance(each, dict):
                    jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **each})
                look(each)
        elif isinstance(value, list):
            for each in value:
                look(each)

    look(DOCUMENT["paths"])
    look(DOCUMENT["components"])


def test_examples_are_what_their_shapes_take() -> None:
    for path, method, operation in all_of():
        for media in operation.get("requestBody", {}).get("content", {}).values():
            shape = media.get("schema", {})
            shapes = shape.get("anyOf", [shape])
            for one in map(resolved, shapes):
                for example in one.get("examples", []):
                    validator = jsonschema_rs.validator_for({**one, "components": DOCUMENT["components"]})
                    assert validator.is_valid(example), (path, method, example)


def test_where_it_is_served_and_by_whom_it_is_made() -> None:
    assert DOCUMENT["openapi"] == "3.1.1"
    assert DOCUMENT["servers"] == [{"url": PUBLIC_URL}]
    assert DOCUMENT["paths"]["/run/{service_id}/{path}"].keys() == {"get", "post", "put", "patch", "delete"}


def test_something_that_nothing_is_said_of_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(DESCRIBED, "Keys.ListKeys")
    with pytest.raises(KeyError, match=r"Keys.ListKeys isn't described: say in edge/openapi/"):
        document(ACCESSES, PUBLIC_URL)


def test_the_collection_has_every_call() -> None:
    made = collection(DOCUMENT)
    assert made["info"]["schema"].endswith("/v2.1.0/collection.json")
    requests = [item["request"] for folder in made["item"] for item in folder["item"]]
    assert len(requests) == len(list(all_of()))
    urls = {(each["method"], each["url"]["raw"]) for each in requests}
    assert ("POST", "{{baseUrl}}/run/:service_id/:path") in urls
    for each in requests:
        named = {step[1:] for step in each["url"]["path"] if step.startswith(":")}
        assert named == {variable["key"] for variable in each["url"]["variable"]}
        if "body" in each:
            json.loads(each["body"]["raw"])
    assert {variable["key"]: variable["value"] for variable in made["variable"]} == {
        "baseUrl": PUBLIC_URL,
        "apiKey": "",
    }
    health = next(each for each in requests if each["url"]["raw"].endswith("/healthz"))
    assert health["auth"] == {"type": "noauth"}


async def test_the_page_loads_nothing_from_elsewhere() -> None:
    handlers = DocumentHandlers(lambda: ACCESSES, PUBLIC_URL)
    page = await handlers.explorer(Request("GET", "/docs"))
    told = dict(page.headers)
    assert isinstance(page.body, bytes)
    text = page.body.decode()
    assert "default-src 'none'" in told["content-security-policy"]
    assert "unsafe-eval" not in told["content-security-policy"]
    assert told["x-content-type-options"] == "nosniff"
    assert "://" not in text
    assert not re.search(r"<script(?! src=)|\son\w+=", text), "its policy lets no script in the page run"
    for address in re.findall(r'(?:src|href)="(/docs/[^"]+)"', text):
        name = address.removeprefix("/docs/")
        answer = await handlers.explorer_file(Request("GET", address, params={"file_name": name}))
        assert answer.body
        assert ("x-content-type-options", "nosniff") in answer.headers
    assert set(files()) == set(PARAMETERS["file_name"]["enum"])


@pytest.mark.parametrize("name", ["", "..", "../main.py", "redoc.standalone.js", "/etc/passwd", "start.js\0"])
async def test_no_other_file_is_given(name: str) -> None:
    handlers = DocumentHandlers(lambda: ACCESSES, PUBLIC_URL)
    with pytest.raises(NotFound, match=r"start\.js"):
        await handlers.explorer_file(Request("GET", f"/docs/{name}", params={"file_name": name}))


async def test_both_documents_are_json() -> None:
    handlers = DocumentHandlers(lambda: ACCESSES, PUBLIC_URL)
    for answer in (
        await handlers.openapi(Request("GET", "/openapi.json")),
        await handlers.postman(Request("GET", "/")),
    ):
        assert isinstance(answer.body, bytes)
        assert json.loads(answer.body)
        assert ("content-type", "application/json") in answer.headers


HEALTH = httpx.Request("GET", "http://mesh/healthz")
HEAD = {"x-request-id": "a", "x-correlation-id": "a", "traceparent": "a"}


def test_an_answer_as_described_passes() -> None:
    check(httpx.Response(200, headers=HEAD, json={"status": "ok"}, request=HEALTH))
    check(httpx.Response(418, request=httpx.Request("GET", "http://mesh/run/x/y")))


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (httpx.Response(200, headers=HEAD, json={"status": "ok", "more": 1}, request=HEALTH), "shape"),
        (httpx.Response(200, headers=HEAD, json={}, request=HEALTH), "shape"),
        (httpx.Response(200, json={"status": "ok"}, request=HEALTH), "lacks x-request-id"),
        (httpx.Response(200, headers=HEAD, text="ok", request=HEALTH), "text/plain"),
        (httpx.Response(404, headers=HEAD, json={}, request=HEALTH), "isn't documented"),
    ],
)
def test_any_other_answer_fails_an_end_to_end_test(answer: httpx.Response, why: str) -> None:
    with pytest.raises(AssertionError, match=why):
        check(answer)
