"""What Runmesh promises of runs, as a model: a history as it was seen from outside, and what in it breaks the promise.

Nothing here knows how Runmesh works. `violations` is all that the tests of faults judge by; test_promise.py shows that
it finds each kind of broken promise.
"""

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

ASYNCHRONOUS, DIRECT, DURABLE = "asynchronous", "direct", "durable"
OVER = frozenset({"succeeded", "failed", "timed_out", "cancelled", "dead"})
# After the last fault, for every accepted run to be over.
SETTLING_SECONDS = 60.0
# A run dies when it has lost so many attempts to the platform.
MOST_LOST = 6
REFUSED = frozenset({400, 401, 402, 403, 404, 405, 409, 413, 422, 424, 429, 503})


@dataclass(frozen=True)
class Told:
    """An answer. `status` 0: there was none, or not all of it. `run_id`: the run that it names, "" when none."""

    status: int
    run_id: str = ""
    code: str = ""

    @property
    def refusal(self) -> bool:
        """It says that nothing was started; a 503 that names a run says to ask about it."""
        return self.status in REFUSED and not (self.status == 503 and self.run_id)


@dataclass
class Request:
    """What a client wanted once, in one of the three ways. `token` goes with it to the workflow, and from there to the
    server outside. `told` has several answers where it was repeated under one Idempotency-Key.
    """

    token: str
    kind: str
    told: list[Told] = field(default_factory=list)

    @property
    def accepted(self) -> Iterator[str]:
        """Runs that the platform took on: it has to bring them to an end."""
        return (told.run_id for told in self.told if told.status == 200 and told.run_id)


@dataclass(frozen=True)
class Effect:
    """What the server outside saw: an attempt of a run did its work."""

    token: str
    run_id: str
    attempt: int


@dataclass(frozen=True)
class Record:
    """A run as the platform tells of it. `usage`: as text, "" when there is none."""

    id: str
    status: str
    attempt: int = 1
    code: str = ""
    detail: str = ""
    usage: str = ""


@dataclass
class History:
    """All that was seen. `records` are those of GET /request/ID, `listed` those of GET /requests, `seen` what each run
    looked like whenever somebody looked. `over_after`: seconds from the last fault to the end of the last run; None
    when some weren't over when the time was up. `serving`: the mesh is whole again. `left`: what is left on the host.
    `books`: what is wrong with them.
    """

    requests: list[Request] = field(default_factory=list)
    effects: list[Effect] = field(default_factory=list)
    records: dict[str, Record] = field(default_factory=dict)
    listed: dict[str, Record] = field(default_factory=dict)
    seen: dict[str, list[Record]] = field(default_factory=lambda: defaultdict(list))
    over_after: float | None = 0.0
    serving: bool = True
    left: list[str] = field(default_factory=list)
    books: list[str] = field(default_factory=list)

    def saw(self, record: Record) -> None:
        """Somebody looked at a run."""
        looks = self.seen[record.id]
        if not looks or looks[-1] != record:
            looks.append(record)


def violations(history: History) -> list[str]:
    """A sentence for each promise that was broken."""
    return [
        *_lost(history),
        *_reasonless(history),
        *_twice(history),
        *_without_effect(history),
        *_refused_yet_done(history),
        *_not_one_run(history),
        *_backwards(history),
        *_usage_disagrees(history),
        *(f"books: {sentence}" for sentence in history.books),
        *(f"left behind: {thing}" for thing in history.left),
    ]


def _lost(history: History) -> Iterator[str]:
    """What was accepted comes to an end, soon; and so does what nobody was told of."""
    for request in history.requests:
        if request.kind == DIRECT:  # its answer is all there is to it; its row may be lost with the executor
            continue
        for run_id in set(request.accepted):
            record = history.records.get(run_id)
            if record is None:
                yield f"lost: {run_id} was accepted ({request.kind}), and nobody knows it"
    for record in history.records.values():
        if record.status not in OVER:
            yield f"not over: {record.id} is {record.status} in attempt {record.attempt}"
    if history.over_after is None or history.over_after > SETTLING_SECONDS:
        yield f"late: runs were over only {history.over_after} s after the last fault"
    if not history.serving:
        yield "not serving: it didn't come back by itself"


def _reasonless(history: History) -> Iterator[str]:
    asynchronous = {run_id for one in history.requests if one.kind == ASYNCHRONOUS for run_id in one.accepted}
    for record in history.records.values():
        if record.status in OVER - {"succeeded"} and not (record.code and record.detail):
            yield f"without a reason: {record.id} is {record.status}"
        if record.status == "dead" and record.attempt < MOST_LOST:
            yield f"dead too soon: {record.id} after attempt {record.attempt}"
        if record.id in asynchronous and record.status in {"timed_out", "cancelled"}:
            yield f"ended by nobody: {record.id} is {record.status}, which nobody asked for"


def _twice(history: History) -> Iterator[str]:
    for effect, times in Counter(history.effects).items():
        if times > 1:
            yield f"twice: attempt {effect.attempt} of {effect.run_id} did its work {times} times"
    done = Counter(effect.token for effect in history.effects)
    for request in history.requests:
        if request.kind != ASYNCHRONOUS and done[request.token] > 1:
            times = done[request.token]
            yield f"twice: a synchronous call ({request.kind}, {request.token}) did its work {times} times"


def _without_effect(history: History) -> Iterator[str]:
    effects = {(effect.run_id, effect.attempt) for effect in history.effects}
    for record in history.records.values():
        if record.status == "succeeded" and (record.id, record.attempt) not in effects:
            yield f"without effect: {record.id} succeeded in attempt {record.attempt}"
    done = {effect.run_id for effect in history.effects}
    for request in history.requests:
        for run_id in set(request.accepted):
            if request.kind != ASYNCHRONOUS and run_id not in done:
                yield f"without effect: {run_id} was answered with 200 ({request.kind})"


def _refused_yet_done(history: History) -> Iterator[str]:
    done = {effect.token for effect in history.effects}
    for request in history.requests:
        if request.token in done and request.told and all(told.refusal for told in request.told):
            yield f"refused, yet done: {request.token} ({request.kind}) was told {[one.status for one in request.told]}"
    strangers = done - {request.token for request in history.requests}
    yield from (f"done, yet not asked for: {token}" for token in strangers)


def _not_one_run(history: History) -> Iterator[str]:
    """Whatever was asked for once, or again under its Idempotency-Key, is one run."""
    ran: dict[str, set[str]] = defaultdict(set)
    for effect in history.effects:
        ran[effect.token].add(effect.run_id)
    for request in history.requests:
        runs = ran[request.token] | set(request.accepted)
        if len(runs) > 1:
            yield f"not one run: {request.token} ({request.kind}) is {sorted(runs)}"


def _backwards(history: History) -> Iterator[str]:
    """Attempts only rise, and an end is an end."""
    synchronous = {run_id for one in history.requests if one.kind != ASYNCHRONOUS for run_id in one.accepted}
    for run_id, looks in history.seen.items():
        for before, after in itertools.pairwise(looks):
            if after.attempt < before.attempt:
                yield f"backwards: {run_id} went from attempt {before.attempt} to {after.attempt}"
            if before.status in OVER and (after.status, after.attempt) != (before.status, before.attempt):
                yield f"backwards: {run_id} was {before.status} and became {after.status}"
    for effect in history.effects:
        record = history.records.get(effect.run_id)
        if record is not None and effect.attempt > record.attempt:
            yield f"backwards: attempt {effect.attempt} of {effect.run_id} worked, which knows {record.attempt}"
    for record in history.records.values():
        if record.id in synchronous and record.attempt > 1:
            yield f"started again: the synchronous {record.id} has attempt {record.attempt}"


def _usage_disagrees(history: History) -> Iterator[str]:
    for record in history.records.values():
        listed = history.listed.get(record.id)
        if listed is not None and listed.usage != record.usage:
            yield f"usage: {record.id} is said to have used {record.usage} and {listed.usage}"
        if record.status == "succeeded" and not record.usage:
            yield f"usage: {record.id} succeeded and is said to have used nothing"


def summary(history: History) -> str:
    """Figures of a history, for people."""
    kinds = Counter(request.kind for request in history.requests)
    told = Counter(told.status for request in history.requests for told in request.told)
    ends = Counter(record.status for record in history.records.values())
    again = sum(record.attempt > 1 for record in history.records.values())
    return "\n".join((
        f"asked for      {_counted(kinds.items())}",
        f"told           {_counted(sorted(told.items()))}   (0: hung up)",
        f"runs           {_counted(ends.items())}; {again} in more than one attempt",
        f"effects        {len(history.effects)}",
        f"all over       {'no' if history.over_after is None else f'{history.over_after:.1f} s after the last fault'}",
    ))  # fmt: skip


def _counted(pairs: Iterable[tuple[object, int]]) -> str:
    return ", ".join(f"{count} {name}" for name, count in pairs) or "none"
