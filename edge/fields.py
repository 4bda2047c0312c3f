"""A JSON body, field by field. What isn't understood is refused, with all that is known about it."""

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from kit.errors import Invalid

MOST_MONEY = 2**53 - 1
"""Of micro-credits, in either direction: what JSON numbers hold exactly everywhere."""
_ABSENT = object()


class Fields:
    """Takes the fields out one by one; `done()` refuses what is left. `null` means absent."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self._left = dict(body)

    def text(self, name: str, *, longest: int = 1000) -> str:
        """A string; empty when absent. Errors: Invalid."""
        value = self._take(name, str, "a string")
        if value is None:
            return ""
        if len(value) > longest:
            raise Invalid(f"{name} is longer than {longest} characters")
        return str(value)

    def needed(self, name: str, *, longest: int = 1000) -> str:
        """A string that isn't empty. Errors: Invalid."""
        value = self.text(name, longest=longest)
        if not value:
            raise Invalid(f"{name} is missing")
        return value

    def choice(self, name: str, options: tuple[str, ...]) -> str:
        """One of `options`; empty when absent. Errors: Invalid."""
        value = self.text(name)
        if value and value not in options:
            raise Invalid(f"{name} is {value[:100]!r}; it must be one of {', '.join(options)}")
        return value

    def texts(self, name: str, *, most: int = 100) -> tuple[str, ...]:
        """A list of strings; empty when absent. Errors: Invalid."""
        value = self._take(name, list, "a list of strings")
        if value is None:
            return ()
        if len(value) > most or not all(isinstance(item, str) and 0 < len(item) <= 300 for item in value):
            raise Invalid(f"{name} must be a list of at most {most} strings, each of 1 to 300 characters")
        return tuple(value)

    def integer(self, name: str, *, lowest: int, highest: int) -> int | None:
        """A whole number; None when absent. Errors: Invalid."""
        value = self._take(name, int, "a whole number")
        if value is None:
            return None
        if isinstance(value, bool) or not lowest <= value <= highest:
            raise Invalid(f"{name} must be a whole number from {lowest} to {highest}")
        return int(value)

    def moment(self, name: str) -> datetime | None:
        """An ISO 8601 time, UTC where it names no zone; None when absent. Errors: Invalid."""
        value = self.text(name)
        if not value:
            return None
        try:
            found = datetime.fromisoformat(value)
            return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
        except (ValueError, OverflowError) as error:
            raise Invalid(f"{name} must be a time such as 2030-01-31T12:00:00Z") from error

    def anything(self, name: str) -> Any:
        """Any JSON value; None when absent."""
        return self._left.pop(name, None)

    def inner(self, name: str) -> "Fields | None":
        """An object; None when absent. Errors: Invalid."""
        value = self._take(name, dict, "an object")
        return None if value is None else Fields(value)

    def mapping(self, name: str) -> dict[str, Any]:
        """An object as it is; {} when absent. Errors: Invalid."""
        value = self._take(name, dict, "an object")
        return {} if value is None else dict(value)

    def flag(self, name: str) -> bool:
        """True or false, which is what it is when absent. Errors: Invalid."""
        return bool(self._take(name, bool, "true or false"))

    def nulls(self, names: Iterable[str]) -> list[str]:
        """Which of these are there as `null`."""
        return [name for name in names if self._left.get(name, _ABSENT) is None]

    def done(self, *, known: Iterable[str] = ()) -> None:
        """Errors: Invalid, naming the fields that nobody took, and those that are `known`."""
        if self._left:
            names = ", ".join(repr(name[:100]) for name in sorted(self._left)[:10])
            raise Invalid(f"unknown field {names}" + (f"; there are {', '.join(known)}" if known else ""))

    def _take(self, name: str, kind: type, description: str) -> Any:
        value = self._left.pop(name, _ABSENT)
        if value is _ABSENT or value is None:
            return None
        if not isinstance(value, kind):
            raise Invalid(f"{name} must be {description}")
        return value
