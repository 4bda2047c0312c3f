"""mesh.edge.v1.Runs."""

from collections.abc import Mapping

from edge.calls import MAX_CORRELATION, MAX_RETRIES, PRIORITIES
from edge.fields import MOST_MONEY
from edge.openapi.described import JSON, PAGE, Described, gives, takes
from edge.openapi.errors import NOT_STORED, OF_RUNS, error_shape
from edge.openapi.records import CONTACTS, DELIVERIES, DIFF, LOG, RECORD, RESULT, RUN_ID, SIGNED, STATUS, SUMMARY
from edge.openapi.shapes import (
    ANYTHING,
    NUMBER,
    TEXT,
    Shape,
    an_id,
    event_of,
    given,
    one_of,
    page_of,
    said,
    taken,
    text,
    whole,
)
from edge.replay import MODES, MOST_VERSION

STARTED = given("Started", request_id=RUN_ID)
_YES = one_of("yes", "no", "true", "false")
BUDGET = said(whole(0, MOST_MONEY), "micro-credits that the run and all that it calls may cost")
CORRELATION = said(text(most=MAX_CORRELATION, pattern="^[!-~]([ -~]*[!-~])?$"), "ties calls together; default: the id")
HEADERS: Mapping[str, Shape] = {
    "X-Correlation-Id": CORRELATION,
    "X-Provisioned-Request-Id": said(an_id("run"), "an id of `POST /provision-request`, which the run takes"),
    "X-On-Timeout": said(one_of("continue", "kill"), "what passing the time limit, or hanging up, does to the run"),
    "X-Callback-Url": said(text(most=2048, pattern="^https?://"), "gets the record when the run is over"),
    "X-Budget": BUDGET,
    "X-Retries": said(whole(0, MAX_RETRIES), "how often an asynchronous run that the workflow fails is tried again"),
    "X-Priority": said(one_of(*PRIORITIES), "within the organization's queue"),
    "X-Record": said(_YES, "records the run, for replays offline"),
    "Idempotency-Key": said(text(least=1, most=255, pattern="^[!-~]+$"), "the same key and request: the same run"),
    "Run-As-Template": said(_YES, "of a template: with the secrets of the caller"),
}
_ANY_BODY: Mapping[str, Shape] = {JSON: ANYTHING, "application/octet-stream": {}}
_CALLED = Described(takes=_ANY_BODY, may_be_empty=True, headers=HEADERS, codes=OF_RUNS, foreign=True)
_VENDOR = Described(takes={JSON: {"type": "object"}}, may_be_empty=True, headers=HEADERS, codes=OF_RUNS, foreign=True)
_INPUTS = said(
    {"type": "object", "examples": [{"inputs": {}}]}, "a prompt's variables, as they are or under `inputs`; or any JSON"
)
_RESULT = given(
    sometimes={"citations": said(ANYTHING, "what the model has read in the web")},
    success={"const": True},
    result=said(ANYTHING, "the model's text, or a code workflow's answer"),
)
_PUBLISHED = Described(
    gives=gives(_RESULT),
    takes=takes(_INPUTS),
    may_be_empty=True,
    headers=HEADERS,
    codes=(*OF_RUNS, "not_supported"),
    relays=True,
)
_PENDING = ("not_found", "pending")

RUNS: Mapping[str, Described] = {
    "Runs.Run": _CALLED,
    "Runs.RunOpenai": _VENDOR,
    "Runs.RunAnthropic": _VENDOR,
    "Runs.RunGemini": _VENDOR,
    "Runs.RunAsync": Described(
        gives=gives(STARTED),
        takes=_ANY_BODY,
        may_be_empty=True,
        headers=HEADERS,
        codes=("payment_required", "not_found", "conflict", "too_many_runs"),
    ),
    "Runs.ProvisionRequest": Described(gives=gives(STARTED)),
    "Runs.ReadResult": Described(
        gives=gives(RESULT),
        query={"timeout": said(NUMBER, "seconds to wait; more than 1800 are milliseconds")},
        tells=NOT_STORED,
        codes=("not_found", "pending", "timeout"),
    ),
    "Runs.ReadRequest": Described(gives=gives(RECORD), tells=NOT_STORED, codes=("not_found",)),
    "Runs.CancelRequest": Described(gives=gives(STARTED), codes=("not_found",)),
    "Runs.ListRequests": Described(
        gives=gives(page_of(SUMMARY)),
        query={
            "service_id": said(TEXT, "of this service"),
            "status": STATUS,
            "trace_id": said(text(pattern="^[0-9a-f]{32}$"), "of this trace, as in a `traceparent`"),
            **PAGE,
        },
    ),
    "Runs.ReadEgress": Described(gives=gives(CONTACTS), codes=_PENDING),
    "Runs.ListDeliveries": Described(gives=gives(DELIVERIES), codes=("not_found",)),
    "Runs.ReplayRequest": Described(
        gives=gives(STARTED),
        takes=takes(
            taken(
                "Replay",
                version=said(whole(1, MOST_VERSION), "of the workflow; without: that of then"),
                mode=one_of(*MODES),
                example={"mode": "live"},
            )
        ),
        may_be_empty=True,
        headers={"X-Correlation-Id": CORRELATION, "X-Budget": BUDGET},
        codes=("payment_required", "not_found", "conflict", "too_many_runs"),
    ),
    "Runs.ReadDiff": Described(gives=gives(DIFF), tells=NOT_STORED, codes=(*_PENDING, "conflict")),
    "Runs.ReadReceipt": Described(gives=gives(SIGNED), codes=_PENDING),
    "Runs.RunPublished": _PUBLISHED,
    "Runs.StreamPublished": Described(
        gives={
            "text/event-stream": said(
                event_of({"anyOf": [given(delta=TEXT), _RESULT, error_shape([], api=True)]}, "end", "error"),
                "parts of the text as they come, at last `end` with the whole, or `error`",
            )
        },
        takes=_PUBLISHED.takes,
        may_be_empty=True,
        headers=HEADERS,
        tells=NOT_STORED,
        codes=_PUBLISHED.codes,
        relays=True,
    ),
    "Runs.ReadLogs": Described(
        gives=LOG,
        query={
            "after": said(TEXT, "a time: only lines that came later", format="date-time"),
            "follow": said(one_of("true", "false"), "whether a run is followed to its end", default="true"),
        },
        headers={"Last-Event-ID": said(whole(0, 10**18 - 1), "the `seq` of the last line that was seen")},
        tells=NOT_STORED,
        codes=("not_found",),
    ),
}
