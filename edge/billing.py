"""Who pays for a run and how much it may cost: budgets of keys and of runs (`X-Budget`); what a key is bound to."""

import hashlib
from collections.abc import AsyncIterator
from dataclasses import replace

from edge.fields import MOST_MONEY
from edge.http import Request
from edge.model import SYSTEM, Binding, Budget, Principal
from edge.run_model import RunSpec, Target
from kit.errors import Denied, Exhausted, Invalid

# A key's, and one of each run above.
MOST_BUDGETS = 17
_CODE = "payment_required"


def budget_of(request: Request) -> int | None:
    """`X-Budget` in micro-credits; None where there is none. Errors: Invalid; Exhausted (payment_required) for 0."""
    given = [value.strip() for name, value in request.headers if name == "x-budget"]
    if not given:
        return None
    text = given[0]
    if len(given) > 1 or not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= MOST_MONEY):
        told = "there more than once" if len(given) > 1 else repr(text[:40])
        raise Invalid(f"X-Budget is {told}; it must be a whole number of micro-credits from 0 to {MOST_MONEY}")
    if len(request.who.budgets) >= MOST_BUDGETS:
        raise Invalid(f"a run counts against at most {MOST_BUDGETS} budgets; leave X-Budget out here")
    if not int(text):
        raise Exhausted("X-Budget is 0, and no run is free: give it more micro-credits, or leave it out", code=_CODE)
    return int(text)


def billed(spec: RunSpec, who: Principal) -> RunSpec:
    """On the account of `who`: what a run calls counts against all budgets of that run, too."""
    spec, run = replace(spec, budgets=who.budgets, paying_key_id=who.paying_key_id), who.identity
    return replace(spec, charged_on_success=run.charged_on_success, above=run.above) if run else spec


def limited(spec: RunSpec, budget: int | None, name: str) -> RunSpec:
    """With a budget of its own, under `name`: the run's id where it is known, else an id that no other run has."""
    if budget is None:
        return spec
    return replace(spec, budgets=(*spec.budgets, Budget(f"run:{name}", budget)))


def check_credit(who: Principal, *, durable: bool) -> None:
    """What surely can't be paid isn't begun; what is reserved elsewhere just now is the executor's to judge, but a run
    that waits for its turn isn't accepted on that chance. Errors: Exhausted (payment_required).
    """
    if who.credit is not None and who.credit <= 0:
        raise Exhausted(
            "your organization has no credits left: an admin key of the first organization grants more (POST /credits)",
            code=_CODE,
        )
    if durable and who.budget_left is not None and who.budget_left <= 0:
        raise Exhausted(
            "the budget of this key is spent, or reserved by runs under way: use another key, or wait for their end",
            code=_CODE,
        )


def check_bound(who: Principal, target: Target, path: str) -> None:
    """That a bound key is used for what it is bound to, the body apart. Errors: Denied."""
    bind = who.bind or Binding()
    names = {f"{target.owner_id}.{target.service_id}"}
    if target.owner_id in {who.organization_id, SYSTEM}:
        names.add(target.service_id)
    if bind.service_id and bind.service_id not in names:
        raise Denied(f"this one-time key is bound to the service {bind.service_id}")
    if bind.path and bind.path != path:
        raise Denied(f"this one-time key is bound to the path {bind.path}")


def bound_body(who: Principal, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The body, which raises Denied at its end if it isn't the one that the key is bound to. (A one-time key's call has
    been read to its end before anything is started or kept.)
    """
    return _judged(body, who.bind.body_sha256) if who.bind and who.bind.body_sha256 else body


async def _judged(body: AsyncIterator[bytes], digest: str) -> AsyncIterator[bytes]:
    found = hashlib.sha256()
    async for chunk in body:
        found.update(chunk)
        yield chunk
    if found.hexdigest() != digest:
        raise Denied("this one-time key is bound to another request body: its SHA-256 isn't that of this one")
