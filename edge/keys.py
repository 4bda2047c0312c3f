"""/keys and /organizations."""

from datetime import timedelta
from typing import Any, Protocol

from edge.fields import MOST_MONEY, Fields
from edge.http import Answer, Request, json_answer
from edge.model import ApiKey, Binding, KeyWish, Principal, Rates, iso
from kit.errors import Invalid

MAX_OVERLAP = timedelta(days=30)
MOST_CALLS = 1_000_000


class Keys(Protocol):
    """The keys service."""

    async def issue(self, issuer: Principal, wish: KeyWish) -> tuple[ApiKey, str]:
        """The key's description and the key itself. Errors: Denied, Invalid."""
        ...

    async def list_keys(self, organization_id: str, limit: int, after: str) -> tuple[list[ApiKey], str]:
        """A page, and the token of the next; empty on the last."""
        ...

    async def revoke(self, who: Principal, key_id: str) -> None:
        """Errors: NotFound."""
        ...

    async def rotate(self, issuer: Principal, key_id: str, overlap: timedelta) -> tuple[ApiKey, str]:
        """The successor. Errors: Denied, NotFound."""
        ...

    async def create_organization(self, who: Principal, name: str) -> tuple[str, str]:
        """Its id and its first key. Errors: Invalid."""
        ...

    async def set_rates(self, who: Principal, organization_id: str, rates: Rates) -> None:
        """Errors: Invalid, NotFound."""
        ...


class KeyHandlers:
    """Handlers of mesh.edge.v1.Keys."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys

    async def issue(self, request: Request) -> Answer:
        """The answer is the only place where the key is ever shown."""
        fields = Fields(await request.json())
        kind = fields.choice("kind", ("standard", "one_time"))
        name, scopes, expires_at = fields.text("name"), fields.texts("scopes"), fields.moment("expires_at")
        bind, budget, rates = (
            _bind(fields),
            fields.integer("budget", lowest=0, highest=MOST_MONEY),
            fields.inner("rates"),
        )
        fields.integer("overlap_seconds", lowest=0, highest=int(MAX_OVERLAP.total_seconds()))
        fields.done()
        if not kind:
            raise Invalid("kind is missing; it must be standard or one_time")
        wish = KeyWish(kind, name, scopes, expires_at, bind, budget, _rates(rates) if rates else Rates())
        key, secret = await self._keys.issue(request.who, wish)
        shown = {name: value for name, value in _shown(key).items() if name in _ISSUED}
        return json_answer({"id": key.id, "key": secret} | shown)

    async def list_keys(self, request: Request) -> Answer:
        limit, after = request.page()
        keys, following = await self._keys.list_keys(request.who.organization_id, limit, after)
        return json_answer({"items": [_shown(key) for key in keys], "next": following or None})

    async def revoke(self, request: Request) -> Answer:
        key_id = request.params["key_id"]
        await self._keys.revoke(request.who, key_id)
        return json_answer({"id": key_id, "revoked": True})

    async def rotate(self, request: Request) -> Answer:
        fields = Fields(await request.json())
        overlap = fields.integer("overlap_seconds", lowest=0, highest=int(MAX_OVERLAP.total_seconds()))
        fields.done()
        successor, secret = await self._keys.rotate(
            request.who, request.params["key_id"], timedelta(seconds=overlap or 0)
        )
        return json_answer({"id": successor.id, "key": secret})

    async def create_organization(self, request: Request) -> Answer:
        fields = Fields(await request.json())
        name = fields.needed("name", longest=200)
        fields.done()
        organization_id, secret = await self._keys.create_organization(request.who, name)
        return json_answer({"id": organization_id, "name": name, "key": secret})

    async def set_rates(self, request: Request) -> Answer:
        """Of all keys of an organization together; what isn't named is as the settings say again."""
        organization_id, rates = request.params["organization_id"], _rates(Fields(await request.json()))
        await self._keys.set_rates(request.who, organization_id, rates)
        return json_answer({"id": organization_id, **_told(rates)})


_RATES = ("per_second", "api_per_minute")
_ISSUED = ("kind", "prefix", "scopes", "expires_at", "bind", "budget", "rates")


def _bind(fields: Fields) -> Binding | None:
    """Errors: Invalid."""
    inner = fields.inner("bind")
    if inner is None:
        return None
    bind = Binding(inner.text("service_id"), inner.text("path", longest=2000), inner.text("body_sha256").lower())
    inner.done(known=tuple(vars(bind)))
    return bind


def _rates(fields: Fields) -> Rates:
    """Errors: Invalid."""
    rates = Rates(*(fields.integer(name, lowest=1, highest=MOST_CALLS) for name in _RATES))
    fields.done(known=_RATES)
    return rates


def _told(rates: Rates) -> dict[str, int | None]:
    return {name: getattr(rates, name) for name in _RATES}


def _shown(key: ApiKey) -> dict[str, Any]:
    return {
        "id": key.id,
        "name": key.name,
        "kind": key.kind,
        "prefix": key.prefix,
        "scopes": list(key.scopes),
        "created_at": iso(key.created_at),
        "expires_at": iso(key.expires_at),
        "revoked_at": iso(key.revoked_at),
        "bind": {name: value for name, value in vars(key.bind).items() if value} if key.bind else None,
        "budget": key.budget,
        "budget_used": None if key.budget is None else key.budget_used,
        "rates": None if key.rates == Rates() else _told(key.rates),
    }
