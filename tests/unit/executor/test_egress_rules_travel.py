"""How a workflow's rules come from its header to a run, and how what the run contacted goes to the scheduler."""

from datetime import UTC, datetime

import pytest
from mesh.workflows.v1 import workflows_pb2

from executor import wire
from executor.egress.rules import parse
from executor.header import HeaderError
from executor.header import parse as parse_header
from executor.keep import keep_egress
from executor.model import Outcome, Status
from executor.report import Ended
from executor.validate import Report
from kit.clock import FakeClock
from kit.errors import Unavailable
from tests.fakes.executor import FakeBlobs

START = datetime(2026, 1, 1, tzinfo=UTC)
HEADER = "# /// script\n# [tool.runmesh]\n# egress = %s\n# ///\n"


@pytest.mark.parametrize("rules", [None, (), ("api.example", "!10.0.0.0/8")])
def test_a_version_carries_them_and_knows_none_from_an_empty_list(rules: tuple[str, ...] | None) -> None:
    found = wire.to_validation(Report(egress=rules))
    assert found.HasField("egress") == (rules is not None)
    version = workflows_pb2.Version(egress=found.egress if found.HasField("egress") else None)
    assert wire.from_version(version).egress == rules
    assert parse(rules).permits_none == (rules == ())


@pytest.mark.parametrize(
    ("entries", "wrong"),
    [
        ('["https://a.example"]', "'https://a.example' is no host or network"),
        ('["10.0.0.0/40"]', "'10.0.0.0/40' is no address and no network"),
        ("[1]", "not a list of hosts"),
        ('["a..b"]', "'a..b' is no host name"),
    ],
)
def test_a_header_with_a_wrong_entry_is_refused(entries: str, wrong: str) -> None:
    with pytest.raises(HeaderError, match=r"\[tool.runmesh\] egress: ") as raised:
        parse_header((HEADER % entries).encode())
    assert wrong in str(raised.value)
    assert raised.value.line == 3


def test_a_header_with_good_entries() -> None:
    header = parse_header((HEADER % '["*.example", "!a.example", "2001:db8::/32", "*"]').encode())
    assert header.options.egress == ("*.example", "!a.example", "2001:db8::/32", "*")


def test_the_report_names_what_was_contacted() -> None:
    fact = Ended("run_1", 1, 0, Outcome(Status.SUCCEEDED), None, "", START, egress_digest="e" * 64)
    (ended,) = wire.to_report("x", "i", [fact]).ended
    assert ended.egress_digest == "e" * 64


async def test_it_is_kept_when_there_is_something_to_keep() -> None:
    blobs, clock = FakeBlobs(), FakeClock(START)
    assert await keep_egress(b"", blobs, clock) == ""
    digest = await keep_egress(b'{"host": "a.example"}\n', blobs, clock)
    assert blobs.blobs[digest] == b'{"host": "a.example"}\n'


async def test_a_filestore_that_refuses_costs_the_list_and_not_the_run() -> None:
    class Impatient(FakeClock):
        async def sleep(self, seconds: float) -> None:
            pass

    assert await keep_egress(b"x", FakeBlobs(fails=Unavailable("full")), Impatient(START)) == ""
