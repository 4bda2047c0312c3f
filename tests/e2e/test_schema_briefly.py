"""A few calls of each operation of openapi.json, as schemathesis makes them; test_schema.py makes many."""

from collections.abc import Iterator

import pytest
from schemathesis import GenerationMode

from tests.e2e.mesh import Mesh
from tests.e2e.schema import Explorer, Things

pytestmark = pytest.mark.timeout(180)
SEED = 1
EXAMPLES = 2


@pytest.fixture(scope="module")
def things(mesh: Mesh) -> Iterator[Things]:
    made = Things(mesh)
    yield made
    made.close()


def test_each_operation_does_what_it_says(mesh: Mesh, things: Things) -> None:
    explorer = Explorer(mesh, things, SEED)
    print(f"seed {SEED}")
    for operation in explorer.operations():
        explorer.explore(operation, GenerationMode.POSITIVE, EXAMPLES)
    tally = explorer.tally
    assert sum(tally.made.values()) >= 100, tally
    # The models' own paths lead to services that aren't configured here.
    undone = {
        name for name in tally.made if not tally.done[name] and not name.startswith(("RunOpenai", "RunAnt", "RunGem"))
    }
    assert not undone, tally
