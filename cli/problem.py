"""What ends a command with another status than 0, and what is told of it. docs/cli.md has the statuses for users."""

import re
from collections.abc import Sequence
from typing import Any

FAILED, USAGE, REFUSED, UNREACHABLE, PENDING = 1, 2, 3, 4, 5
# Of runs: the platform tells them, but it is the workflow that failed.
_OF_WORKFLOWS = {422, 499, 502, 504}
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Problem(Exception):
    """Ends the command with `status`; `notes` are lines below its text."""

    def __init__(self, text: str, status: int, notes: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.notes = notes

    def lines(self) -> list[str]:
        """For stderr."""
        return [clean(f"error: {self}"), *(clean(f"  {note}") for note in self.notes)]


class Misuse(Problem):
    """The command was given what it can't work with."""

    def __init__(self, text: str, *notes: str) -> None:
        super().__init__(text, USAGE, notes)


class Refused(Problem):
    """An error that the server answered: its `detail`, `code`, `request_id` and the seconds of `Retry-After`, which may
    be empty; the `report` of a deploy.
    """

    def __init__(
        self,
        http_status: int,
        detail: str,
        code: str = "",
        request_id: str = "",
        server: str = "",
        retry_after: str = "",
        report: Sequence[dict[str, Any]] = (),
    ) -> None:
        notes = [f"code: {code}"] if code else []
        notes += [f"request_id: {request_id}"] if request_id else []
        notes += [f"again in: {retry_after} s"] if retry_after else []
        notes += [f"server: {server}"] if server and http_status in {401, 403} else []
        super().__init__(detail or f"the server answered {http_status}", status_of(http_status), tuple(notes))
        self.http_status = http_status
        self.code = code
        self.request_id = request_id
        self.report = report


def status_of(http_status: int) -> int:
    """The exit status for an error of the platform's."""
    if http_status in _OF_WORKFLOWS:
        return FAILED
    if http_status == 408:
        return PENDING
    return REFUSED if http_status < 500 else UNREACHABLE


def clean(text: str) -> str:
    """What others wrote, for a terminal: it must not move the cursor, nor turn the direction of writing."""
    return _CONTROL.sub("\ufffd", text.replace("\r\n", "\n"))
