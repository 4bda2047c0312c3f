"""Errors, described: docs/errors.md in short. A test holds both, and edge/problems.py, against each other."""

from collections.abc import Mapping
from typing import NamedTuple

from edge.openapi.shapes import (
    ANYTHING,
    COUNT,
    NUMBER,
    TEXT,
    TRUTH,
    Shape,
    given,
    list_of,
    one_of,
    or_null,
    said,
    whole,
)
from edge.problems import STATUS

WHEN: Mapping[str, str] = {
    "bad_request": "A header, the query, a name or the JSON isn't as it must be; the detail says what.",
    "unauthenticated": "There is no key, or it is unknown, garbled, expired, revoked or used up.",
    "payment_required": "No credits are left, or a budget is spent.",
    "forbidden": "The key lacks the scope, or may not do this.",
    "not_found": "It is unknown, not visible or somebody else's: never tells which.",
    "method_not_allowed": "The path exists, not with this method.",
    "pending": "It isn't over yet: ask again after `Retry-After`.",
    "conflict": "It can't be done as things stand; the detail says why.",
    "too_large": "The body, what it holds, or all headers together are over a limit.",
    "invalid_workflow": "The deploy is refused; the detail, and the report where checks failed, say why.",
    "missing_secret": "A declared variable has no default and no secret; it is named.",
    "rate_limited": "More calls than may be made: try again after `Retry-After`.",
    "too_many_runs": "More runs at once, or deeper, than an organization may have.",
    "cancelled": "The run was cancelled.",
    "runtime_error": "A fault of the platform's.",
    "not_supported": "It can't be had here.",
    "workflow_crashed": "The workflow's process died, or broke its answer off.",
    "workflow_failed_to_start": "The workflow raised, exited or hung before it served.",
    "out_of_memory": "The run needed more memory than its limit.",
    "disk_full": "The run wrote more to its disk than its limit.",
    "too_much_output": "The answer passed its limit.",
    "unavailable": "No executor has room, or the mesh is starting or stopping: try again after `Retry-After`.",
    "timeout": "The time is over.",
}


class Fault(NamedTuple):
    """An error as a caller may get it."""

    status: int
    code: str


def fault(code: str) -> Fault:
    """With the status that the edge gives it."""
    return Fault(STATUS[code], code)


# Envoy's own, before a key or a body is looked at.
ANY_CALL = (
    fault("bad_request"),
    Fault(408, "timeout"),
    fault("rate_limited"),
    Fault(431, "too_large"),
    fault("runtime_error"),
    fault("unavailable"),
)
WITH_KEY = (fault("unauthenticated"), fault("forbidden"))
WITH_BODY = (fault("too_large"),)
# What a run may end with in place of an answer.
OF_RUNS = (
    "payment_required", "not_found", "missing_secret", "too_many_runs", "too_large", "conflict", "cancelled",
    "workflow_crashed", "workflow_failed_to_start", "out_of_memory", "disk_full", "too_much_output", "timeout",
)  # fmt: skip
RETRIED = {408, 429, 503}

_QUEUE = given(
    position=said(whole(1, 1_000_000_000), "among your organization's runs"),
    wait_seconds=said(or_null(NUMBER), "an estimate; `null` where nothing has started lately"),
)
CHECK = given("Check", check=TEXT, passed=TRUTH, detail=TEXT, line=said(or_null(COUNT), "of the source"))
_REPORT = said(list_of(CHECK), "of a deploy whose checks failed")


def error_shape(codes: list[str], *, api: bool = False) -> Shape:
    """The body of errors with these codes, or, without, with any that a workflow says; `api`: as /api/v1 tells them."""
    always: dict[str, Shape] = {"detail": _DETAIL, "code": one_of(*codes) if codes else TEXT}
    if api:
        always = {"success": {"const": False}, "error": said(TEXT, "the detail once more"), **always}
    sometimes: dict[str, Shape] = {"request_id": _RUN}
    if "pending" in codes:
        sometimes["queue"] = said(_QUEUE, "of a run that waits")
    if "invalid_workflow" in codes:
        sometimes["report"] = _REPORT
    return given(sometimes=sometimes, **always)


_DETAIL = said(TEXT, "what happened, and what to do")
_RUN = said(TEXT, "of the run, where there is one")
ANY_ERROR = given(
    "Error",
    detail=_DETAIL,
    code=one_of(*WHEN),
    sometimes={
        "request_id": _RUN,
        "queue": said(_QUEUE, "of a run that waits"),
        "report": _REPORT,
        "success": said({"const": False}, "under /api/v1/"),
        "error": said(ANYTHING, "the detail, under /api/v1/; or as the SDK of a vendor expects it, under its paths"),
        "type": said({"const": "error"}, "as Anthropic's SDK expects it"),
    },
)
"""What the platform answers anywhere."""


ORIGIN = said(one_of("service", "runtime"), "whose error it is: the workflow's, or the platform's")
EVERY_ANSWER: Mapping[str, Shape] = {
    "x-request-id": said(TEXT, "the run's id; of a call that makes no run an id of its own"),
    "x-correlation-id": said(TEXT, "as it was sent; else the request id"),
    "traceparent": said({"type": "string", "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"}, "W3C's"),
}
RETRY_AFTER = said(COUNT, "seconds")
RATES: Mapping[str, Shape] = {
    "x-ratelimit-limit": said(COUNT, "how many calls may be made in a minute"),
    "x-ratelimit-remaining": said(COUNT, "how many are left"),
    "x-ratelimit-reset": said(COUNT, "seconds until all may be made again"),
}
NOT_STORED: Mapping[str, Shape] = {"cache-control": {"const": "no-store"}}
