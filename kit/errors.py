"""The eight kinds of error that a caller is told about. Anything else is a bug: INTERNAL, its text only in the log.

Each carries a `code` (mesh.errors.v1.Reason, lower-case) and a sentence that says what happened and what to do.
"""

from datetime import timedelta


class Problem(Exception):
    """Base of the kinds; raise a kind, never this."""

    default_code = "runtime_error"

    def __init__(self, message: str, *, code: str = "", retry_after: timedelta | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.retry_after = retry_after


class Invalid(Problem):
    """The request can't mean anything; sending it again won't help."""

    default_code = "bad_request"


class Unauthenticated(Problem):
    """Nobody we know."""

    default_code = "unauthenticated"


class Denied(Problem):
    """Known, but not allowed."""

    default_code = "forbidden"


class NotFound(Problem):
    """Unknown, not visible or somebody else's: never tells which."""

    default_code = "not_found"


class Conflict(Problem):
    """Exists already, or lost a race: start again from the beginning."""

    default_code = "conflict"


class Precondition(Problem):
    """The system's state doesn't allow it (a missing secret, an unfinished run)."""

    default_code = "pending"


class Exhausted(Problem):
    """A quota or a limit; `retry_after` says when to try again."""

    default_code = "rate_limited"


class Unavailable(Problem):
    """Not now: no room, starting, or a part of the mesh doesn't answer."""

    default_code = "unavailable"
