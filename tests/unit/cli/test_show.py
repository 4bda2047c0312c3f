"""cli.show, cli.api, cli.problem: how values are shown, and where a name leads."""

from datetime import UTC, datetime, timedelta

import pytest

from cli.api import is_loopback, run_path, segment
from cli.keys import duration, state
from cli.problem import Misuse, clean
from cli.show import ago, credit, lasted, status_of


def moment(**since: float) -> str:
    return (datetime.now(UTC) - timedelta(**since)).isoformat()


@pytest.mark.parametrize(
    ("time", "shown"),
    [
        (None, ""),
        ("2030-01-31T11:59:55.000Z", "5 s ago"),
        ("2030-01-31T11:56:30.000Z", "3 min ago"),
        ("2030-01-31T09:06:00.000Z", "2 h ago"),
        ("2028-12-27T12:00:00.000Z", "400 d ago"),
        ("2030-02-01T04:30:00.000Z", "in 16 h"),
        ("2030-02-07T11:59:58.000Z", "in 7 d"),
    ],
)
def test_times_are_told_from_now(time: str | None, shown: str) -> None:
    assert ago(time, datetime(2030, 1, 31, 12, tzinfo=UTC)) == shown


def test_amounts_are_told_in_credits() -> None:
    assert [credit(amount) for amount in (None, 0, 1, 1_234_567_890)] == ["", "0.000000", "0.000001", "1,234.567890"]


def test_a_run_that_goes_on_has_no_length() -> None:
    assert lasted({"startedAt": "2030-01-31T12:00:00.000Z", "completedAt": None}) == ""
    assert lasted({"startedAt": "2030-01-31T12:00:00.000Z", "completedAt": "2030-01-31T12:00:01.250Z"}) == "1.250 s"


@pytest.mark.parametrize(
    ("status", "code", "shown"),
    [
        ("failed", "out_of_memory", "failed (out_of_memory)"),
        ("cancelled", "cancelled", "cancelled"),
        ("timed_out", "timeout", "timed_out"),
        ("succeeded", None, "succeeded"),
    ],
)
def test_a_status_has_its_code_where_that_says_more(status: str, code: str | None, shown: str) -> None:
    assert status_of({"status": status, "code": code}) == shown


@pytest.mark.parametrize(
    ("target", "path"),
    [
        ("greet", "/run/greet"),
        ("greet@2/a/b?c=d", "/run/greet@2/a/b?c=d"),
        ("org_1.greet/", "/run/org_1.greet/"),
        ("greet/a b/ü%2F", "/run/greet/a%20b/%C3%BC%2F"),
        ("gr#eet?x", "/run/gr%23eet%3Fx"),
    ],
)
def test_where_a_call_leads(target: str, path: str) -> None:
    assert run_path(target) == path


def test_a_name_is_one_part_of_a_path() -> None:
    assert [segment(name) for name in ("a/b", "..", "a?b", "key_1")] == ["a%2Fb", "%2E%2E", "a%3Fb", "key_1"]


def test_proxies_are_left_out_on_the_way_to_this_machine() -> None:
    here = ("http://127.0.0.1:8080", "http://localhost", "https://[::1]:1", "http://127.9.9.9")
    assert all(map(is_loopback, here))
    assert not any(map(is_loopback, ("http://example.com", "http://10.0.0.1", "http://localhost.example.com", "")))


def test_texts_of_others_move_no_cursor() -> None:
    assert clean("a\tb\r\nc\x1b[2J\r\x9b\u202e") == "a\tb\nc\ufffd[2J\ufffd\ufffd\ufffd"


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, "active"),
        ({"revoked_at": 1}, "revoked"),
        ({"expires_at": 2.5}, "expired 2 h ago"),
        ({"expires_at": -2.5}, "expires in 2 h"),
    ],
)
def test_the_state_of_a_key(changes: dict[str, float], shown: str) -> None:
    told = {name: moment(hours=hours) for name, hours in changes.items()}
    assert state({"revoked_at": None, "expires_at": None} | told) == shown


def test_durations() -> None:
    assert [duration(text).total_seconds() for text in ("30m", "12h", "7d", "4w")] == [1800, 43200, 604800, 2419200]
    for text in ("", "7", "d", "7y", "-1d", "1.5h", "999999d"):
        with pytest.raises(Misuse):
            duration(text)
