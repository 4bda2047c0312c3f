"""Errors as the outside sees them: one table from codes to HTTP statuses, one JSON shape (SPEC §2)."""

import json
import math
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from edge.http import Answer, Request, json_answer
from edge.route_wire import allowed_methods
from kit.errors import Problem, Unavailable

STATUS = {
    "bad_request": 400,
    "unauthenticated": 401,
    "payment_required": 402,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "pending": 408,
    "conflict": 409,
    "too_large": 413,
    "invalid_workflow": 422,
    "missing_secret": 424,
    "rate_limited": 429,
    "too_many_runs": 429,
    "cancelled": 499,
    "runtime_error": 500,
    "not_supported": 501,
    "workflow_crashed": 502,
    "workflow_failed_to_start": 502,
    "out_of_memory": 502,
    "disk_full": 502,
    "too_much_output": 502,
    "unavailable": 503,
    "timeout": 504,
}
"""The statuses of SPEC §2; an unknown code is 500."""

OURS = ("error-origin", "runtime")
"""The header of what the platform answered, not a workflow."""
_RETRIED = {429, 503}
_VENDOR = re.compile(r"/(?:run/)?(openai|anthropic|gemini)(?:/|$)")


def failure(
    code: str,
    detail: str,
    *,
    request_id: str = "",
    retry_after: float | None = None,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> Answer:
    """An answer with `code`, its status, and `Error-Origin: runtime`. `retry_after` in seconds; `more` fields."""
    status = STATUS.get(code, 500)
    body: dict[str, Any] = {"detail": detail, "code": code, **more}
    if request_id:
        body["request_id"] = request_id
    headers = [OURS]
    if retry_after is None and status in _RETRIED:
        retry_after = 1
    if retry_after is not None:
        headers.append(("retry-after", str(max(1, math.ceil(retry_after)))))
    return json_answer(body, status, headers)


def refusal(problem: Problem, *, request_id: str = "") -> Answer:
    """An error of the mesh as an answer."""
    delay = problem.retry_after.total_seconds() if problem.retry_after is not None else None
    return failure(problem.code, problem.message, request_id=request_id, retry_after=delay)


def bug(request_id: str = "") -> Answer:
    """What a caller is told of an error that nobody expected; the text is in the log."""
    return failure("runtime_error", "the runtime failed; it is in its log", request_id=request_id)


def stopping(begun: list[str]) -> Unavailable:
    """What a call is told that is still under way when the drain is over; `begun` are the runs that it started."""
    if not begun:
        return Unavailable("the runtime is stopping; try again")
    return Unavailable(
        f"the runtime is stopping, and the run may have done part of its work: ask GET /request/{begun[-1]} what became"
        " of it before you try again"
    )


def nowhere(request: Request) -> Answer:
    """404, or 405 where another method would do."""
    allowed = ", ".join(allowed_methods(request.path))
    if not allowed:
        return dressed(request, failure("not_found", f"there is nothing at {request.path[:200]}"))
    answer = failure("method_not_allowed", f"{request.method[:20]} isn't possible here; {allowed} is")
    answer.headers.append(("allow", allowed))
    return dressed(request, answer)


def dressed(request: Request, answer: Answer) -> Answer:
    """An error of ours as `/api/v1` adds to it, or as a vendor's SDK finds its text; elsewhere as it is."""
    vendor = _VENDOR.match(request.path)
    if isinstance(answer.body, bytes) and (vendor or request.path.startswith("/api/v1/")):
        fields = json.loads(answer.body)
        fields = _to_sdk(vendor[1], answer.status, fields) if vendor else unsuccessful(fields)
        answer.body = json.dumps(fields, ensure_ascii=False).encode()
    return answer


def _to_sdk(vendor: str, status: int, fields: dict[str, Any]) -> dict[str, Any]:
    """With what this vendor's API has in its errors."""
    code, text = fields["code"], {"message": fields["detail"]}
    if vendor == "gemini":
        return fields | {"error": {"code": status, "status": code.upper(), **text}}
    if vendor == "anthropic":
        return fields | {"type": "error", "error": {"type": code, **text}}
    return fields | {"error": {"type": code, "param": None, "code": code, **text}}


def unsuccessful(fields: Mapping[str, Any]) -> dict[str, Any]:
    """An error's fields as /api/v1 tells them."""
    return {"success": False, "error": fields["detail"], **fields}
