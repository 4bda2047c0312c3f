"""The ledger: who has how much, credit into purses and back, and what attempts cost.

Every operation is one transaction, and happens once however often it is asked for: its key says so.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from keys.audit import PLATFORM, Actor, Entry, done
from keys.money import (
    GRANTS,
    MAX_BILLS,
    MAX_NAMED,
    MOST,
    Account,
    Bill,
    Budget,
    Draw,
    Posting,
    Purse,
    Spent,
    Transaction,
    amount_to_draw,
    book,
    bounded,
    check_budgets,
    check_draw,
    check_ids,
    no_credit,
    organization_account,
    purse_account,
)
from kit.clock import Clock
from kit.errors import Conflict, Invalid, NotFound
from kit.lifecycle import failpoint
from kit.telemetry import log


class Change(Protocol):
    """One transaction on the books. What is held is held until its end; hold accounts, then budgets."""

    async def enter(self, transactions: Sequence[Transaction]) -> set[str]:
        """Adds them; the keys of those that weren't there."""
        ...

    async def posted(self, key: str, account_id: str) -> int | None:
        """What the transaction changed the account by."""
        ...

    async def post(self, postings: Sequence[Posting]) -> None:
        """Entries of transactions that were entered in this change, and the balances with them."""
        ...

    async def hold(self, account_ids: Iterable[str]) -> dict[str, Account]:
        """Those that there are."""
        ...

    async def open_account(self, organization_id: str, credits_: int, at: datetime) -> None:
        """Where it is missing. Errors: NotFound for an organization that there is not."""
        ...

    async def known_budgets(self, budget_ids: Iterable[str]) -> set[str]:
        """Those that there are; none is held."""
        ...

    async def hold_budgets(self, budget_ids: Iterable[str]) -> dict[str, Spent]:
        """Those that there are."""
        ...

    async def add_budgets(self, budgets: Sequence[Budget]) -> None:
        """Those that are missing: nothing is used of them."""
        ...

    async def use_budgets(self, changes: Mapping[str, int]) -> None: ...

    async def purse(self, purse_id: str) -> Purse | None: ...

    async def add_purse(self, purse: Purse, at: datetime) -> None:
        """With its account, where it is missing; its life is kept."""
        ...

    async def add_bills(self, bills: Sequence[Bill]) -> None:
        """Their transactions were entered in this change."""
        ...

    async def add_usage(self, bills: Sequence[Bill]) -> None:
        """To the sums, when they are added and all else is held."""
        ...

    async def note(self, entry: Entry) -> None:
        """In the audit log."""
        ...


class Books(Protocol):
    """All accounts."""

    def change(self) -> AbstractAsyncContextManager[Change]:
        """Commits on leaving, undoes everything on an error."""
        ...

    async def account(self, organization_id: str) -> Account | None: ...

    async def spent(self, budget_ids: Iterable[str]) -> dict[str, Spent]: ...

    async def keep(self, incarnation: str, at: datetime) -> None:
        """All purses of a life."""
        ...

    async def close(self, incarnation: str, purse_ids: Sequence[str], at: datetime) -> None:
        """Those of them that are purses of this life."""
        ...

    async def kept(self, purse_ids: Sequence[str]) -> set[str]:
        """Those of them that weren't swept."""
        ...


@dataclass(frozen=True)
class Balance:
    """`balance` may be spent, `reserved` is in purses, `room` could be drawn with the budgets asked for."""

    balance: int
    reserved: int
    room: int


class Ledger:
    """All that is done to the books but the sweep."""

    def __init__(self, books: Books, clock: Clock) -> None:
        self._books = books
        self._clock = clock

    async def balance(self, organization_id: str, budgets: Sequence[Budget] = ()) -> Balance:
        """Errors: NotFound, Invalid."""
        check_budgets(budgets)
        account = await self._books.account(organization_id)
        if account is None:
            raise NotFound("no such organization")
        spent = await self._books.spent([budget.id for budget in budgets]) if budgets else {}
        rooms = (spent[each.id].room if each.id in spent else each.limit for each in budgets)
        return Balance(account.balance, account.reserved, min(account.balance, *rooms) if budgets else account.balance)

    async def grant(
        self, grant_id: str, organization_id: str, amount: int, *, reason: str = "", actor: Actor = PLATFORM
    ) -> int:
        """Gives credit, or takes some back (negative); the balance then. Errors: NotFound; Invalid; Exhausted when it
        takes more than there is; Conflict when the id was used for another grant.
        """
        check_ids(id=grant_id, organization_id=organization_id)
        if not amount or abs(amount) > MOST:
            raise Invalid("amount is a number of micro-credits other than zero")
        key, account_id = f"grant:{grant_id}", organization_account(organization_id)
        async with self._books.change() as tx:
            fresh = await tx.enter([Transaction(key, "grant", self._clock.now())])
            await tx.open_account(organization_id, 0, self._clock.now())
            account = (await tx.hold([account_id]))[account_id]
            if not fresh:
                if await tx.posted(key, account_id) != amount:
                    raise Conflict("this id was used for another grant")
                return account.balance
            if account.balance + amount < 0:
                raise no_credit(f"there are {account.balance} micro-credits left, so {-amount} can't be taken back")
            if account.balance + amount > MOST:
                raise Invalid(f"an organization has at most {MOST} micro-credits")
            await tx.post([Posting(key, organization_id, {account_id: amount, GRANTS: -amount})])
            told = {"grant_id": grant_id, "amount": amount, "reason": reason}
            await tx.note(done(self._clock.now(), actor, "credits.granted", organization_id, organization_id, told))
        return account.balance + amount

    async def draw(self, draw: Draw) -> int:
        """How much came into the purse; the same again for the same id. Errors: Exhausted; Conflict for a purse that
        was swept; NotFound; Invalid.
        """
        check_draw(draw)
        key, source, purse = f"draw:{draw.id}", organization_account(draw.organization_id), purse_account(draw.purse_id)
        async with self._books.change() as tx:
            fresh = await tx.enter([Transaction(key, "draw", self._clock.now())])
            held = await tx.hold([source, purse])
            if source not in held:
                raise NotFound("no such organization")
            budgets = await self._budgets(tx, draw.budgets)
            await self._into(tx, draw, new=purse not in held)
            if not fresh:
                return _again(await tx.posted(key, purse))
            amount = amount_to_draw(draw, held[source].balance, budgets)
            await tx.post([Posting(key, draw.organization_id, {source: -amount, purse: amount})])
            await tx.use_budgets({budget.id: amount for budget in budgets})
        failpoint("draw booked")
        return amount

    async def _into(self, tx: Change, draw: Draw, *, new: bool) -> None:
        """The purse is there, and the one that is meant. Errors: Conflict, Invalid."""
        ids = tuple(sorted(budget.id for budget in draw.budgets))
        wanted = Purse(draw.purse_id, draw.organization_id, draw.incarnation, ids)
        if new:
            await tx.add_purse(wanted, self._clock.now())
        found = await tx.purse(draw.purse_id)
        if found is None or found.swept:
            raise _swept()
        if found != wanted:
            raise Invalid("this purse is another organization's, executor's or set of budgets'")

    async def _budgets(self, tx: Change, budgets: Sequence[Budget]) -> list[Spent]:
        """Those that nobody has drawn for before are made."""
        ids = [budget.id for budget in budgets]
        if not ids:
            return []
        known = await tx.known_budgets(ids)
        if new := [budget for budget in budgets if budget.id not in known]:
            # Before any is held: who is just making one of these may wait for one of those.
            await tx.add_budgets(new)
        held = await tx.hold_budgets(ids)
        return [held[name] for name in ids]

    async def give_back(self, give_id: str, purse_id: str, amount: int) -> None:
        """What isn't needed of a purse. Errors: Conflict when the purse was swept, or has less; Invalid."""
        check_ids(id=give_id, purse_id=purse_id)
        if not 1 <= amount <= MOST:
            raise Invalid("amount is a number of micro-credits above zero")
        key, account_id = f"give:{give_id}", purse_account(purse_id)
        async with self._books.change() as tx:
            fresh = await tx.enter([Transaction(key, "give", self._clock.now())])
            purse = await tx.purse(purse_id)
            if purse is None:
                raise _swept()
            if not fresh:
                _again(await tx.posted(key, account_id))
                return
            target = organization_account(purse.organization_id)
            held = await tx.hold([target, account_id])
            if held[account_id].balance < amount:
                raise _swept()
            spent = await tx.hold_budgets(purse.budgets) if purse.budgets else {}
            await tx.post([Posting(key, purse.organization_id, {account_id: -amount, target: amount})])
            await tx.use_budgets({each.id: -min(amount, each.used) for each in spent.values()})
        failpoint("give booked")

    async def keep(self, incarnation: str, purse_ids: Sequence[str], closed: Sequence[str] = ()) -> list[str]:
        """All purses of this life are kept; those of the named that are no more. `closed`: its executor is done with
        them. Errors: Invalid.
        """
        check_ids(incarnation=incarnation)
        if max(len(purse_ids), len(closed)) > MAX_NAMED:
            raise Invalid(f"at most {MAX_NAMED} purses are named at once")
        await self._books.keep(incarnation, self._clock.now())
        if closed:
            await self._books.close(incarnation, closed, self._clock.now())
        kept = await self._books.kept(purse_ids) if purse_ids else set()
        return [name for name in purse_ids if name not in kept]

    async def settle(self, bills: Sequence[Bill]) -> None:
        """Each is booked once: of two with the same run, attempt and purse the first counts, and of files of two with
        the same id. One that can't be is logged, and holds up no other. Errors: Invalid for too many.
        """
        if len(bills) > MAX_BILLS:
            raise Invalid(f"at most {MAX_BILLS} bills are settled at once")
        known: dict[str, Bill] = {}
        for bill in filter(None, map(_checked, bills)):
            known.setdefault(bill.key, bill)
        if not known:
            return
        now = self._clock.now()
        async with self._books.change() as tx:
            fresh = await tx.enter([Transaction(key, bill.kind, now) for key, bill in known.items()])
            if new := [known[key] for key in sorted(fresh)]:
                await tx.add_bills(new)
                await self._book(tx, new)
        failpoint("bills booked")

    async def _book(self, tx: Change, bills: Sequence[Bill]) -> None:
        payers = {organization_account(bill.organization_id) for bill in bills}
        accounts = await tx.hold(payers | {purse_account(bill.purse_id) for bill in bills})
        budget_ids = {name for bill in bills for name in bill.budgets}
        budgets = await tx.hold_budgets(budget_ids) if budget_ids else {}
        postings: list[Posting] = []
        changes = dict.fromkeys(budgets, 0)
        for bill in bills:
            posting, used = book(bill, accounts, budgets)
            postings.append(posting)
            for name, change in used.items():
                changes[name] += change
        await tx.use_budgets(changes)
        await tx.add_usage(bills)
        await tx.post(postings)


def _checked(bill: Bill) -> Bill | None:
    """None for one that no attempt can cost."""
    try:
        good = bounded(bill)
    except Invalid as problem:
        log().error("bill.refused", run_id=bill.run_id[:100], purse_id=bill.purse_id[:100], reason=problem.message)
        return None
    if good.charge < bill.charge:
        log().error("bill.not_covered", bill=bill.key, charge=bill.charge, reserved=bill.reserved)
    return good


def _swept() -> Conflict:
    return Conflict("there is no such purse any more, or it has less than that: draw into a new one")


def _again(amount: int | None) -> int:
    """What the first one did, without its sign. Errors: Invalid when that was something else."""
    if amount is None:
        raise Invalid("this id was used for another purse")
    return abs(amount)
