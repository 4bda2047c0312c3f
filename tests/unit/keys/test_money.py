from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.money import (
    FILES,
    LOSSES,
    MAX_BUDGETS,
    MAX_LINES,
    MAX_TEXT,
    MOST,
    REVENUE,
    Account,
    Bill,
    BillLine,
    Budget,
    Spent,
    amount_to_draw,
    book,
    bounded,
    check_draw,
)
from keys.settings import Settings, micro_credits
from kit.errors import Exhausted, Invalid
from kit.settings import BadSettings, load
from tests.ledger_books import a_bill, a_draw

AMOUNTS = st.integers(0, 1000)


def with_lines(*lines: BillLine, charge: int = 1) -> Bill:
    return replace(a_bill("run_1", 10, charge), lines=lines)


@given(balance=AMOUNTS, need=st.integers(1, 500), more=AMOUNTS, rooms=st.lists(AMOUNTS, max_size=3))
def test_a_draw_is_from_need_to_want_and_never_more_than_there_is(
    balance: int, need: int, more: int, rooms: list[int]
) -> None:
    budgets = [Spent(f"run:{n}", room + 5, 5) for n, room in enumerate(rooms)]
    draw = a_draw("1", need, need + more)
    room = min([balance, *rooms])
    if room < need:
        with pytest.raises(Exhausted):
            amount_to_draw(draw, balance, budgets)
    else:
        assert amount_to_draw(draw, balance, budgets) == min(room, draw.want)


def test_where_there_is_plenty_more_is_drawn_but_not_of_budgets() -> None:
    draw = a_draw("1", 10, 20)
    assert amount_to_draw(draw, 19_999, []) == 20
    assert amount_to_draw(draw, 21_000, []) == 21
    assert amount_to_draw(draw, 10**9, [Spent("key:k", MOST)]) == 20


@given(
    reserved=AMOUNTS,
    charge=AMOUNTS,
    there=AMOUNTS,
    purse=AMOUNTS,
    limit=AMOUNTS,
    used=AMOUNTS,
    whose=st.sampled_from(["org_a", "org_b", ""]),
)
def test_whatever_is_booked_balances_and_stays_within_limits(
    reserved: int, charge: int, there: int, purse: int, limit: int, used: int, whose: str
) -> None:
    accounts = {"org:org_a": Account(there, "org_a"), "purse:p": Account(purse, whose)}
    budgets = {"key:k": Spent("key:k", limit, min(used, limit))}
    bill = bounded(a_bill("run_1", reserved, charge, "key:k", "key:unknown"))
    posting, changes = book(bill, accounts, budgets)
    assert sum(posting.entries.values()) == 0
    assert posting.entries[REVENUE] == min(charge, reserved)
    assert posting.entries[LOSSES] <= 0
    assert accounts["org:org_a"].balance == there + posting.entries["org:org_a"] >= 0
    assert accounts["purse:p"].balance == purse + posting.entries["purse:p"] >= 0
    assert whose == "org_a" or accounts["purse:p"].balance == purse
    assert budgets["key:k"].used == min(used, limit) + changes["key:k"]
    assert 0 <= budgets["key:k"].used <= limit
    if posting.entries[LOSSES]:
        assert accounts["org:org_a"].balance == 0


def test_a_bill_keeps_what_fits_and_is_charged_all_the_same() -> None:
    many = [BillLine(f"m{n}", 1, 1) for n in range(MAX_LINES + 5)]
    odd = [BillLine("m0", 2, 3), BillLine("bad", -1, 1), BillLine("m1", MOST, MOST)]
    found = bounded(with_lines(*many, *odd))
    assert len(found.lines) == MAX_LINES
    assert found.lines[:2] == (BillLine("m0", 3, 4), BillLine("m1", MOST, MOST))
    assert found.charge == 1
    (line,) = bounded(with_lines(BillLine("tokens:\0" + "x" * 300, 1, 1))).lines
    assert line.meter == ("tokens:?" + "x" * 300)[:MAX_TEXT]
    budgets = tuple(f"run:{n}" for n in range(MAX_BUDGETS + 3))
    assert bounded(replace(with_lines(), budgets=budgets)).budgets == budgets[:MAX_BUDGETS]
    assert bounded(with_lines(BillLine("cpu", 5, 7), charge=0)).lines == (BillLine("cpu", 5, 0),)


def test_what_no_attempt_can_cost_is_refused() -> None:
    good = a_bill("run_1", 10, 1)
    for bad in (
        replace(good, reserved=-1),
        replace(good, charge=-1),
        replace(good, reserved=MOST + 1),
        replace(good, attempt=-1),
        replace(good, run_id=""),
        replace(good, purse_id="x" * 101),
        replace(good, organization_id="a\0"),
    ):
        with pytest.raises(Invalid):
            bounded(bad)
    assert bounded(good) == good


def test_a_bill_without_a_purse_is_of_files() -> None:
    run, files = a_bill("run_1", 10, 1), bounded(replace(a_bill("sto_1", 10, 1), purse_id=""))
    assert (files.kind, files.key, files.service_id) == ("storage", "storage:sto_1", FILES)
    assert (run.kind, run.key, bounded(run).service_id) == ("run", "run:run_1:1:p", run.service_id)


def test_what_no_draw_can_be_is_refused() -> None:
    good = a_draw("1", 10, 20, Budget("key:k", 1))
    check_draw(good)
    for bad in (
        replace(good, need=0),
        replace(good, want=9),
        replace(good, want=MOST + 1),
        replace(good, incarnation=""),
        replace(good, budgets=(Budget("key:k", 1),) * 2),
        replace(good, budgets=(Budget("other:k", 1),)),
        replace(good, budgets=(Budget("key:k", -1),)),
        replace(good, budgets=tuple(Budget(f"run:{n}", 1) for n in range(MAX_BUDGETS + 1))),
    ):
        with pytest.raises(Invalid):
            check_draw(bad)


def test_meters_of_tokens_name_their_model() -> None:
    bill = with_lines(
        BillLine("tokens:openai/ft:gpt:acme:in", 5, 0),
        BillLine("tokens:a/b:cached", 3, 0),
        BillLine("tokens:a/b:out", 2, 0),
        BillLine("cpu", 7, 0),
        BillLine("call:in", 9, 0),
    )
    assert [line.model for line in bill.lines] == ["openai/ft:gpt:acme", "a/b", "a/b", "", ""]
    assert bill.quantities == {"in": 5, "cached": 3, "out": 2, "cpu": 7, "call:in": 9}


def test_initial_credits_are_a_number_of_micro_credits() -> None:
    assert load(Settings, {}).initial_credits == 0
    assert load(Settings, {"RUNMESH_INITIAL_CREDITS": str(MOST)}).initial_credits == MOST
    for bad in ("-1", "1.5", "1e6", str(MOST + 1), "9" * 5000, "²"):
        with pytest.raises(BadSettings):
            load(Settings, {"RUNMESH_INITIAL_CREDITS": bad})
        with pytest.raises(ValueError, match="micro-credits"):
            micro_credits(bad)
