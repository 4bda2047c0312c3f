"""In memory: the scheduler's runs, an executor, the filestore's blobs, the log bus; as the run endpoints use them."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from edge.http import Answer, Request
from edge.model import Principal, RunIdentity
from edge.run_model import (
    AnswerHead,
    Asker,
    BodyComplete,
    Given,
    LogLine,
    Outcome,
    RunEvent,
    RunRecord,
    RunSpec,
    Status,
    Submission,
    Target,
    VersionOf,
    WholeAnswer,
)
from kit.errors import Conflict, NotFound, Problem, Unauthenticated, Unavailable
from kit.names import new_id

NOW = datetime(2030, 1, 31, 12, 0, 0, 123456, tzinfo=UTC)
OWNER, CALLER = "org_owner", "org_caller"
KEY = Principal("key_1", CALLER, "standard", frozenset({"run"}))
OWN_KEY = Principal("key_2", OWNER, "standard", frozenset({"run"}))
ONE_TIME = Principal("key_3", CALLER, "one_time", frozenset({"run"}))
TARGET = Target(OWNER, "greet", "ver_1", "public")


def nested(**changes: Any) -> Principal:
    """A run of CALLER's root that acts as the owner."""
    identity = RunIdentity(new_id("run"), new_id("run"), OWNER, CALLER, 1, "corr-root", "", NOW + timedelta(minutes=1))
    return Principal("", OWNER, "run", frozenset({"run", "files"}), identity=replace(identity, **changes))


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


def a_request(
    path: str = "/",
    *body: bytes,
    method: str = "POST",
    query: str = "",
    who: Principal = KEY,
    service: str = "greet",
    request_id: str = "",
    headers: dict[str, str] | None = None,
) -> Request:
    """A call of /run, or with `request_id` of an endpoint that takes one."""
    params = {"request_id": request_id} if request_id else {"service_id": service, "path": path}
    given = [("host", "mesh.test"), *((headers or {}).items())]
    return Request(method, f"/run/{service}{path}", query, given, chunks(*body), who, asyncio.Event(), params)


async def body_of(answer: Answer) -> bytes:
    if isinstance(answer.body, bytes):
        return answer.body
    return b"".join([chunk async for chunk in answer.body])


def made(when: datetime) -> str:
    """A run's id that was made then."""
    ms = int(when.timestamp() * 1000)
    return (
        "run_" + "".join("0123456789abcdefghjkmnpqrstvwxyz"[ms >> shift & 31] for shift in range(45, -5, -5)) + "0" * 16
    )


def a_record(status: Status = Status.RUNNING, **changes: Any) -> RunRecord:
    record = RunRecord(
        id=new_id("run"),
        status=status,
        created_at=NOW,
        owner_id=OWNER,
        caller_id=CALLER,
        acting_id=OWNER,
        service_id="greet",
        version_id="ver_1",
        correlation_id="corr-1",
        trace_id="0" * 31 + "1",
        attempt=1,
        executor="unix:executor",
    )
    return replace(record, **changes)


class FakeWorkflows:
    """Knows what it was given; counts how often it is asked."""

    def __init__(self, **targets: Target) -> None:
        self.targets = targets or {"greet": TARGET}
        self.asked: list[tuple[str, str]] = []
        self.versions: dict[str, VersionOf] = {}

    async def resolve(self, organization_id: str, reference: str) -> Target:
        self.asked.append((organization_id, reference))
        await asyncio.sleep(0)
        if reference not in self.targets:
            raise NotFound("there is no such workflow")
        return self.targets[reference]

    async def version(self, version_id: str) -> VersionOf:
        if version_id not in self.versions:
            raise NotFound("there is no such version")
        return self.versions[version_id]


class FakeRuns:
    """The scheduler. `place` makes submitted runs of it: by default they stay queued."""

    def __init__(self) -> None:
        self.records: dict[str, RunRecord] = {}
        self.provisions: dict[str, str] = {}
        self.newest: dict[str, str] = {}
        self.submissions: list[Submission] = []
        self.cancelled: list[tuple[str, Status]] = []
        self.inputs: dict[str, Given | None] = {}
        self.spent: set[str] = set()
        self.by_key: dict[str, str] = {}
        self.after_submit: Callable[[RunRecord], RunRecord] = lambda record: record
        self.submitting = asyncio.Event()
        self.submitting.set()
        self.away = 0
        self.breaks: Problem | None = None  # what a submission comes to
        self._changed = asyncio.Event()

    def put(self, record: RunRecord) -> RunRecord:
        """A new record, or a new state of one."""
        self.records[record.id] = record
        self._changed.set()
        self._changed = asyncio.Event()
        return record

    async def provision(self, organization_id: str, key_id: str) -> str:
        request_id = new_id("run")
        self.provisions[request_id] = organization_id
        self.put(RunRecord(request_id, Status.PROVISIONED, NOW, caller_id=organization_id))
        return request_id

    async def submit(self, submission: Submission) -> tuple[str, bool]:
        await self.submitting.wait()
        self.submissions.append(submission)
        if self.breaks is not None:
            raise self.breaks
        if submission.idempotency_key in self.by_key:
            return self.by_key[submission.idempotency_key], True
        if submission.one_time_key_id in self.spent:
            raise Unauthenticated("used")
        run_id = new_id("run")
        if submission.provisioned_id:
            known = self.records.get(submission.provisioned_id)
            if self.provisions.get(submission.provisioned_id) != submission.spec.requester_id or known is None:
                raise NotFound("no such provisioned request")
            if known.status is Status.PROVISIONED:
                run_id = submission.provisioned_id
            self.newest[submission.provisioned_id] = run_id
        if submission.one_time_key_id:
            self.spent.add(submission.one_time_key_id)
        spec = submission.spec
        record = RunRecord(
            run_id,
            Status.QUEUED,
            NOW,
            owner_id=spec.owner_id,
            caller_id=spec.caller_id,
            acting_id=spec.acting_id,
            service_id=spec.service_id,
            version_id=spec.version_id,
            correlation_id=spec.correlation_id or run_id,
        )
        self.put(self.after_submit(record))
        if submission.idempotency_key:
            self.by_key[submission.idempotency_key] = run_id
        return run_id, False

    async def get(self, asker: Asker, request_id: str, *, exact: bool = False, summary: bool = False) -> RunRecord:
        if self.away:
            self.away -= 1
            raise Unavailable("the scheduler is away")
        found = self.records.get(request_id if exact else self.newest.get(request_id, request_id))
        if found is None or asker.organization_id not in {found.caller_id, found.acting_id}:
            raise NotFound("no such request")
        return found

    async def watch(
        self, asker: Asker, request_id: str, timeout: timedelta, *, exact: bool = False
    ) -> AsyncGenerator[RunRecord, None]:
        told: RunRecord | None = None
        while told is None or not told.status.over:
            changed = self._changed
            record = await self.get(asker, request_id, exact=exact)
            if record != told:
                told = record
                yield record
            else:
                await changed.wait()

    async def list(
        self, organization_id: str, *, service_id: str, status: Status | None, trace_id: str, limit: int, after: str
    ) -> tuple[list[RunRecord], str]:
        found = [
            record
            for record in sorted(self.records.values(), key=lambda record: record.id, reverse=True)
            if organization_id in {record.caller_id, record.acting_id}
            and service_id in {"", record.service_id}
            and status in {None, record.status}
            and trace_id in {"", record.trace_id}
            and (not after or record.id < after)
        ]
        return found[:limit], found[limit - 1].id if len(found) > limit else ""

    async def given(self, organization_id: str, run_id: str) -> Given:
        if run_id not in self.inputs or organization_id != self.records[run_id].caller_id:
            raise NotFound("no such request")
        given = self.inputs[run_id]
        if given is None:
            raise Conflict("it wasn't kept")
        return given

    async def cancel(self, organization_id: str, request_id: str, status: Status, detail: str) -> None:
        record = await self.get(Asker(organization_id), request_id, exact=True)
        self.cancelled.append((request_id, status))
        if not record.status.over:
            self.put(replace(record, status=status, code=status.text))


# What a fake executor does next: tells an event, raises, or waits.
Step = RunEvent | Exception | asyncio.Event


class FakeExecutor:
    """Plays a script. `reached` is set when it begins, `ended` when it was played to its end, `left` in any case."""

    def __init__(self, *script: Step) -> None:
        self.script = script
        self.specs: list[RunSpec] = []
        self.bodies: list[bytes] = []
        self.attached: list[tuple[str, str]] = []
        self.held: list[str] = []
        self.streamed = 0
        self._playing: AsyncGenerator[RunEvent, None] | None = None
        self._begun: AnswerHead | None = None
        self.reached = asyncio.Event()
        self.left = asyncio.Event()
        self.ended = asyncio.Event()

    async def call(self, spec: RunSpec, body: bytes, timeout: timedelta) -> WholeAnswer | Outcome | None:
        self.specs.append(spec)
        self.bodies.append(body)
        self._playing = self._play()
        try:
            head = await self._head_of(self._playing)
            if isinstance(head, AnswerHead) and not head.header("content-length"):
                self._begun = head
                return None
            body = b""
            while isinstance(head, AnswerHead):
                event = await anext(self._playing)
                if isinstance(event, Outcome):
                    return event
                if isinstance(event, BodyComplete):
                    return WholeAnswer(head, body)
                assert isinstance(event, bytes)
                body += event
        except StopAsyncIteration:
            raise Unavailable("Socket closed") from None
        except asyncio.CancelledError:
            await self._playing.aclose()
            raise
        return head

    async def _head_of(self, events: AsyncGenerator[RunEvent, None]) -> AnswerHead | Outcome:
        head = await anext(events)
        assert isinstance(head, AnswerHead | Outcome)
        return head

    async def hold(self, run_id: str, timeout: timedelta) -> AsyncGenerator[RunEvent, None]:
        if self._begun is None or self._playing is None:
            raise NotFound("no such run here")
        self.held.append(run_id)
        async with aclosing(self._playing) as events:
            yield self._begun
            async for event in events:
                yield event

    async def run(
        self, spec: RunSpec, body: AsyncIterator[bytes], timeout: timedelta
    ) -> AsyncGenerator[RunEvent, None]:
        self.streamed += 1
        self.specs.append(spec)
        self.bodies.append(b"".join([part async for part in body]))
        async with aclosing(self._play()) as events:
            async for event in events:
                yield event

    async def attach(self, address: str, run_id: str, timeout: timedelta) -> AsyncGenerator[RunEvent, None]:
        self.attached.append((address, run_id))
        async with aclosing(self._play()) as events:
            async for event in events:
                yield event

    async def _play(self) -> AsyncGenerator[RunEvent, None]:
        self.reached.set()
        try:
            for step in self.script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    yield step
            self.ended.set()
        finally:
            self.left.set()


class MemoryBlobs:
    """The filestore."""

    def __init__(self) -> None:
        self.content: dict[str, bytes] = {}

    def keep(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self.content[digest] = content
        return digest

    async def put(self, chunks: AsyncIterator[bytes]) -> str:
        return self.keep(b"".join([chunk async for chunk in chunks]))

    async def get(self, digest: str) -> AsyncGenerator[bytes, None]:
        if digest not in self.content:
            raise NotFound("no such blob")
        content = self.content[digest]
        for start in range(0, len(content), 7):
            yield content[start : start + 7]


class FakeLogBus:
    """Keeps lines by run. A reader who has read all gets None at once, after what `on_silence` does."""

    def __init__(self) -> None:
        self.lines: dict[str, list[LogLine]] = {}
        self.on_silence: Callable[[], Awaitable[None]] | None = None

    async def say(self, run_id: str, line: LogLine) -> None:
        self.lines.setdefault(run_id, []).append(line)

    @asynccontextmanager
    async def tail(self, run_id: str) -> AsyncIterator[Callable[[float], Awaitable[LogLine | None]]]:
        position = 0

        async def following(_seconds: float) -> LogLine | None:
            nonlocal position
            await asyncio.sleep(0)
            lines = self.lines.get(run_id, [])
            if position == len(lines):
                if self.on_silence:
                    await self.on_silence()
                return None
            position += 1
            return lines[position - 1]

        yield following
