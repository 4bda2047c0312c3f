"""mesh.edge.v1.Money and .Receipts."""

from collections.abc import Mapping

from edge.fields import MOST_MONEY
from edge.money import CURRENCY, GROUPS
from edge.openapi.described import PAGE, Described, gives, takes
from edge.openapi.shapes import (
    ANY_OBJECT,
    COUNT,
    TEXT,
    TIME,
    WHOLE,
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

_CURRENCY = {"const": CURRENCY}
_DAY = text(format="date")
_PRICE = given(
    "Price", meter=TEXT, micro_credits_per_million=COUNT, valid_from=TIME, valid_until=said(or_null(TIME), "until then")
)
_USED = given(
    "Used", group=TEXT, runs=COUNT, amount=WHOLE, cpu_ms=COUNT, tokens_in=COUNT, tokens_out=COUNT, egress_bytes=COUNT
)
_ENTRY = given(
    "AuditEntry",
    id=TEXT,
    at=TIME,
    act=TEXT,
    subject=TEXT,
    actor_key_id=said(or_null(TEXT), "`null` where the platform itself acted"),
    actor_organization_id=or_null(TEXT),
    data=ANY_OBJECT,
)

MONEY: Mapping[str, Described] = {
    "Money.ReadCredits": Described(
        gives=gives(
            given(
                "Credits",
                balance=said(WHOLE, "what may be spent"),
                reserved=said(COUNT, "what is set aside for runs"),
                currency=_CURRENCY,
            )
        )
    ),
    "Money.GrantCredits": Described(
        gives=gives(given(organization_id=TEXT, balance=WHOLE, currency=_CURRENCY)),
        takes=takes(
            taken(
                needed={
                    "organization_id": text(least=1, most=100),
                    "amount": said(whole(-MOST_MONEY, MOST_MONEY), "micro-credits, not 0; negative to take some back"),
                    "reason": text(least=1, most=1000),
                },
                example={"organization_id": "org_…", "amount": 5_000_000, "reason": "invoice 7"},
            )
        ),
        headers={"Idempotency-Key": said(text(least=1, most=255, pattern="^[!-~]+$"), "the same key grants once")},
        codes=("not_found", "payment_required"),
    ),
    "Money.ReadUsage": Described(
        gives=gives(page_of(_USED)),
        query={
            "group_by": said(one_of(*GROUPS), "what is added up", default=GROUPS[0]),
            "since": said(_DAY, "the first day, in UTC"),
            "until": said(_DAY, "the day after the last one; 366 days at most"),
            **PAGE,
        },
    ),
    "Money.ListPrices": Described(gives=gives(page_of(_PRICE)), query=PAGE),
    "Money.SetPrice": Described(
        gives=gives(_PRICE),
        takes=takes(
            taken(
                needed={
                    "meter": text(least=1, most=200),
                    "micro_credits_per_million": said(whole(0, MOST_MONEY), "of the meter's unit"),
                },
                valid_from=said(text(format="date-time"), "without: from now on"),
                example={"meter": "run", "micro_credits_per_million": 100_000_000},
            )
        ),
    ),
    "Money.ListAudit": Described(gives=gives(page_of(_ENTRY)), query=PAGE),
}

_JWK = given(
    "ReceiptKey",
    kty={"const": "OKP"},
    crv={"const": "Ed25519"},
    alg={"const": "EdDSA"},
    use={"const": "sig"},
    kid=TEXT,
    x=TEXT,
    created_at=TIME,
    retired_at=or_null(TIME),
)
RECEIPTS: Mapping[str, Described] = {
    "Receipts.ReadReceiptKeys": Described(
        gives=gives(given(keys=list_of(_JWK))), tells={"cache-control": {"const": "public, max-age=300"}}
    ),
    "Receipts.RotateReceiptKey": Described(gives=gives(given(kid=TEXT)), codes=("conflict",)),
}
