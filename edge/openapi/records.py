"""Runs as they are told of: records, logs, egress, deliveries, diffs, receipts."""

from edge.openapi.errors import WHEN
from edge.openapi.shapes import (
    ADDRESS,
    ANY_OBJECT,
    ANYTHING,
    COUNT,
    NUMBER,
    SHA256,
    TEXT,
    TIME,
    TRUTH,
    Shape,
    an_id,
    event_of,
    given,
    list_of,
    map_of,
    one_of,
    open_ended,
    or_null,
    page_of,
    said,
    whole,
)
from edge.run_model import Status, Trigger

RUN_ID = an_id("run")
STATUS = one_of(*(status.text for status in Status))
HTTP_STATUS = whole(100, 599)

USAGE = given(
    "Usage",
    cpuSeconds=NUMBER,
    wallSeconds=NUMBER,
    memoryPeakBytes=COUNT,
    egressBytes=COUNT,
    tokensIn=COUNT,
    tokensOut=COUNT,
)
COST = said(given("Cost", own=COUNT, nested=COUNT, total=COUNT), "micro-credits, so far")
_TOP = {
    "id": RUN_ID,
    "userId": said(or_null(TEXT), "the organization that called, and pays"),
    "serviceId": or_null(TEXT),
    "createdAt": TIME,
    "startedAt": or_null(TIME),
    "completedAt": or_null(TIME),
    "responseStatus": said(or_null(HTTP_STATUS), "of the workflow's answer"),
}
_REST = {
    "versionId": or_null(TEXT),
    "status": STATUS,
    "code": said(or_null(TEXT), "why there is no answer: " + ", ".join(f"`{code}`" for code in WHEN)),
    "detail": said(or_null(TEXT), "for the organization whose secrets the run uses"),
    "correlationId": or_null(TEXT),
    "parentId": said(or_null(RUN_ID), "the run that called it"),
    "traceId": or_null(TEXT),
    "attempt": COUNT,
    "trigger": one_of(*(trigger.text for trigger in Trigger)),
    "usage": said(or_null(USAGE), "once it is over; `null` where nothing was measured"),
    "cost": COST,
}
_SOMETIMES: dict[str, Shape] = {
    "recorded": said({"const": True}, "of a run that was called with `X-Record: yes`"),
    "replayOf": said(RUN_ID, "of a replay"),
    "replayMode": one_of("live", "offline"),
    "queue": said(
        given(position=whole(1, 1_000_000_000), waitSeconds=or_null(NUMBER)), "of a run that waits, where it is known"
    ),
}
CONTENT = {
    "responseContent": said(or_null(TEXT), "`null` when it is binary, or was streamed over 64 KiB"),
    "responseJson": said(ANYTHING, "of an answer that is JSON"),
}
SUMMARY = given("RunSummary", sometimes=_SOMETIMES, **_TOP, **_REST)
RECORD = given("Run", sometimes=_SOMETIMES, **_TOP, **CONTENT, **_REST)
RESULT = said(
    open_ended(given("Result", sometimes={"run": SUMMARY}, **_TOP, **CONTENT)),
    "These names, the fields of the workflow's own JSON object, and the record under `run`; of a run without an answer"
    " the fields of its record.",
)

LOG_LINE = given(
    "LogLine",
    createdAt=TIME,
    seq=COUNT,
    stream=one_of("stdout", "stderr", "system"),
    level=TEXT,
    message=TEXT,
    data=ANY_OBJECT,
)
LOG = {
    "application/x-ndjson": said(TEXT, "a JSON object a line, empty lines in silence", **{"x-itemSchema": LOG_LINE}),
    "text/event-stream": said(
        event_of({"anyOf": [LOG_LINE, ANY_OBJECT]}, "end", numbered=True),
        "a line an event, by its `seq`; at last `end`",
    ),
}

CONTACT = given(
    "Contact",
    at=TIME,
    host=TEXT,
    port=said(whole(0, 65535), "0 where only a name was looked up"),
    address=TEXT,
    verdict=one_of("allowed", "denied", "failed", "omitted"),
    reason=TEXT,
    bytes_in=COUNT,
    bytes_out=COUNT,
    seconds=NUMBER,
    secrets=said(list_of(TEXT), "the names of those that were filled in"),
)
CONTACTS = page_of(CONTACT)

DELIVERIES = page_of(
    given(
        "Delivery",
        id=TEXT,
        url=ADDRESS,
        state=one_of("pending", "delivered", "failed"),
        attempts=COUNT,
        next_attempt_at=or_null(TIME),
        last_status=or_null(HTTP_STATUS),
        last_error=or_null(TEXT),
        created_at=TIME,
        delivered_at=or_null(TIME),
    )
)


def _pair(shape: Shape) -> Shape:
    return given(same=TRUTH, before=shape, after=shape)


_BODY = given(sha256=or_null(SHA256), bytes=or_null(COUNT))
DIFF = given(
    "Diff",
    id=RUN_ID,
    replayOf=RUN_ID,
    mode=one_of("live", "offline"),
    versions=_pair(TEXT),
    same=TRUTH,
    status=_pair(given(status=STATUS, code=or_null(TEXT), responseStatus=or_null(HTTP_STATUS))),
    headers=given(same=TRUTH, changed=map_of(given(before=list_of(TEXT), after=list_of(TEXT)))),
    body=given(
        sometimes={"diff": said(or_null(list_of(TEXT)), "of short texts: the lines that differ")},
        same=said(or_null(TRUTH), "`null` where it can't be told"),
        before=_BODY,
        after=_BODY,
    ),
    outbound=said(
        or_null(
            given(
                same=TRUTH,
                items=list_of(
                    given(
                        method=TEXT,
                        url=TEXT,
                        status=or_null(HTTP_STATUS),
                        change=one_of("same", "changed", "added", "removed"),
                    )
                ),
            )
        ),
        "`null` unless both were recorded",
    ),
)

_DIGEST = or_null(SHA256)
RECEIPT = given(
    "Receipt",
    format={"const": "runmesh.receipt.v1"},
    runId=RUN_ID,
    organizationId=TEXT,
    ownerId=TEXT,
    serviceId=TEXT,
    versionId=TEXT,
    version=or_null(COUNT),
    parentId=or_null(RUN_ID),
    traceId=or_null(TEXT),
    trigger=_REST["trigger"],
    attempt=COUNT,
    status=STATUS,
    code=or_null(TEXT),
    responseStatus=or_null(HTTP_STATUS),
    createdAt=TIME,
    startedAt=or_null(TIME),
    completedAt=or_null(TIME),
    digests=given(code=_DIGEST, lock=_DIGEST, input=_DIGEST, output=_DIGEST, egress=_DIGEST),
    usage=or_null(USAGE),
    cost=given(own=COUNT, nested=COUNT, total=COUNT, currency={"const": "micro_credits"}),
    issuedAt=TIME,
)
SIGNED = given(receipt=RECEIPT, jws=said(TEXT, "the receipt, signed (RFC 7515, compact, EdDSA)"))
