"""/credits, /usage, /prices and /audit: what is asked of keys, and what comes back."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import pytest

from edge.http import Answer, Request
from edge.model import Principal
from edge.money import AuditEntry, Balance, MoneyHandlers, Price, Span, Used
from kit.errors import Invalid

WHO = Principal("key_1", "org_1", "standard", frozenset({"admin"}), first_organization=True)
NOW = datetime(2030, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC)
PRICE = Price("run", 100_000_000, NOW, None)


class FakeBooks:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.listed = [PRICE]

    async def balance(self, organization_id: str) -> Balance:
        self.calls.append((organization_id,))
        return Balance(2**53 - 1, 5)

    async def grant(self, *arguments: Any) -> int:
        self.calls.append(arguments)
        return 7

    async def usage(self, *arguments: Any) -> tuple[list[Used], str]:
        self.calls.append(arguments)
        return [Used("greet", 1, 2, 3, 4, 5, 6)], "more"

    async def prices(self) -> list[Price]:
        return self.listed

    async def set_price(self, *arguments: Any) -> Price:
        self.calls.append(arguments)
        return PRICE

    async def audit(self, *arguments: Any) -> tuple[list[AuditEntry], str]:
        self.calls.append(arguments)
        entry = AuditEntry("aud_1", NOW, "key.issued", "key_2", "key_1", "org_1", '{"kind": "standard"}')
        return [entry, AuditEntry("aud_0", NOW, "organization.created", "org_1", "", "", "")], ""


@pytest.fixture
def books() -> FakeBooks:
    return FakeBooks()


async def sent(content: bytes) -> AsyncIterator[bytes]:
    yield content


def request(body: Any = None, query: str = "", **headers: str) -> Request:
    raw = b"" if body is None else json.dumps(body).encode()
    given = [(name.replace("_", "-"), value) for name, value in headers.items()]
    return Request("POST", "/", query, given, sent(raw), WHO)


def told(answer: Answer) -> Any:
    assert isinstance(answer.body, bytes)
    return json.loads(answer.body)


async def test_credits(books: FakeBooks) -> None:
    answer = told(await MoneyHandlers(books).credits(request()))
    assert answer == {"balance": 2**53 - 1, "reserved": 5, "currency": "micro_credits"}
    assert books.calls == [("org_1",)]


GRANT = {"organization_id": "org_2", "amount": 5, "reason": "paid"}


async def test_a_grant(books: FakeBooks) -> None:
    answer = told(await MoneyHandlers(books).grant(request(GRANT)))
    assert answer == {"organization_id": "org_2", "balance": 7, "currency": "micro_credits"}
    await MoneyHandlers(books).grant(request(GRANT | {"amount": -(2**53) + 1}))
    (who, first, *rest), (_, second, _, amount, _) = books.calls
    assert (who, rest) == (WHO, ["org_2", 5, "paid"])
    assert first.startswith("grt_")
    assert first != second
    assert amount == -(2**53) + 1


async def test_the_same_idempotency_key_is_the_same_grant(books: FakeBooks) -> None:
    for key in ("a", "a", "b"):
        await MoneyHandlers(books).grant(request(GRANT, idempotency_key=key))
    ids = [call[1] for call in books.calls]
    assert ids[0] == ids[1] != ids[2]
    assert all(len(one) == 40 for one in ids)
    with pytest.raises(Invalid):
        await MoneyHandlers(books).grant(request(GRANT, idempotency_key="x" * 256))


@pytest.mark.parametrize(
    "change",
    [
        *({"amount": amount} for amount in (0, None, True, 1.0, 1.5, "1", 2**53, -(2**53))),
        *({"organization_id": ""}, {"organization_id": None}, {"organization_id": 1}, {"reason": ""}, {"reason": None}),
        {"currency": "EUR"},
    ],
)
async def test_what_is_no_grant(books: FakeBooks, change: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        await MoneyHandlers(books).grant(request(GRANT | change))
    assert books.calls == []


async def test_usage(books: FakeBooks) -> None:
    answer = told(await MoneyHandlers(books).usage(request()))
    item = {"group": "greet", "runs": 1, "amount": 2, "cpu_ms": 3, "tokens_in": 4, "tokens_out": 5, "egress_bytes": 6}
    assert answer == {"items": [item], "next": "more"}
    query = "group_by=model&since=2030-01-01&until=2030-02-01T23:30:00-02:00&limit=5&after=x"
    await MoneyHandlers(books).usage(request(query=query))
    span = Span(datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 2, 2, tzinfo=UTC))
    assert books.calls == [("org_1", "service", Span(None, None), 100, ""), ("org_1", "model", span, 5, "x")]


@pytest.mark.parametrize(
    "query", ["group_by=team", "since=yesterday", "until=2030-13-01", "limit=0", "since=0001-01-01T00:00:00%2B01:00"]
)
async def test_usage_of_what_cant_be(books: FakeBooks, query: str) -> None:
    with pytest.raises(Invalid):
        await MoneyHandlers(books).usage(request(query=query))
    assert books.calls == []


async def test_prices(books: FakeBooks) -> None:
    shown = {
        "meter": "run",
        "micro_credits_per_million": 100_000_000,
        "valid_from": "2030-01-02T03:04:05.678Z",
        "valid_until": None,
    }
    assert told(await MoneyHandlers(books).prices(request())) == {"items": [shown], "next": None}
    given = {"meter": "run", "micro_credits_per_million": 0}
    assert told(await MoneyHandlers(books).set_price(request(given))) == shown
    await MoneyHandlers(books).set_price(request(given | {"valid_from": "2031-01-01"}))
    assert books.calls == [(WHO, "run", 0, None), (WHO, "run", 0, datetime(2031, 1, 1, tzinfo=UTC))]


async def test_prices_come_in_pages(books: FakeBooks) -> None:
    later = NOW.replace(year=2031)
    books.listed = [
        replace(PRICE, meter=meter, valid_from=at) for meter, at in (("b@", later), ("c", NOW), ("b@", NOW))
    ]
    found, after = list[tuple[str, str]](), ""
    for last in (False, False, True):
        page = told(await MoneyHandlers(books).prices(request(query=f"limit=1&after={quote(after or '')}")))
        found += [(item["meter"], item["valid_from"][:4]) for item in page["items"]]
        after = page["next"]
        assert (after is None) is last
    assert found == [("b@", "2030"), ("b@", "2031"), ("c", "2030")]
    with pytest.raises(Invalid):
        await MoneyHandlers(books).prices(request(query="limit=0"))


@pytest.mark.parametrize(
    "change",
    [
        *({"micro_credits_per_million": price} for price in (None, -1, 1.0, True, "1", 2**53)),
        *({"meter": ""}, {"meter": "x" * 201}, {"valid_from": "soon"}, {"valid_until": "2031-01-01"}),
    ],
)
async def test_what_is_no_price(books: FakeBooks, change: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        await MoneyHandlers(books).set_price(request({"meter": "run", "micro_credits_per_million": 1} | change))
    assert books.calls == []


async def test_the_audit_log(books: FakeBooks) -> None:
    answer = told(await MoneyHandlers(books).audit(request(query="limit=2&after=aud_9")))
    assert answer["next"] is None
    assert answer["items"][0] == {
        "id": "aud_1",
        "at": "2030-01-02T03:04:05.678Z",
        "act": "key.issued",
        "subject": "key_2",
        "actor_key_id": "key_1",
        "actor_organization_id": "org_1",
        "data": {"kind": "standard"},
    }
    made = answer["items"][1]
    assert (made["actor_key_id"], made["actor_organization_id"], made["data"]) == (None, None, {})
    assert books.calls == [("org_1", 2, "aud_9")]
