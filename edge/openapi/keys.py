"""mesh.edge.v1.Keys, .Secrets and .Webhooks."""

from collections.abc import Mapping

from edge.fields import MOST_MONEY
from edge.keys import MAX_OVERLAP, MOST_CALLS
from edge.openapi.described import PAGE, Described, gives, takes
from edge.openapi.errors import NOT_STORED
from edge.openapi.shapes import (
    COUNT,
    TEXT,
    TIME,
    an_id,
    given,
    list_of,
    one_of,
    or_null,
    page_of,
    said,
    taken,
    text,
    whole,
)
from edge.secrets import MAX_VALUE_LENGTH

KEY_ID, ORGANIZATION_ID = an_id("key"), an_id("org")
KIND = one_of("standard", "one_time")
_SHOWN_ONCE = said(TEXT, "the key itself, shown this once")
_RATE = or_null(whole(1, MOST_CALLS))
_RATES = given("Rates", per_second=_RATE, api_per_minute=_RATE)
_RATES_TAKEN = taken(
    per_second=whole(1, MOST_CALLS),
    api_per_minute=said(whole(1, MOST_CALLS), "under `/api/v1`"),
    example={"per_second": 50},
)
_BINDING = given("Binding", sometimes={"service_id": TEXT, "path": TEXT, "body_sha256": TEXT})
_SAME = {
    "kind": KIND,
    "prefix": said(TEXT, "how the key begins"),
    "scopes": list_of(TEXT),
    "expires_at": or_null(TIME),
    "bind": or_null(_BINDING),
    "budget": said(or_null(COUNT), "micro-credits"),
    "rates": or_null(_RATES),
}
ISSUED = given("IssuedKey", id=KEY_ID, key=_SHOWN_ONCE, **_SAME)
KEY = given(
    "Key",
    id=KEY_ID,
    name=TEXT,
    created_at=TIME,
    revoked_at=or_null(TIME),
    budget_used=said(or_null(COUNT), "spent, or reserved by runs under way"),
    **_SAME,
)
_WISH = taken(
    "KeyWish",
    needed={"kind": KIND},
    name=said(text(most=200), "for people"),
    scopes=said(
        list_of(text(least=1, most=300), most=100),
        "of `run`, `run:SERVICE`, `files`, `deploy`, `admin`; without: `run files deploy`, of a one-time key `run`",
    ),
    expires_at=text(format="date-time"),
    bind=said(
        taken(service_id=text(most=1000), path=text(most=2000), body_sha256=text(most=1000)),
        "what a one-time key may be used for",
    ),
    budget=said(whole(0, MOST_MONEY), "micro-credits that all its runs may cost together"),
    rates=_RATES_TAKEN,
    overlap_seconds=whole(0, int(MAX_OVERLAP.total_seconds())),
    example={"kind": "standard", "name": "Bob", "scopes": ["run"]},
)

KEYS: Mapping[str, Described] = {
    "Keys.IssueKey": Described(gives=gives(ISSUED), takes=takes(_WISH)),
    "Keys.ListKeys": Described(gives=gives(page_of(KEY)), query=PAGE),
    "Keys.RevokeKey": Described(gives=gives(given(id=KEY_ID, revoked={"const": True})), codes=("not_found",)),
    "Keys.RotateKey": Described(
        gives=gives(given(id=KEY_ID, key=_SHOWN_ONCE)),
        takes=takes(
            taken(
                overlap_seconds=said(whole(0, int(MAX_OVERLAP.total_seconds())), "how long the old one goes on"),
                example={"overlap_seconds": 3600},
            )
        ),
        may_be_empty=True,
        codes=("not_found", "conflict"),
    ),
    "Keys.CreateOrganization": Described(
        gives=gives(given(id=ORGANIZATION_ID, name=TEXT, key=_SHOWN_ONCE)),
        takes=takes(taken(needed={"name": text(least=1, most=200)}, example={"name": "Acme"})),
    ),
    "Keys.SetRates": Described(
        gives=gives(given(id=ORGANIZATION_ID, per_second=_RATE, api_per_minute=_RATE)),
        takes=takes(_RATES_TAKEN),
        may_be_empty=True,
        codes=("not_found",),
    ),
}

SECRETS: Mapping[str, Described] = {
    "Secrets.ListSecrets": Described(
        gives=gives(page_of(given("Secret", name=TEXT, updated_at=TIME, hosts=list_of(TEXT)))), query=PAGE
    ),
    "Secrets.PutSecret": Described(
        gives=gives(given(name=TEXT)),
        takes=takes(
            taken(
                needed={"value": text(most=MAX_VALUE_LENGTH)},
                hosts=said(list_of(text(least=1, most=300), most=100), "where alone it may go; it stays outside then"),
                example={"value": "s3cret"},
            )
        ),
    ),
    "Secrets.DeleteSecret": Described(gives=gives(given(name=TEXT, deleted={"const": True})), codes=("not_found",)),
}

_WEBHOOK_SECRET = given(
    "WebhookSecret",
    secret={"type": "string", "pattern": "^whsec_"},
    created_at=TIME,
    previous_until=said(or_null(TIME), "until when the one before signs besides"),
)
WEBHOOKS: Mapping[str, Described] = {
    "Webhooks.ReadWebhookSecret": Described(gives=gives(_WEBHOOK_SECRET), tells=NOT_STORED),
    "Webhooks.RotateWebhookSecret": Described(gives=gives(_WEBHOOK_SECRET), tells=NOT_STORED),
}
