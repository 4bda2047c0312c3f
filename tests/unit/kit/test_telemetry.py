"""Spans that nobody exports: identities alone, by the same rules as the SDK's."""

import pytest

from kit.telemetry import current_traceparent, entered, left, span, trace_id

INCOMING = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture(autouse=True)
def nobody_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kit.telemetry._unrecorded", True)


def test_a_root_has_a_trace_of_its_own_and_is_sampled() -> None:
    seen = []
    for _ in range(2):
        with span("root", parent="") as current:
            current.set_attribute("taken", "and dropped")
            seen.append(current_traceparent())
    assert seen[0] != seen[1]
    assert all(len(trace_id(one)) == 32 and one.endswith("-01") for one in seen)
    assert current_traceparent() == ""


def test_a_child_is_in_its_parents_trace() -> None:
    with span("outer", parent=INCOMING):
        outer = current_traceparent()
        with span("inner"):
            inner = current_traceparent()
        assert current_traceparent() == outer
    assert trace_id(inner) == trace_id(outer) == trace_id(INCOMING)
    assert len({inner, outer, INCOMING}) == 3


def test_what_the_caller_does_not_sample_is_not_sampled() -> None:
    with span("child", parent=INCOMING[:-2] + "00"):
        assert current_traceparent().endswith("-00")


@pytest.mark.parametrize("garbage", ["nonsense", "00-" + "0" * 32 + "-b7ad6b7169203331-01", INCOMING[:-1]])
def test_garbage_begins_a_new_trace(garbage: str) -> None:
    with span("child", parent=garbage):
        assert len(trace_id(current_traceparent())) == 32
        assert trace_id(current_traceparent()) not in garbage


def test_a_failure_passes_through_and_leaves_the_span() -> None:
    with pytest.raises(ValueError, match="it"), span("fails"):
        raise ValueError("it")
    assert current_traceparent() == ""


def test_an_incoming_span_is_current_until_it_is_left() -> None:
    token = entered(INCOMING)
    assert current_traceparent() == INCOMING
    with span("child"):
        assert trace_id(current_traceparent()) == trace_id(INCOMING)
    left(token)
    assert current_traceparent() == ""
    left(entered("nonsense"))
