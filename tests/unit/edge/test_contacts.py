"""GET /request/{id}/egress: for whom, and when there is nothing to tell."""

import json
from typing import Any

import pytest

from edge.contacts import Contacts
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
    contacts = Contacts(Reading(runs, FakeClock(NOW)), blobs)
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


@pytest.mark.parametrize("record", [a_record(), a_record(Status.SUCCEEDED), a_record(egress_digest="f" * 64)])
async def test_nothing_to_tell(record: RunRecord) -> None:
    """While it runs, when it contacted nobody, when it is kept no longer."""
    assert await told(record, MemoryBlobs()) == {"items": [], "next": None}
