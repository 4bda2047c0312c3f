"""The parts of the document that stand there once, under `components`, and are referred to."""

from collections.abc import Mapping
from typing import Any

from edge.openapi.shapes import Shape

_VALUES = frozenset({"example", "examples", "default", "enum", "const", "required"})


class Components:
    """Collects them. `all` by their kind and name."""

    def __init__(self) -> None:
        self.all: dict[str, dict[str, Any]] = {}

    def share(self, kind: str, name: str, value: Any) -> Any:
        """A reference to `value` under this name; itself where something else is called so."""
        if self.all.setdefault(kind, {}).setdefault(name, value) != value:
            return value
        return {"$ref": f"#/components/{kind}/{name}"}

    def schema(self, shape: Any) -> Any:
        """With references in place of what has a title. Errors: ValueError for two of the same title."""
        if isinstance(shape, list):
            return [self.schema(each) for each in shape]
        if not isinstance(shape, dict):
            return shape
        written = {name: each if name in _VALUES else self.schema(each) for name, each in shape.items()}
        title = shape.get("title")
        if not isinstance(title, str):
            return written
        if "$ref" not in (found := self.share("schemas", title, written)):
            raise ValueError(f"two shapes are called {title}")
        return found

    def content(self, shapes: Mapping[str, Shape]) -> dict[str, Any]:
        """By media type."""
        return {kind: {"schema": self.schema(shape)} if shape else {} for kind, shape in shapes.items()}

    def parameter(self, place: str, name: str, shape: Shape) -> Any:
        """Of a path, the query, or the head."""
        told = {"name": name, "in": place, **({"required": True} if place == "path" else {})}
        return self.share("parameters", f"{place}.{name}", told | _beside(shape))

    def header(self, name: str, shape: Shape, *, required: bool = True) -> Any:
        """Of an answer."""
        return self.share("headers", name, {"required": required} | _beside(shape))


def _beside(shape: Shape) -> dict[str, Any]:
    """A description stands beside the schema here."""
    schema = {name: each for name, each in shape.items() if name != "description"}
    return ({"description": shape["description"]} if "description" in shape else {}) | {"schema": schema}
