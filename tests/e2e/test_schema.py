"""schemathesis: thousands of calls of what openapi.json describes, through Envoy. Each operation does what it says at
least once, nothing fails by our fault, no answer is another than documented. `SEED=n` makes the same calls again.
"""

import os
import random
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from schemathesis import GenerationMode

from tests.e2e.mesh import ROOT, Mesh, mesh_up, until
from tests.e2e.schema import Case, Explorer, Things, described
from tests.postgres import Server
from tests.providers.provider import KEYS, Vendor, provider

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]
EXAMPLES = 20
SAID = [{"role": "user", "content": "hello"}]
OF_VENDORS: dict[str, tuple[str, Any]] = {
    "RunOpenai": ("v1/chat/completions", {"model": "gpt-4o-mini", "messages": SAID}),
    "RunOpenaiGet": ("v1/models", None),
    "RunAnthropic": ("v1/messages", {"model": "claude-3-5-haiku", "max_tokens": 50, "messages": SAID}),
    "RunAnthropicGet": ("v1/models", None),
    "RunGemini": ("v1beta/models/gemini-2.0-flash:generateContent", {"contents": [{"parts": [{"text": "hello"}]}]}),
    "RunGeminiGet": ("v1beta/models", None),
}


@pytest.fixture(scope="module")
def vendor() -> Iterator[Vendor]:
    with provider() as running:
        yield running


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def mesh(request: pytest.FixtureRequest, vendor: Vendor) -> Iterator[Mesh]:
    """Its operator has keys of all vendors; its keys may call as often as they like. PostgreSQL takes less for a text
    than SQLite does.
    """
    env = {"RUNMESH_LIBRARY": str(ROOT / "library"), "RUNMESH_KEY_API_RATE_PER_MINUTE": "100000", **vendor.settings()}
    if request.param == "postgres":
        server: Server = request.getfixturevalue("postgres")
        env["RUNMESH_DATABASE_URL"] = server.url(server.empty(), tcp=True)
    with mesh_up(env=env) as running, running.http() as client:
        for name in KEYS:
            until(lambda: client.get(f"/workflows/{name}").json().get("visibility") == "public", 150)  # noqa: B023
        yield running


def fill(operation_id: str, case: Case) -> None:
    """Calls of vendors that they understand."""
    if operation_id in OF_VENDORS:
        path, body = OF_VENDORS[operation_id]
        case.path_parameters = {"path": path}
        case.headers.clear()
        if body is not None:
            case.body, case.media_type = body, "application/json"


def test_no_call_is_answered_in_another_way_than_documented(mesh: Mesh) -> None:
    seed = int(os.environ.get("SEED") or random.randrange(2**32))
    print(f"SEED={seed}")
    with closing(Things(mesh)) as things:
        explorer = Explorer(mesh, things, described(mesh), seed, fill)
        for operation in explorer.operations():
            for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
                explorer.explore(operation, mode, EXAMPLES)
    tally = explorer.tally
    for name in sorted(tally.made):
        print(f"{name:24} {tally.made[name]:5} calls, {tally.done[name]:5} done")
    print(f"{sum(tally.made.values())} calls, {dict(tally.statuses)}")
    assert sum(tally.made.values()) >= 2000
    assert min(tally.made.values()) >= 2  # where there is nothing to say, there is one call to make
    assert {name for name in tally.made if not tally.done[name]} == set()
