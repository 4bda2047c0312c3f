"""/credits, /usage, /prices and /audit. All amounts are whole micro-credits."""

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from edge.calls import idempotency_key_of
from edge.fields import MOST_MONEY, Fields
from edge.http import Answer, Request, json_answer
from edge.model import Principal, iso
from kit.errors import Invalid
from kit.names import new_id

CURRENCY = "micro_credits"
GROUPS = ("service", "day", "key", "model")


@dataclass(frozen=True)
class Balance:
    """`balance` may be spent; `reserved` is set aside for runs."""

    balance: int
    reserved: int


@dataclass(frozen=True)
class Used:
    """What was used and charged under one service, day (YYYY-MM-DD), key or model."""

    group: str
    runs: int
    amount: int
    cpu_ms: int
    tokens_in: int
    tokens_out: int
    egress_bytes: int


@dataclass(frozen=True)
class Price:
    """Of a million of the meter's unit. `valid_until` None: until further notice."""

    meter: str
    micro_credits_per_million: int
    valid_from: datetime
    valid_until: datetime | None


@dataclass(frozen=True)
class AuditEntry:
    """An administrative act. `data` is a JSON object."""

    id: str
    at: datetime
    act: str
    subject: str
    actor_key_id: str
    actor_organization_id: str
    data: str


@dataclass(frozen=True)
class Span:
    """Days in UTC, the first and the one after the last; None: the last 30 to today."""

    since: datetime | None
    until: datetime | None


class Books(Protocol):
    """What keys knows of money. Errors of all: Unavailable."""

    async def balance(self, organization_id: str) -> Balance: ...

    async def grant(self, who: Principal, grant_id: str, organization_id: str, amount: int, reason: str) -> int:
        """The balance afterwards; the same `grant_id` grants once. Errors: NotFound, Invalid, Exhausted."""
        ...

    async def usage(
        self, organization_id: str, group_by: str, span: Span, limit: int, after: str
    ) -> tuple[list[Used], str]:
        """A page, and the token of the next; empty on the last. Errors: Invalid."""
        ...

    async def prices(self) -> list[Price]: ...

    async def set_price(self, who: Principal, meter: str, price: int, valid_from: datetime | None) -> Price:
        """Errors: Invalid, also for a time that has passed."""
        ...

    async def audit(self, organization_id: str, limit: int, after: str) -> tuple[list[AuditEntry], str]:
        """Newest first: a page, and the token of the next; empty on the last."""
        ...


class MoneyHandlers:
    """Handlers of mesh.edge.v1.Money."""

    def __init__(self, books: Books) -> None:
        self._books = books

    async def credits(self, request: Request) -> Answer:
        """Of the key's organization."""
        found = await self._books.balance(request.who.organization_id)
        return json_answer({"balance": found.balance, "reserved": found.reserved, "currency": CURRENCY})

    async def grant(self, request: Request) -> Answer:
        """Gives credits, or takes some back; with an Idempotency-Key once, however often it is asked for."""
        fields = Fields(await request.json())
        organization_id, reason = fields.needed("organization_id", longest=100), fields.needed("reason")
        amount = fields.integer("amount", lowest=-MOST_MONEY, highest=MOST_MONEY)
        fields.done(known=("organization_id", "amount", "reason"))
        if not amount:
            raise Invalid("amount is missing or 0; it is a whole number of micro-credits, negative to take some back")
        balance = await self._books.grant(request.who, _grant_id(request), organization_id, amount, reason)
        return json_answer({"organization_id": organization_id, "balance": balance, "currency": CURRENCY})

    async def usage(self, request: Request) -> Answer:
        """By service unless `group_by` says something else."""
        limit, after = request.page()
        group_by = request.parameter("group_by") or GROUPS[0]
        if group_by not in GROUPS:
            raise Invalid(f"group_by is {group_by[:40]!r}; it must be one of {', '.join(GROUPS)}")
        span = Span(_day(request, "since"), _day(request, "until"))
        found, following = await self._books.usage(request.who.organization_id, group_by, span, limit, after)
        return _page([vars(each) for each in found], following)

    async def prices(self, request: Request) -> Answer:
        """Those that are or will be valid, by meter."""
        limit, after = request.page()
        found = sorted(await self._books.prices(), key=_place)
        if after:
            meter, _, since = after.rpartition("@")
            found = [price for price in found if _place(price) > (meter, since)]
        following = "@".join(_place(found[limit - 1])) if len(found) > limit else ""
        return _page([_shown(price) for price in found[:limit]], following)

    async def set_price(self, request: Request) -> Answer:
        fields = Fields(await request.json())
        meter, valid_from = fields.needed("meter", longest=200), fields.moment("valid_from")
        price = fields.integer("micro_credits_per_million", lowest=0, highest=MOST_MONEY)
        fields.done(known=("meter", "micro_credits_per_million", "valid_from"))
        if price is None:
            raise Invalid("micro_credits_per_million is missing")
        return json_answer(_shown(await self._books.set_price(request.who, meter, price, valid_from)))

    async def audit(self, request: Request) -> Answer:
        """What the key's organization did, and what was done to it; newest first."""
        limit, after = request.page()
        found, following = await self._books.audit(request.who.organization_id, limit, after)
        return _page([_told(entry) for entry in found], following)


def _page(items: list[dict[str, Any]], following: str) -> Answer:
    return json_answer({"items": items, "next": following or None})


def _place(price: Price) -> tuple[str, str]:
    """In the list."""
    return price.meter, iso(price.valid_from) or ""


def _shown(price: Price) -> dict[str, Any]:
    return vars(price) | {"valid_from": iso(price.valid_from), "valid_until": iso(price.valid_until)}


def _told(entry: AuditEntry) -> dict[str, Any]:
    empty = {name: getattr(entry, name) or None for name in ("actor_key_id", "actor_organization_id")}
    return vars(entry) | empty | {"at": iso(entry.at), "data": json.loads(entry.data or "{}")}


def _grant_id(request: Request) -> str:
    """Errors: Invalid."""
    key = idempotency_key_of(request)
    if not key:
        return new_id("grt")
    return hashlib.sha256(f"{request.who.organization_id} {key}".encode()).hexdigest()[:40]


def _day(request: Request, name: str) -> datetime | None:
    """A query parameter that names a day, or a time in it. Errors: Invalid."""
    text = request.parameter(name)
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
        found = (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        raise Invalid(f"{name} is {text[:40]!r}; it must be a day such as 2030-01-31") from None
    return found.replace(hour=0, minute=0, second=0, microsecond=0)
