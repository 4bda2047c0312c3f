"""mesh.edge.v1.Hooks."""

from collections.abc import Mapping

from edge.hooks import MOST_SECRET
from edge.openapi.described import JSON, PAGE, Described, gives, takes
from edge.openapi.runs import STARTED
from edge.openapi.shapes import ADDRESS, ANYTHING, TEXT, TIME, an_id, given, one_of, page_of, said, taken, text
from edge.signed import KINDS

_KIND = said(one_of(*KINDS), "how its events are signed", default=KINDS[0])
_HOOK = {"id": an_id("hook"), "service_id": TEXT, "kind": one_of(*KINDS), "created_at": TIME}
_SECRET = said(text(most=MOST_SECRET), "what its events are signed with; of `standard` one is made where none is given")
_CHALLENGE = given(challenge=said(TEXT, "what Slack has asked for"))
HOOKS: Mapping[str, Described] = {
    "Hooks.CreateHook": Described(
        gives=gives(
            given(
                "NewHook",
                sometimes={
                    "secret": said(TEXT, "where it was made here; shown this once"),
                    "verify_token": said(TEXT, "of `whatsapp`: what Meta asks for"),
                },
                **_HOOK,
                url=said(ADDRESS, "where events are sent; shown this once"),
            )
        ),
        takes=takes(
            taken(
                "HookWish",
                needed={"service_id": text(least=1, most=300)},
                kind=_KIND,
                secret=_SECRET,
                verify_token=text(most=MOST_SECRET),
                example={"service_id": "hello"},
            )
        ),
        codes=("not_found",),
    ),
    "Hooks.ListHooks": Described(gives=gives(page_of(given("Hook", **_HOOK))), query=PAGE),
    "Hooks.DeleteHook": Described(gives=gives(given(id=an_id("hook"), deleted={"const": True})), codes=("not_found",)),
    "Hooks.ReceiveEvent": Described(
        gives={JSON: {"anyOf": [STARTED, _CHALLENGE]}, "text/plain": TEXT},
        takes={JSON: ANYTHING, "application/octet-stream": {}},
        may_be_empty=True,
        query={
            "hub.mode": said(TEXT, "of WhatsApp's question, as are the next two"),
            "hub.verify_token": TEXT,
            "hub.challenge": TEXT,
        },
        headers={
            "webhook-id": said(TEXT, "of Standard Webhooks, as are the next two"),
            "webhook-timestamp": TEXT,
            "webhook-signature": TEXT,
            "x-slack-request-timestamp": said(TEXT, "of Slack, as is the next"),
            "x-slack-signature": TEXT,
            "x-hub-signature-256": said(TEXT, "of WhatsApp and GitHub"),
        },
        codes=("unauthenticated", "forbidden", "not_found", "payment_required", "conflict", "too_many_runs"),
    ),
}
