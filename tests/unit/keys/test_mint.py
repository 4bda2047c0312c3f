import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keys.mint import checksum, new_key, shown_prefix, well_formed
from keys.model import KeyKind

ONE = new_key(KeyKind.STANDARD)


@pytest.mark.parametrize(("kind", "prefix"), [(KeyKind.STANDARD, "cwk-"), (KeyKind.ONE_TIME, "cwotk-")])
def test_a_key_is_prefix_30_random_and_6_of_checksum(kind: KeyKind, prefix: str) -> None:
    key = new_key(kind)
    assert key.startswith(prefix)
    assert len(key) == len(prefix) + 36
    assert set(key.removeprefix(prefix)) <= set(string.ascii_letters + string.digits)
    assert well_formed(key)
    assert new_key(kind) != key


@given(position=st.integers(0, len(ONE) - 1), character=st.characters(codec="utf-8"))
def test_any_one_mistyped_character_is_noticed(position: int, character: str) -> None:
    typo = ONE[:position] + character + ONE[position + 1 :]
    assert well_formed(typo) == (typo == ONE)


@given(st.text(max_size=60))
def test_garbage_is_never_a_key(text: str) -> None:
    assert not well_formed(text)
    assert not well_formed("cwk-" + text)


def test_a_run_token_is_never_a_key_whatever_its_checksum() -> None:
    body = "cwk-run-" + "a" * 26
    assert not well_formed(body + checksum(body))
    body = "cwk-run-" + "a" * 30
    assert not well_formed(body + checksum(body))


def test_the_checksum_covers_the_prefix() -> None:
    assert not well_formed("cwotk-" + ONE.removeprefix("cwk-"))


def test_long_text_is_refused_at_once() -> None:
    assert not well_formed("cwk-" + "a" * 1_000_000)


def test_the_shown_prefix_gives_little_away() -> None:
    assert shown_prefix(ONE) == ONE[:8]
    assert len(shown_prefix(new_key(KeyKind.ONE_TIME))) == 10
