"""GET /request/{id}/egress: for whom, and when there is nothing to tell."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from edge.contacts import Contacts
from edge.http import Answer
from edge.model import Principal
from edge.reading import Reading
from edge.run_model import RunRecord, Status
from kit.clock import FakeClock
from kit.errors import NotFound
from tests.fakes.edge_runs import KEY, NOW, OWN_KEY, FakeRuns, MemoryBlobs, a_record, a_request, body_of

LINES = b'{"host": "a.example", "port": 443}\n{"host": "b.example", "port": 80}\n'


async def told(record: RunRecord, blobs: MemoryBlobs, who: Principal = OWN_KEY) -> Any:
    runs = FakeRuns()
    runs.put(record)
    clock = FakeClock(NOW)
    contacts = Contacts(Reading(runs, clock), blobs, clock)
    answer = await contacts.egress(a_request(method="GET", who=who, request_id=record.id))
    assert answer.status == 200
    return json.loads(await body_of(answer))


async def test_the_entries_for_whose_secrets_were_used() -> None:
    blobs = MemoryBlobs()
    record = a_record(Status.SUCCEEDED, egress_digest=blobs.keep(LINES))
    items = [{"host": "a.example", "port": 443}, {"host": "b.example", "port": 80}]
    assert await told(record, blobs) == {"items": items, "next": None}
    with pytest.raises(NotFound):
        await told(record, blobs, KEY)


@pytest.mark.parametrize("digest", ["", "f" * 64])
async def test_nothing_to_tell(digest: str) -> None:
    """When it contacted nobody, when it is kept no longer."""
    assert await told(a_record(Status.SUCCEEDED, egress_digest=digest), MemoryBlobs()) == {"items": [], "next": None}


async def test_a_run_that_goes_on_is_waited_for_a_moment() -> None:
    runs, blobs, clock = FakeRuns(), MemoryBlobs(), FakeClock(NOW)
    record = a_record(Status.RUNNING)
    runs.put(record)
    contacts = Contacts(Reading(runs, clock), blobs, clock)

    async def ask() -> asyncio.Task[Answer]:
        asking = asyncio.create_task(contacts.egress(a_request(method="GET", who=OWN_KEY, request_id=record.id)))
        await clock.advance(0)  # until it waits
        return asking

    asking = await ask()
    await clock.advance(0.9)
    assert not asking.done()
    await clock.advance(0.2)
    late = await asking
    assert (late.status, json.loads(await body_of(late))["code"]) == (408, "pending")
    asking = await ask()
    runs.put(replace(record, status=Status.SUCCEEDED, egress_digest=blobs.keep(LINES)))
    assert len(json.loads(await body_of(await asking))["items"]) == 2
