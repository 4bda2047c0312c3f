"""What S3 and the way to it say, as kinds of kit.errors. The log gets the reason without addresses or signatures."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from obstore.exceptions import BaseError

from kit.errors import NotFound, Unavailable
from kit.telemetry import log

# When to try again: a store that is away may be back soon; what its operator must mend takes longer.
SOON = timedelta(seconds=1)
LATER = timedelta(seconds=30)
# Another region, a malformed or expired signature, a key or a bucket that isn't there: only the operator can mend it.
_OPERATORS = {"301", "307", "400", "401", "403", "404"}

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_TRANSPORT = re.compile(r"HTTP error: ([\w ]{1,100})")


@contextmanager
def told(doing: str) -> Iterator[None]:
    """Errors: NotFound when there is no such key; Unavailable for all else. `doing` is for the log."""
    try:
        yield
    except (BaseError, OSError, ValueError) as error:  # FileNotFoundError and TimeoutError are OSErrors
        if isinstance(error, FileNotFoundError) and _found(_CODE, error) != "NoSuchBucket":
            raise NotFound("no such bytes") from None
        if _found(_STATUS, error) in _OPERATORS:
            log().error("s3.refused", doing=doing, reason=reason(error))
            raise Unavailable("the file store may not use its bucket; its log says more", retry_after=LATER) from None
        log().warning("s3.failed", doing=doing, reason=reason(error))
        raise Unavailable("the file store doesn't reach its bucket; try again", retry_after=SOON) from None


def reason(error: Exception) -> str:
    """Status and code that S3 answered, or what kept us from asking it."""
    found = (_found(pattern, error) for pattern in (_STATUS, _CODE, _TRANSPORT))
    return " ".join([type(error).__name__, *filter(None, found)])


def _found(pattern: re.Pattern[str], error: Exception) -> str:
    found = pattern.search(str(error))
    return found.group(1) if found else ""
