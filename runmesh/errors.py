"""What can go wrong, by type.

RunmeshError
├── NotConfigured      no address or key is set, or codewords-client isn't installed
├── Unreachable        the server can't be reached, or isn't a Runmesh
├── Pending            a run hasn't ended within the time given
├── Unauthenticated    401
├── Denied             403
├── NotFound           404
├── InvalidWorkflow    422: a check failed, and nothing was deployed
├── MissingSecret      424
└── RateLimited        429; `retry_after`, in seconds
"""

from collections.abc import Sequence
from typing import Any

import httpx

from runmesh.model import checks


class RunmeshError(Exception):
    """`detail` says what happened and what to do, `code` which kind it is (docs/errors.md), `request_id` of which run,
    if any; `status` is that of the answer, 0 where there was none.
    """

    def __init__(self, detail: str, *, code: str = "", request_id: str = "", status: int = 0) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code
        self.request_id = request_id
        self.status = status

    def __str__(self) -> str:
        known = (("code", self.code), ("request_id", self.request_id))
        notes = ", ".join(f"{name} {value}" for name, value in known if value)
        return f"{self.detail} ({notes})" if notes else self.detail


class NotConfigured(RunmeshError):
    """No address or key is set, or codewords-client isn't installed."""


class Unreachable(RunmeshError):
    """The server can't be reached, broke off, or isn't a Runmesh."""


class Pending(RunmeshError):
    """The run hasn't ended within the time given. It goes on."""


class Unauthenticated(RunmeshError):
    """The key is unknown, revoked or expired."""


class Denied(RunmeshError):
    """The key may not do this."""


class NotFound(RunmeshError):
    """Unknown, or somebody else's."""


class InvalidWorkflow(RunmeshError):
    """Nothing was deployed; where checks failed, `report` has them all, as `validate_workflow` tells them."""

    def __init__(self, detail: str, *, report: Sequence[Any] = (), **told: Any) -> None:
        super().__init__(detail, **told)
        self.report = checks(report)


class MissingSecret(RunmeshError):
    """The workflow needs a secret that isn't set, or the operator has no account for this library service."""


class RateLimited(RunmeshError):
    """Too many calls, or runs at once."""

    def __init__(self, detail: str, *, retry_after: float = 0.0, **told: Any) -> None:
        super().__init__(detail, **told)
        self.retry_after = retry_after


_BY_STATUS = {401: Unauthenticated, 403: Denied, 404: NotFound, 408: Pending, 424: MissingSecret}


def refused(answer: httpx.Response) -> RunmeshError:
    """The error that an answer of 400 or more tells. Its body has been read."""
    try:
        told = answer.json()
    except ValueError:
        told = None
    if not isinstance(told, dict) or not isinstance(told.get("detail"), str):
        if answer.headers.get("error-origin") == "service":  # a workflow answers as it likes
            return RunmeshError(f"the workflow answered {answer.status_code}: {_begin(answer)}", **_run(answer))
        return Unreachable(f"{answer.url} answered {answer.status_code}, which no Runmesh does: {_begin(answer)}")
    return told_by(told, answer.status_code, answer.headers)


def told_by(told: dict[str, Any], status: int = 0, headers: "httpx.Headers | None" = None) -> RunmeshError:
    """The error that the JSON of one tells."""
    known = {"code": str(told.get("code") or ""), "request_id": str(told.get("request_id") or "")}
    detail = str(told.get("detail"))
    if status == 429 or (not status and known["code"] in {"rate_limited", "too_many_runs"}):
        wait = "" if headers is None else headers.get("retry-after", "")
        return RateLimited(detail, retry_after=float(wait) if wait.isdigit() else 0.0, status=status, **known)
    if status == 422:
        return InvalidWorkflow(detail, report=told.get("report") or (), status=status, **known)
    return _BY_STATUS.get(status or _status(known["code"]), RunmeshError)(detail, status=status, **known)


def unreachable(error: Exception, address: str) -> Unreachable:
    """What a failure on the way is told as."""
    return Unreachable(f"can't reach {address}: {error or type(error).__name__}")


def _begin(answer: httpx.Response) -> str:
    return answer.text[:200].strip() or "nothing"


def _run(answer: httpx.Response) -> dict[str, Any]:
    return {"request_id": answer.headers.get("x-request-id", ""), "status": answer.status_code}


def _status(code: str) -> int:
    """Where only the code is known."""
    return {"unauthenticated": 401, "forbidden": 403, "not_found": 404}.get(code, 0)
