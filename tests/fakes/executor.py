"""Fakes of the ports of executor/run.py, and a host made of them."""

import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from executor.capacity import Capacity
from executor.egress.authority import Authority, roots
from executor.host import Host
from executor.metering import Metering
from executor.model import Limits, LogLine, Outcome, RequestHead, Secret, Spec, Version
from executor.prices import PriceList
from executor.purses import Purses
from executor.report import Ended, Fact, Reporter, Started
from executor.sandbox import Environment
from executor.variables import Variables
from executor.versions import Versions
from kit.clock import FakeClock
from kit.errors import NotFound, Problem
from kit.names import new_id
from tests.fakes.internet import FakeInternet
from tests.fakes.ledger import FakeLedger
from tests.fakes.sandbox import FakeDriver

START = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
SOURCE = b"app = 1\n"
VERSION = Version("ver_1", hashlib.sha256(SOURCE).hexdigest(), "hello.py", "3.11", "")


@dataclass
class FakeBook:
    versions: dict[str, Version] = field(default_factory=lambda: {VERSION.id: VERSION})
    asked: int = 0

    async def version(self, version_id: str) -> Version:
        self.asked += 1
        if version_id not in self.versions:
            raise NotFound("no such version")
        return self.versions[version_id]


@dataclass
class FakeBlobs:
    blobs: dict[str, bytes] = field(default_factory=lambda: {VERSION.source_digest: SOURCE})
    fails: Problem | None = None
    gets: int = 0

    async def get(self, digest: str) -> AsyncIterator[bytes]:
        self.gets += 1
        if digest not in self.blobs:
            raise NotFound("no such blob")
        yield self.blobs[digest]

    async def put(self, chunks: Iterator[bytes]) -> str:
        if self.fails is not None:
            raise self.fails
        data = b"".join(chunks)
        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest


@dataclass
class FakeSecrets:
    known: dict[tuple[str, str], str] = field(default_factory=dict)
    hosts: dict[str, Sequence[str]] = field(default_factory=dict)
    asked: int = 0

    async def values(self, organization_id: str, names: Sequence[str]) -> dict[str, Secret]:
        self.asked += 1
        known = {name: self.known[organization_id, name] for name in names if (organization_id, name) in self.known}
        return {name: Secret(value, tuple(self.hosts.get(name, ()))) for name, value in known.items()}


@dataclass
class FakeLines:
    lines: list[LogLine] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    async def send(self, run_id: str, line: LogLine) -> None:
        assert run_id not in self.ended
        self.lines.append(line)

    async def end(self, run_id: str) -> None:
        self.ended.append(run_id)


class FakeEnvironments:
    """One environment for everything."""

    async def ensure(self, python: str, lock: str) -> Environment:
        return Environment("none", Path("/none"), Path("/none/bin/python"), Path("/usr"))


@dataclass
class FakeScheduler:
    facts: list[Fact] = field(default_factory=list)
    batches: int = 0
    fails: list[Exception] = field(default_factory=list)

    async def report(self, facts: list[Fact]) -> None:
        self.batches += 1
        if self.fails:
            raise self.fails.pop(0)
        self.facts += facts


class FakeReporter(Reporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__(FakeScheduler(), FakeClock(START))
        self.told: list[Fact] = []

    def tell(self, fact: Fact) -> None:
        self.told.append(fact)

    @property
    def started(self) -> list[Started]:
        return [fact for fact in self.told if isinstance(fact, Started)]

    @property
    def ended(self) -> list[Ended]:
        return [fact for fact in self.told if isinstance(fact, Ended)]


LIFE = "inc_1"


@dataclass
class FakeLease:
    held: bool = True
    incarnation: str = LIFE
    renewals: int = 0

    async def renew(self) -> None:
        self.renewals += 1


class World:
    """A host of fakes, and all of them within reach."""

    def __init__(self, directory: Path, *, runs: int = 4, nested_runs: int = 4) -> None:
        self.clock = FakeClock(START)
        self.driver = FakeDriver()
        self.book, self.blobs, self.secrets = FakeBook(), FakeBlobs(), FakeSecrets()
        self.lines, self.reporter, self.lease = FakeLines(), FakeReporter(), FakeLease()
        self.capacity = Capacity(runs, nested_runs, starts=2)
        self.ledger, now = FakeLedger(), lambda: self.clock.now().timestamp()
        self.prices, self.purses = PriceList(self.ledger, self.clock), Purses(self.ledger, self.clock, now)
        self.prices._prices = ()  # nothing costs anything until they are fetched
        self.host = Host(
            driver=self.driver,
            environments=FakeEnvironments(),
            versions=Versions(self.book, self.blobs, directory / "sources"),
            variables=Variables(self.secrets),
            capacity=self.capacity,
            lines=self.lines,
            reporter=self.reporter,
            blobs=self.blobs,
            clock=self.clock,
            limits=Limits(1000, 1000, 200_000, 20_000),
            identity=lambda spec, _: spec.run_id.encode(),
            nested=directory / "nested.sock",
            nested_tls=directory / "nested-tls.sock",
            spool=directory,
            start_timeout=60,
            internet=FakeInternet().open(self.clock),
            authority=Authority(directory / "certificates", roots({}), self.clock),
            lease=self.lease,
            metering=Metering(self.purses, self.prices, self.clock),
        )

    @property
    def outcome(self) -> Outcome:
        """That of the only run."""
        assert len(self.reporter.ended) == 1
        return self.reporter.ended[0].outcome


def make_spec(**fields: object) -> Spec:
    """A run of VERSION with a minute's time."""
    given: dict[str, object] = {
        "run_id": new_id("run"),
        "version_id": VERSION.id,
        "request": RequestHead("POST", "/a%20b", "x=1", (("accept", b"*/*"),)),
        "deadline": START + timedelta(seconds=60),
        "caller_id": "org_caller",
        "acting_id": "org_owner",
        "correlation_id": "corr",
        "synchronous": True,
        "traceparent": "00-" + "1" * 32 + "-" + "2" * 16 + "-01",
    }
    return Spec(**{**given, **fields})  # type: ignore[arg-type]


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part
