"""edge.fields: JSON bodies, field by field."""

from datetime import UTC, datetime
from typing import Any

import pytest

from edge.fields import Fields
from kit.errors import Invalid


def test_what_is_there() -> None:
    fields = Fields(
        {"t": "x", "n": "y", "c": "a", "l": ["p", "q"], "i": 3, "m": "2030-01-02T03:04:05+01:00", "o": {"k": "v"}}
    )
    assert (fields.text("t"), fields.needed("n"), fields.choice("c", ("a", "b"))) == ("x", "y", "a")
    assert (fields.texts("l"), fields.integer("i", lowest=1, highest=3)) == (("p", "q"), 3)
    assert fields.moment("m") == datetime(2030, 1, 2, 2, 4, 5, tzinfo=UTC)
    inner = fields.inner("o")
    assert inner is not None
    assert inner.text("k") == "v"
    fields.done()


@pytest.mark.parametrize("body", [{}, dict.fromkeys("tclimo")])
def test_what_is_not(body: dict[str, Any]) -> None:
    fields = Fields(body)
    assert (fields.text("t"), fields.choice("c", ("a",)), fields.texts("l")) == ("", "", ())
    assert fields.integer("i", lowest=0, highest=1) is None
    assert fields.moment("m") is None
    assert fields.inner("o") is None
    fields.done()
    with pytest.raises(Invalid, match="n is missing"):
        fields.needed("n")


@pytest.mark.parametrize(
    ("take", "value"),
    [
        (lambda fields: fields.text("x"), 1),
        (lambda fields: fields.text("x", longest=3), "four"),
        (lambda fields: fields.choice("x", ("a", "b")), "c"),
        (lambda fields: fields.texts("x"), "a"),
        (lambda fields: fields.texts("x"), [1]),
        (lambda fields: fields.texts("x"), [""]),
        (lambda fields: fields.texts("x", most=1), ["a", "b"]),
        (lambda fields: fields.integer("x", lowest=0, highest=9), "1"),
        (lambda fields: fields.integer("x", lowest=0, highest=9), True),
        (lambda fields: fields.integer("x", lowest=0, highest=9), 1.5),
        (lambda fields: fields.integer("x", lowest=0, highest=9), 10),
        (lambda fields: fields.moment("x"), "tomorrow"),
        (lambda fields: fields.moment("x"), "0001-01-01T00:00:00+23:00"),
        (lambda fields: fields.inner("x"), []),
    ],
)
def test_what_is_wrong(take: Any, value: Any) -> None:
    with pytest.raises(Invalid, match="x"):
        take(Fields({"x": value}))


def test_what_is_left_over_is_named() -> None:
    with pytest.raises(Invalid, match="'budget', 'nmae'"):
        Fields({"nmae": 1, "budget": 2}).done()
