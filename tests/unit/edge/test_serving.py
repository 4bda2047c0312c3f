"""/versions, /rollback, /traffic: bodies and answers."""

from dataclasses import replace
from typing import Any

import pytest

from edge.model import Version, Workflow, iso
from edge.serving import ServingHandlers
from kit.errors import Invalid
from tests.unit.edge.test_nouns import THEN, body, request, workflow


class FakeServed:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.changes: list[int] = []

    def note_change(self) -> None:
        self.changes.append(len(self.calls))

    async def versions(self, *asked: Any) -> tuple[Workflow, list[Version], str]:
        self.calls.append(asked)
        found = [Version(f"ver_{number}", number, "ab" * 32, "3.11", THEN) for number in (3, 2)]
        return workflow(traffic=((1, 90), (3, 10))), found, "2"

    async def roll_back(self, organization_id: str, service_id: str, version: int) -> Workflow:
        self.calls.append((organization_id, service_id, version))
        return workflow(version=version or 1)

    async def split(self, organization_id: str, service_id: str, traffic: dict[int, int]) -> Workflow:
        self.calls.append((organization_id, service_id, traffic))
        return workflow(version=1, traffic=tuple(traffic.items()))


@pytest.fixture
def served() -> FakeServed:
    return FakeServed()


@pytest.fixture
def handlers(served: FakeServed) -> ServingHandlers:
    return ServingHandlers(served, "https://mesh.example", served.note_change)


async def test_versions(handlers: ServingHandlers, served: FakeServed) -> None:
    asked = replace(request(service_id="s"), query="limit=2&after=4")
    found = body(await handlers.versions(asked))
    assert served.calls == [("org_1", "s", 2, "4")]
    assert found["next"] == "2"
    assert found["items"][0] == {
        "version": 3,
        "id": "ver_3",
        "created_at": iso(THEN),
        "python": "3.11",
        "code_sha256": "ab" * 32,
        "traffic": 10,
        "url": "https://mesh.example/run/org_1.s@3",
    }
    assert found["items"][1]["traffic"] == 0
    assert served.changes == []


@pytest.mark.parametrize(("given", "version"), [(b"", 0), ({}, 0), ({"version": None}, 0), ({"version": 7}, 7)])
async def test_rolling_back(handlers: ServingHandlers, served: FakeServed, given: Any, version: int) -> None:
    answer = body(await handlers.roll_back(request(given, service_id="s")))
    assert served.calls == [("org_1", "s", version)]
    assert (answer["version"], answer["traffic"]) == (version or 1, {str(version or 1): 100})
    assert served.changes == [1]


async def test_splitting(handlers: ServingHandlers, served: FakeServed) -> None:
    answer = body(await handlers.split(request({"1": 90, "2": 10}, service_id="s")))
    assert served.calls == [("org_1", "s", {1: 90, 2: 10})]
    assert (answer["service_id"], answer["traffic"]) == ("s", {"1": 90, "2": 10})
    assert served.changes == [1]


@pytest.mark.parametrize("given", [{"version": 0}, {"version": "1"}, {"version": True}, {"version": 1 << 31}, {"v": 1}])
async def test_no_version_to_go_back_to(handlers: ServingHandlers, served: FakeServed, given: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        await handlers.roll_back(request(given, service_id="s"))
    assert served.calls == []


@pytest.mark.parametrize(
    "given",
    [
        *({"a": 100}, {"0": 100}, {"01": 100}, {"-1": 100}, {"9" * 5000: 100}, {"٣": 100}, {"": 100}),
        *({"1": "100"}, {"1": 101}, {"1": -1}, {"1": 1.5}, {"1": None}, {"1": True}),
    ],
)
async def test_no_shares(handlers: ServingHandlers, served: FakeServed, given: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        await handlers.split(request(given, service_id="s"))
    assert served.calls == []
