"""When schedules fire: what is accepted, and the nights in which the clocks change."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kit.errors import Invalid
from scheduler.cron import Cron

BERLIN = ZoneInfo("Europe/Berlin")
# Berlin: 2026-03-29 02:00 → 03:00 and 2026-10-25 03:00 → 02:00, both at 01:00 UTC.
SPRING = datetime(2026, 3, 28, 12, tzinfo=UTC)
AUTUMN = datetime(2026, 10, 24, 12, tzinfo=UTC)


def fires(expression: str, timezone: str, after: datetime, count: int) -> list[str]:
    """Local times with their offset."""
    cron, found = Cron(expression, timezone), []
    for _ in range(count):
        following = cron.after(after)
        assert following is not None
        assert following > after
        after = following
        found.append(after.astimezone(ZoneInfo(timezone)).strftime("%d %H:%M %z"))
    return found


def test_a_time_in_the_skipped_hour_comes_right_after_it() -> None:
    assert fires("30 2 * * *", "Europe/Berlin", SPRING, 2) == ["29 03:00 +0200", "30 02:30 +0200"]
    assert fires("0,30 2 * * *", "Europe/Berlin", SPRING, 2) == ["29 03:00 +0200", "30 02:00 +0200"]
    assert fires("0 2,3 * * *", "Europe/Berlin", SPRING, 2) == ["29 03:00 +0200", "30 02:00 +0200"]


def test_a_time_in_the_doubled_hour_comes_once() -> None:
    assert fires("30 2 * * *", "Europe/Berlin", AUTUMN, 2) == ["25 02:30 +0200", "26 02:30 +0100"]


def test_asked_in_the_second_of_the_doubled_hours_the_first_is_over() -> None:
    second = datetime(2026, 10, 25, 1, 10, tzinfo=UTC)  # 02:10 +0100
    assert fires("30 2 * * *", "Europe/Berlin", second, 1) == ["26 02:30 +0100"]


def test_what_has_a_star_follows_the_clock() -> None:
    skipped = datetime(2026, 3, 29, 0, 30, tzinfo=UTC)
    assert fires("*/30 * * * *", "Europe/Berlin", skipped, 3) == ["29 03:00 +0200", "29 03:30 +0200", "29 04:00 +0200"]
    doubled = datetime(2026, 10, 24, 23, 59, tzinfo=UTC)
    assert fires("30 * * * *", "Europe/Berlin", doubled, 3) == ["25 02:30 +0200", "25 02:30 +0100", "25 03:30 +0100"]
    # The hour is set, but not the minute: nothing in the hour that is left out.
    assert fires("*/20 2 * * *", "Europe/Berlin", skipped, 1) == ["30 02:00 +0200"]


def test_half_an_hour_and_the_other_hemisphere() -> None:
    lord_howe = "Australia/Lord_Howe"  # 2026-10-04 02:00 → 02:30
    assert fires("15 2 * * *", lord_howe, datetime(2026, 10, 3, 0, tzinfo=UTC), 2)[0] == "04 02:30 +1100"


@pytest.mark.parametrize(
    ("expression", "first"),
    [
        ("* * * * *", "2026-01-01 00:01"),
        ("  0   9 * *  MON-FRI ", "2026-01-01 09:00"),
        ("0 0 1 1 *", "2027-01-01 00:00"),
        ("59 23 29 2 *", "2028-02-29 23:59"),
        ("0 0 L * *", "2026-01-31 00:00"),
        ("0 0 LW * *", "2026-01-30 00:00"),
        ("0 0 * * MON#2", "2026-01-12 00:00"),
        ("0 0 * * 7", "2026-01-04 00:00"),
        ("0 0 13 * FRI", "2026-01-02 00:00"),
        ("0 12 * jan mon", "2026-01-05 12:00"),
    ],
)
def test_what_an_expression_may_say(expression: str, first: str) -> None:
    found = Cron(expression, "").after(datetime(2026, 1, 1, tzinfo=UTC))
    assert found == datetime.fromisoformat(first).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "why"),
    [
        ("", "0 fields"),
        ("* * * *", "4 fields"),
        ("* * * * * *", "6 fields"),
        ("@daily", "1 field,"),
        ("@reboot", "1 field,"),
        ("60 * * * *", "bad minute"),
        ("* 24 * * *", "bad hour"),
        ("* * 32 * *", "bad day-of-month"),
        ("* * * 13 *", "bad month"),
        ("* * * * 8", "bad day-of-week"),
        ("*/0 * * * *", "bad minute"),
        ("5-1 * * * *", "bad minute"),
        ("1,, * * * *", "bad minute"),
        ("a * * * *", "bad minute"),
        ("-1 * * * *", "bad minute"),
        ("* * * * MON#6", "bad day-of-week"),
        ("* * * * ²L", "ASCII"),
        ("٣ * * * *", "ASCII"),
        ("0 0 30 2 *", "there is no such day"),
        ("0 0 31 4,6 *", "there is no such day"),
        ("0 0 32 2 *", "bad day-of-month"),
        ("0 0 30 13 *", "bad month"),
        ("*," * 100 + "* * * * *", "200 characters"),
    ],
)
def test_what_it_may_not(expression: str, why: str) -> None:
    with pytest.raises(Invalid, match=why):
        Cron(expression, "UTC")


@pytest.mark.parametrize(
    "timezone",
    [
        *("Mars/Base", "europe/berlin", "../etc/passwd", "/etc/localtime", "Europe", "localtime", "UTC+1"),
        *("x" * 5000, "posix/UTC", " UTC", "UTC\x00"),
    ],
)
def test_zones_that_are_none(timezone: str) -> None:
    with pytest.raises(Invalid, match="IANA"):
        Cron("* * * * *", timezone)


def test_what_never_comes_true() -> None:
    assert Cron("0 0 */31 2 MON#5", "UTC").after(SPRING) is None


@given(
    minute=st.sampled_from(["*", "*/7", "0", "30", "0,30", "15-45/10"]),
    hour=st.sampled_from(["*", "*/2", "2", "1-3", "0,2,3"]),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca"]),
    minutes=st.integers(0, 366 * 24 * 60),
    hours=st.integers(0, 30),
)
@settings(max_examples=150, deadline=None)
def test_one_after_the_other_and_the_latest_is_the_last_of_them(
    minute: str, hour: str, zone: str, minutes: int, hours: int
) -> None:
    cron, since = Cron(f"{minute} {hour} * * *", zone), datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minutes)
    until = since + timedelta(hours=hours)
    found: list[datetime] = []
    at = cron.after(since)
    while at is not None and at <= until:
        assert not found or at > found[-1]
        assert (at.second, at.microsecond) == (0, 0)
        found.append(at)
        at = cron.after(at)
    assert cron.latest(since, until) == (found[-1] if found else None)
