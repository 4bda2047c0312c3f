"""A few calls of each operation of openapi.json, as schemathesis makes them; test_schema.py makes many."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from jsonschema_rs import ValidationError
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup

from tests.e2e.mesh import Mesh
from tests.e2e.schema import Explorer, Things, described

pytestmark = pytest.mark.timeout(180)
SEED = 1
EXAMPLES = 2


@pytest.fixture(scope="module")
def things(mesh: Mesh) -> Iterator[Things]:
    made = Things(mesh)
    yield made
    made.close()


def test_each_operation_does_what_it_says(mesh: Mesh, things: Things) -> None:
    explorer = Explorer(mesh, things, described(mesh), SEED)
    print(f"seed {SEED}")
    for operation in explorer.operations():
        explorer.explore(operation, GenerationMode.POSITIVE, EXAMPLES)
    tally = explorer.tally
    assert sum(tally.made.values()) >= 100, tally
    # The models' own paths lead to services that aren't configured here.
    undone = {
        name for name in tally.made if not tally.done[name] and not name.startswith(("RunOpenai", "RunAnt", "RunGem"))
    }
    assert not undone, f"give these something to do, in Things of tests/e2e/schema.py: {undone}; {tally.statuses}"


def no_404(document: dict[str, Any]) -> None:
    del document["paths"]["/request/{request_id}"]["get"]["responses"]["404"]


def no_status(document: dict[str, Any]) -> None:
    record = document["components"]["schemas"]["Run"]
    del record["properties"]["status"]
    record["required"].remove("status")


def a_number(document: dict[str, Any]) -> None:
    document["components"]["schemas"]["Run"]["properties"]["createdAt"] = {"type": "integer"}


def a_header(document: dict[str, Any]) -> None:
    answer = document["paths"]["/request/{request_id}"]["get"]["responses"]["200"]
    answer["headers"]["x-nobody-sends-this"] = {"required": True, "schema": {"type": "string"}}


def another_kind(document: dict[str, Any]) -> None:
    answer = document["paths"]["/request/{request_id}"]["get"]["responses"]["200"]
    answer["content"] = {"text/plain": {}}


@pytest.mark.parametrize("lie", [no_404, no_status, a_number, a_header, another_kind])
def test_a_document_that_lies_is_found_out(mesh: Mesh, things: Things, lie: Callable[[dict[str, Any]], None]) -> None:
    document = described(mesh)
    lie(document)
    explorer = Explorer(mesh, things, document, SEED)
    (operation,) = (each for each in explorer.operations() if each.definition.raw["operationId"] == "ReadRequest")
    with pytest.raises((FailureGroup, ValidationError)):
        explorer.explore(operation, GenerationMode.POSITIVE, 6)
