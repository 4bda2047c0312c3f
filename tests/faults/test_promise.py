"""The model finds every kind of broken promise: a check that can't fail is worth nothing."""

from dataclasses import replace

import pytest

from tests.faults.promise import ASYNCHRONOUS, DIRECT, DURABLE, Effect, History, Record, Request, Told, violations

OK = Told(200, "run_a")
DONE = Record("run_a", "succeeded", usage="{}")
FAILED = Record("run_a", "failed", code="runtime_error", detail="the executor was lost")


def seen(*told: Told, kind: str = ASYNCHRONOUS, record: Record | None = DONE, effects: int = 1) -> History:
    """One request, what it was told, its record, and how often its run did its work."""
    history = History([Request("token", kind, list(told))])
    history.effects = [Effect("token", "run_a", 1)] * effects
    if record is not None:
        history.records[record.id] = history.listed[record.id] = record
        history.saw(record)
    return history


@pytest.mark.parametrize(
    "history",
    [
        seen(OK),
        seen(OK, kind=DIRECT),
        seen(OK, kind=DIRECT, record=None),  # its answer is all there is to it
        seen(Told(503), Told(0), OK, kind=DURABLE),
        seen(Told(0), record=None, effects=0),
        seen(Told(0)),  # accepted, and nobody heard of it
        seen(Told(503), record=None, effects=0),
        seen(Told(503, "run_a"), kind=DURABLE),  # ask what became of it
        seen(OK, record=FAILED, effects=0),
        seen(OK, record=FAILED),
        seen(OK, record=replace(FAILED, status="dead", attempt=6)),
        seen(Told(500, "run_a"), kind=DURABLE, record=FAILED),
    ],
)
def test_what_is_promised(history: History) -> None:
    assert violations(history) == []


@pytest.mark.parametrize(
    ("history", "word"),
    [
        (seen(OK, record=None), "lost"),
        (seen(OK, record=replace(DONE, status="running")), "not over"),
        (seen(Told(0), record=replace(DONE, status="queued"), effects=0), "not over"),
        (seen(OK, record=replace(FAILED, detail="")), "without a reason"),
        (seen(OK, record=replace(FAILED, status="dead", attempt=3)), "dead too soon"),
        (seen(OK, record=replace(FAILED, status="timed_out")), "ended by nobody"),
        (seen(OK, effects=2), "twice"),
        (seen(OK, effects=0), "without effect"),
        (seen(OK, record=replace(DONE, attempt=2)), "without effect"),
        (seen(OK, kind=DIRECT, effects=0, record=FAILED), "without effect"),
        (seen(Told(503), record=None), "refused, yet done"),
        (seen(Told(429), Told(503), kind=DURABLE, record=None), "refused, yet done"),
        (seen(OK, record=replace(DONE, usage="")), "usage"),
        (seen(OK, kind=DURABLE, record=replace(DONE, attempt=2)), "started again"),
    ],
)
def test_what_breaks_the_promise(history: History, word: str) -> None:
    assert [sentence for sentence in violations(history) if sentence.startswith(word)], violations(history)


def test_an_attempt_may_follow_another_but_not_in_a_synchronous_call() -> None:
    history = seen(OK, record=replace(DONE, attempt=2))
    history.effects.append(Effect("token", "run_a", 2))
    assert violations(history) == []
    history.requests[0].kind = DURABLE
    assert [one for one in violations(history) if one.startswith("twice")]


def test_equal_keys_are_one_run() -> None:
    history = seen(OK, Told(200, "run_b"), kind=DURABLE)
    history.records["run_b"] = replace(DONE, id="run_b")
    assert [one for one in violations(history) if one.startswith("not one run")]


@pytest.mark.parametrize(
    "looks",
    [
        (replace(DONE, status="running", attempt=2), replace(DONE, status="running")),
        (DONE, replace(DONE, status="queued", attempt=2)),
        (FAILED, DONE),
    ],
)
def test_a_run_that_goes_backwards(looks: tuple[Record, Record]) -> None:
    history = seen(OK)
    history.seen["run_a"] = list(looks)
    assert [one for one in violations(history) if one.startswith("backwards")]


def test_an_attempt_that_nobody_counted() -> None:
    history = seen(OK)
    history.effects.append(Effect("token", "run_a", 2))
    assert [one for one in violations(history) if one.startswith("backwards")]


def test_work_that_nobody_asked_for_late_ends_and_leftovers() -> None:
    history = seen(OK)
    history.effects.append(Effect("stranger", "run_x", 1))
    history.over_after = None
    history.serving = False
    history.left = ["mount: /x"]
    history.books = ["charged twice: run_a"]
    listed = replace(DONE, usage='{"cpuSeconds": 1}')
    history.listed["run_a"] = listed
    words = [sentence.split(":")[0] for sentence in violations(history)]
    assert words == ["late", "not serving", "done, yet not asked for", "usage", "books", "left behind"]
