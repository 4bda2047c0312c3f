"""Server-sent events read part by part, whatever the parts are: the text, and the work."""

import tracemalloc
from collections.abc import Iterable

import pytest

from edge.answers import Broken
from edge.deltas import MAX_LINE_BYTES, Events

SAID = 'data: Once é\r\n\r\ndata: a\rdata: b\r\r\n: no\n\ndata: c\n\revent: end\ndata: {"result": "é"}\n\n'.encode()
DELTAS = ["Once é", "a\nb", "c"]


def read(events: Events, chunks: Iterable[bytes]) -> list[str]:
    return [delta for chunk in chunks for delta in events.read(chunk)]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, len(SAID)])
def test_the_parts_dont_matter(size: int) -> None:
    events = Events()
    chunks = [SAID[at : at + size] for at in range(0, len(SAID), size)]
    assert read(events, [piece for chunk in chunks for piece in (chunk, b"")]) == DELTAS
    assert events.end() == {"result": "é"}


def test_a_line_is_over_as_soon_as_its_end_is_there() -> None:
    assert read(Events(), [b"data: a\r", b"\r"]) == ["a"]


def test_what_is_held_costs_nothing_again_with_each_part() -> None:
    events = Events()
    read(events, [b"data: " + b"x" * (MAX_LINE_BYTES // 2)])
    used = 0
    tracemalloc.start()
    try:
        for _ in range(100):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            read(events, [b"x"])
            used += tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert used < 2 * MAX_LINE_BYTES  # a copy of it each time would be 50 of them


def test_a_line_has_its_limit() -> None:
    events, line = Events(), b"data: " + b"x" * (MAX_LINE_BYTES - 6)
    assert [len(delta) for delta in read(events, [line, b"\n\n", line, b"\r\r"])] == [MAX_LINE_BYTES - 6] * 2
    with pytest.raises(Broken) as found:
        read(events, [line, b"x"])
    assert found.value.outcome.code == "too_much_output"
    with pytest.raises(Broken):
        read(Events(), [line + b"x\n"])
