"""What kept files cost, counted to the microsecond: in small steps as in one, and against plain arithmetic."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filestore.storage import MB_DAY, MEGABYTE, Price, Storage, StorageBill, check_room, cost, price_at
from kit.errors import Exhausted

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PRICE = 700_000
EMPTY = Storage.empty("org_a", NOW)


def test_a_megabyte_for_a_day_is_one_unit() -> None:
    one = EMPTY.with_file(MEGABYTE, NOW)
    early = one.counted(NOW + DAY - timedelta(microseconds=1))
    assert (early.mb_days, early.rest) == (0, MB_DAY - MEGABYTE)
    assert early.counted(NOW + DAY) == replace(one, mb_days=1, counted_at=NOW + DAY)


def test_a_bill_has_the_whole_units_and_the_rest_waits() -> None:
    kept = EMPTY.with_file(36 * MEGABYTE, NOW)
    after, bill = kept.billed("sto_1", PRICE, NOW + HOUR)
    assert bill == StorageBill("sto_1", "org_a", 1, 1, NOW + HOUR)
    assert (after.mb_days, after.rest, after.since) == (0, MB_DAY // 2, NOW + HOUR)
    _, bill = after.billed("sto_2", PRICE, NOW + 2 * HOUR)
    assert bill is not None
    assert bill.mb_days == 2


def test_what_costs_nothing_makes_no_bill_and_is_not_charged_later() -> None:
    kept = EMPTY.with_file(24 * MEGABYTE, NOW)
    after, bill = kept.billed("sto_1", 0, NOW + HOUR)
    assert (after.mb_days, bill) == (0, None)
    _, bill = after.billed("sto_2", PRICE, NOW + 2 * HOUR)
    assert bill is not None
    assert bill.mb_days == 1


def test_a_file_that_goes_late_is_paid_for_until_its_time_was_over() -> None:
    kept = EMPTY.with_file(10 * MEGABYTE, NOW)
    gone = kept.without_file(10 * MEGABYTE, NOW + DAY, NOW + 3 * DAY)
    assert (gone.kept, gone.mb_days, gone.rest) == (0, 10, 0)


def test_what_an_earlier_period_has_on_its_bill_is_never_taken_off_a_later_one() -> None:
    kept, _ = EMPTY.with_file(10 * MEGABYTE, NOW).billed("sto_1", PRICE, NOW + 2 * DAY)
    gone = kept.without_file(10 * MEGABYTE, NOW + DAY, NOW + 3 * DAY)
    assert (gone.kept, gone.mb_days, gone.rest) == (0, 0, 0)


def test_a_clock_that_is_behind_counts_nothing() -> None:
    kept = EMPTY.with_file(MEGABYTE, NOW)
    assert kept.counted(NOW - DAY) == kept
    assert kept.with_file(1, NOW - DAY).counted_at == NOW


def test_the_period_begins_with_the_first_file() -> None:
    idle = replace(EMPTY, rest=5)
    first = idle.with_file(1, NOW + DAY)
    assert (first.since, first.rest) == (NOW + DAY, 5)
    assert first.with_file(1, NOW + 2 * DAY).since == NOW + DAY


def test_the_numbers_of_a_large_organization_fit_into_64_bits() -> None:
    kept = EMPTY.with_file(2**50, NOW).counted(NOW + timedelta(days=3650))
    assert all(0 <= number < 2**63 for number in (kept.kept, kept.mb_days, kept.rest))
    assert kept.mb_days == 2**50 * 3650 // MEGABYTE


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["file", "bill", "count"]),
            st.integers(0, 10**10),
            st.integers(0, 10**12),
            st.integers(0, 10**12),
        ),
        max_size=30,
    )
)
def test_bills_have_what_was_kept_whatever_happens_in_between(steps: list[tuple[str, int, int, int]]) -> None:
    """Of files that live for some time and go when they are found expired; what is over at the end is less than 1."""
    storage, now, kept, total = EMPTY, NOW, list[tuple[int, datetime]](), Fraction(0)
    billed = 0
    for what, size, pause, lifetime in [*steps, ("bill", 0, 0, 0)]:
        now += timedelta(microseconds=pause)
        for old in [one for one in kept if one[1] <= now]:
            kept.remove(old)
            storage = storage.without_file(*old, now)
        if what == "file":
            kept.append((size, now + timedelta(microseconds=lifetime)))
            total += Fraction(size * lifetime, MB_DAY)
            storage = storage.with_file(size, now)
        elif what == "bill":
            storage, bill = storage.billed("sto_1", PRICE, now)
            billed += bill.mb_days if bill else 0
        else:
            storage = storage.counted(now)
        assert storage.kept == sum(size for size, _ in kept)
        assert storage.mb_days >= 0
        assert 0 <= storage.rest < MB_DAY
    unseen = sum(Fraction(size * ((until - now) // timedelta(microseconds=1)), MB_DAY) for size, until in kept)
    assert billed + Fraction(storage.rest, MB_DAY) == total - unseen


@pytest.mark.parametrize(("mb_days", "price", "amount"), [(0, 9, 0), (1, 499_999, 0), (1, 500_000, 1), (3, 700_000, 2)])
def test_amounts_are_rounded_half_up(mb_days: int, price: int, amount: int) -> None:
    assert cost(mb_days, price) == amount


def test_the_price_is_the_one_that_held_then() -> None:
    prices = [Price(1, NOW, NOW + HOUR), Price(2, NOW + HOUR)]
    moments = [NOW - HOUR, NOW, NOW + HOUR / 2, NOW + HOUR, NOW + DAY]
    assert [price_at(prices, moment) for moment in moments] == [0, 1, 1, 2, 2]


def test_a_refusal_has_the_numbers() -> None:
    assert check_room(10, 90, 100) == 10
    with pytest.raises(Exhausted, match=r"at most 100 bytes; 9 are left .* needs 10:") as caught:
        check_room(10, 91, 100)
    assert caught.value.code == "too_large"
    assert check_room(0, 200, 100) == 0
