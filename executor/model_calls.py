"""What the library's model services may spend before they ask a provider, and what they have used afterwards.

A service speaks over its request's socket, in frames `M` of JSON (shim.py), and is answered in the same way:

    {"id", "op": "afford", "model", "tokens_in", "tokens_out"}   → {"id", "granted"} or {"id", "refused", "code"}
    {"op": "so_far", "call", "in", "out"}                        no answer; it counts if nothing better comes
    {"id", "op": "used", "call", "in", "out", "cached"}          → {"id"}

`tokens_in` is the most that the provider can count of the request; `tokens_out` the most that was asked for, null where
nothing was, 0 where nothing is produced. `call` is the id of what was afforded. `in` counts all tokens of the request,
`cached` those among them that the provider had already. Who speaks is the operator's own code: it is believed what it
says of tokens, and bounded all the same.
"""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from executor.prices import known_as
from executor.sandbox import AnswerPart, Crashed, Event, Said
from kit.errors import Exhausted

# What a call may produce whose caller sets no limit: every model of the vendors' takes that much.
DEFAULT_OUT = 4096
MAX_OPEN = 64
MAX_TOKENS = 1_000_000_000
MAX_MODEL = 200
UNKNOWN_PRICE, TOO_POOR = "unknown_price", "payment_required"
_MILLION = 1_000_000


class Tab(Protocol):
    """What one attempt spends (docs/decisions/0020). Amounts are micro-credits."""

    def price(self, meter: str) -> int | None:
        """Micro-credits per million; None where there is no price."""

    async def promise(self, amount: int) -> None:
        """Takes as much, until it is released. Errors: Exhausted (payment_required); Unavailable."""

    def release(self, amount: int) -> None:
        """Gives it back."""

    def book(self, meter: str, quantity: int) -> None:
        """It was used."""

    async def cover(self) -> None:
        """Takes what was booked and isn't taken, or the last there is. Never fails."""

    async def room(self) -> int:
        """The most that could be promised now. Errors: Unavailable."""


class Answering(Protocol):
    """A sandbox whose app waits for us."""

    async def tell(self, payload: bytes) -> None:
        """Errors: Crashed."""


@dataclass
class _Call:
    """One that may go on; `model` as it has its price. `known`: tokens in and out so far; None before the provider was
    asked.
    """

    model: str
    promised: int
    known: tuple[int, int] | None = None


class ModelCalls:
    """Of one attempt. `vendor`: the library service, as in its meters, `tokens:VENDOR/MODEL:in|out|cached`; empty for
    any other workflow, whose word on what it used doesn't count.
    """

    def __init__(self, tab: Tab, vendor: str) -> None:
        self._tab = tab
        self._vendor = vendor
        self._open: dict[int, _Call] = {}

    async def heard(self, events: AsyncGenerator[Event, None], sandbox: Answering) -> AsyncGenerator[AnswerPart, None]:
        """The events of its answer, without what it says to us, which is answered. Errors: as those of `hear`."""
        async with aclosing(events):
            async for event in events:
                if not isinstance(event, Said):
                    yield event
                elif (answer := await self.hear(event.payload)) is not None:
                    await sandbox.tell(answer)

    async def hear(self, payload: bytes) -> bytes | None:
        """The answer to what the service says. Errors: Crashed for what it can't say; Unavailable."""
        if not self._vendor:
            raise Crashed("the sandbox broke the protocol: only the library's services are metered so")
        try:
            said = json.loads(payload)
            op, number = said["op"], said.get("id")
            if op == "so_far":
                self._open[said["call"]].known = _whole(said["in"]), _whole(said["out"])
                return None
            answer = await (self._afford(_whole(number), said) if op == "afford" else self._used(said))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise Crashed(f"the sandbox broke the protocol: a call of a model that is none: {error!r}") from None
        return json.dumps({"id": number, **answer}).encode()

    async def close(self) -> list[str]:
        """The attempt is over: calls whose use was never told are charged for what is known of it; a sentence each."""
        told = []
        for call in self._open.values():
            if call.known is not None:
                tokens_in, tokens_out = call.known
                self._book(call.model, tokens_in, tokens_out, 0)
                told.append(
                    f"the call of {self._vendor}/{call.model} broke off before its provider had counted it: charged by "
                    f"an estimate of {tokens_in} tokens in, {tokens_out} out"
                )
            self._tab.release(call.promised)
        self._open.clear()
        await self._tab.cover()
        return told

    async def _afford(self, number: int, said: dict[str, Any]) -> dict[str, Any]:
        model, asked = said["model"], said["tokens_out"]
        tokens_in, wanted = _whole(said["tokens_in"]), DEFAULT_OUT if asked is None else _whole(asked)
        if not isinstance(model, str) or not 0 < len(model) <= MAX_MODEL:
            raise ValueError("no model")
        if number in self._open or len(self._open) >= MAX_OPEN:
            raise ValueError("too many calls at once")
        name = known_as(model, lambda known: self._price(known, "in") is not None)
        price_in = None if name is None else self._price(name, "in")
        price_out = self._price(name, "out") if name is not None and wanted else 0
        if name is None or price_in is None or price_out is None:
            missing = self._meter(name or model, "in" if name is None else "out")
            return {
                "refused": f"there is no price for {missing}: check the model's name, or have the operator set one"
                " by POST /prices",
                "code": UNKNOWN_PRICE,
            }
        for_in = _cost(tokens_in, price_in)
        if asked is None and price_out:
            wanted = min(wanted, (await self._tab.room() - for_in) * _MILLION // price_out)
            if wanted < 1:
                return {"refused": "what is left doesn't pay for this call of a model", "code": TOO_POOR}
        worst = for_in + _cost(wanted, price_out)
        try:
            await self._tab.promise(worst)
        except Exhausted as refusal:
            return {"refused": f"this call of a model may cost {worst} micro-credits: {refusal}", "code": TOO_POOR}
        self._open[number] = _Call(name, worst)
        return {"granted": wanted}

    async def _used(self, said: dict[str, Any]) -> dict[str, Any]:
        used = _whole(said["in"]), _whole(said["out"]), _whole(said["cached"])
        call = self._open.pop(said["call"])
        self._book(call.model, *used)
        self._tab.release(call.promised)
        await self._tab.cover()  # the provider may count more than it was thought to
        return {}

    def _book(self, model: str, tokens_in: int, tokens_out: int, cached: int) -> None:
        """Cached ones cost as others where they have no price of their own."""
        if self._price(model, "cached") is None:
            cached = 0
        cached = min(cached, tokens_in)
        for which, quantity in (("in", tokens_in - cached), ("out", tokens_out), ("cached", cached)):
            if quantity:
                self._tab.book(self._meter(model, which), quantity)

    def _price(self, model: str, which: str) -> int | None:
        return self._tab.price(self._meter(model, which))

    def _meter(self, model: str, which: str) -> str:
        return f"tokens:{self._vendor}/{model}:{which}"


def _cost(quantity: int, price: int) -> int:
    """Rounded up: it is a worst case."""
    return -(-quantity * price // _MILLION)


def _whole(value: object) -> int:
    """Errors: ValueError."""
    if type(value) is not int or not 0 <= value <= MAX_TOKENS:
        raise ValueError("no number")
    return value
