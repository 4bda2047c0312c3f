"""JSON Schemas (2020-12), written short. What has a `title` becomes a component of the document."""

from collections.abc import Mapping
from typing import Any

Shape = dict[str, Any]

TEXT: Shape = {"type": "string"}
WHOLE: Shape = {"type": "integer"}
COUNT: Shape = {"type": "integer", "minimum": 0}
NUMBER: Shape = {"type": "number", "minimum": 0}
TRUTH: Shape = {"type": "boolean"}
TIME: Shape = {
    "type": "string",
    "format": "date-time",
    "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$",
    "examples": ["2030-01-31T12:00:00.000Z"],
}
ANYTHING: Shape = {}
ANY_OBJECT: Shape = {"type": "object"}
SHA256: Shape = {"type": "string", "pattern": "^[0-9a-f]{64}$"}
ADDRESS: Shape = {"type": "string", "pattern": "^https?://"}
_ULID = "[0-9a-hjkmnp-tv-z]{26}"


def an_id(prefix: str) -> Shape:
    """As kit.names makes them."""
    return {"type": "string", "pattern": f"^{prefix}_{_ULID}$"}


def one_of(*values: str) -> Shape:
    """One of these strings."""
    return {"type": "string", "enum": list(values)}


def text(*, least: int = 0, most: int | None = None, **more: Any) -> Shape:
    """A string of so many characters."""
    return {
        "type": "string",
        **({"minLength": least} if least else {}),
        **({"maxLength": most} if most else {}),
        **more,
    }


def whole(lowest: int, highest: int, **more: Any) -> Shape:
    """A whole number of this range."""
    return {"type": "integer", "minimum": lowest, "maximum": highest, **more}


def said(shape: Shape, description: str, **more: Any) -> Shape:
    """With a description, and an `example` or `default`."""
    return {**shape, "description": description, **more}


def or_null(shape: Shape) -> Shape:
    """`null` stands for nothing."""
    if not {"type", "title", "anyOf"} & shape.keys():
        return shape  # anything, so null too
    if "enum" in shape:
        return {**shape, "type": ["string", "null"], "enum": [*shape["enum"], None]}
    if "title" in shape or "anyOf" in shape:
        return {"anyOf": [shape, {"type": "null"}]}
    return {**shape, "type": [shape["type"], "null"]}


def list_of(shape: Shape, *, most: int | None = None) -> Shape:
    """An array."""
    return {"type": "array", "items": shape, **({"maxItems": most} if most else {})}


def map_of(shape: Shape, keys: str = "") -> Shape:
    """An object of any names (or of those that match a pattern), each with such a value."""
    names = {"propertyNames": {"pattern": keys}} if keys else {}
    return {"type": "object", "additionalProperties": shape, **names}


def given(title: str = "", /, *, sometimes: Mapping[str, Shape] | None = None, **always: Shape) -> Shape:
    """An object of an answer: it has these fields, `sometimes` those, and no others."""
    return {
        **({"title": title} if title else {}),
        "type": "object",
        "properties": {**always, **(sometimes or {})},
        "required": list(always),
        "additionalProperties": False,
    }


def open_ended(shape: Shape) -> Shape:
    """An object that may have any other fields, too."""
    return {name: each for name, each in shape.items() if name != "additionalProperties"}


def taken(
    title: str = "", /, *, needed: Mapping[str, Shape] | None = None, example: Any = None, **others: Shape
) -> Shape:
    """An object of a request: the `needed` fields, and others that may be left out, or be `null`; no more are taken."""
    needed = needed or {}
    shape: Shape = {"title": title} if title else {}
    shape |= {
        "type": "object",
        "properties": {**needed, **{name: or_null(each) for name, each in others.items()}},
        "additionalProperties": False,
    }
    if needed:
        shape["required"] = list(needed)
    return shape if example is None else shape | {"examples": [example]}


def page_of(item: Shape) -> Shape:
    """A list's answer."""
    following = said(or_null(TEXT), "for `after`, to have the next page; `null` on the last")
    return given(items=list_of(item), next=following)


def event_of(shape: Shape, *names: str, numbered: bool = False) -> Shape:
    """A server-sent event: its data is JSON of this shape; it may have one of these names."""
    told: dict[str, Shape] = {"event": one_of(*names), **({"id": TEXT} if numbered else {})}
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": shape}
    return given(sometimes=told, data=data)
