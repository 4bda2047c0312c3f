"""Boxes: what opens them, and all that doesn't. Keys: their hash."""

import struct
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from keys.sealing import Envelope, PepperedHash, Tampered, UnknownKek, kek_id, shown

OLD, NEW = b"k" * 32, b"n" * 32
SEAL = Envelope(OLD)
PLACE = ("org_a", "TOKEN")


def old_box(kek: bytes, organization_id: str, name: str, value: str) -> bytes:
    """As releases before format 2 made it."""
    place = b"\0".join((b"runmesh.secret.1", organization_id.encode(), name.encode()))
    data_key, outer, inner = b"d" * 32, b"o" * 12, b"i" * 12
    wrapped = AESGCM(kek).encrypt(outer, data_key, place)
    return b"\x01" + outer + wrapped + inner + AESGCM(data_key).encrypt(inner, value.encode(), place)


@given(st.text(max_size=200), st.integers(0, 2**63 - 1), st.text(max_size=20))
def test_a_box_opens_to_what_was_sealed(value: str, version: int, bound: str) -> None:
    box = SEAL.seal(*PLACE, value, version=version, bound=bound)
    assert SEAL.open(*PLACE, box, version=version, bound=bound) == value
    assert box != SEAL.seal(*PLACE, value, version=version, bound=bound)


@pytest.mark.parametrize("place", [("org_b", "TOKEN"), ("org_a", "TOKEN2"), ("org_aT", "OKEN"), ("", "org_aTOKEN")])
def test_a_box_opens_at_its_own_place_only(place: tuple[str, str]) -> None:
    for box in (SEAL.seal(*PLACE, "value"), old_box(OLD, *PLACE, "value")):
        with pytest.raises(Tampered, match="does not open"):
            SEAL.open(*place, box)


@pytest.mark.parametrize("version", [0, 1, 3, 2**32 + 2])
def test_another_version_doesnt_open(version: int) -> None:
    box = SEAL.seal(*PLACE, "value", version=2)
    with pytest.raises(Tampered, match=f"is version 2, and version {version} is the newest"):
        SEAL.open(*PLACE, box, version=version)
    forged = box[:9] + struct.pack(">Q", version) + box[17:]
    with pytest.raises(Tampered, match="does not open"):
        SEAL.open(*PLACE, forged, version=version)


def test_an_old_box_is_the_first_version_only() -> None:
    box = old_box(OLD, *PLACE, "value")
    assert SEAL.open(*PLACE, box) == "value"
    with pytest.raises(Tampered, match="an older one that was put back"):
        SEAL.open(*PLACE, box, version=1)


def test_what_it_is_bound_to_counts() -> None:
    box = SEAL.seal(*PLACE, "value", bound='["a.example"]')
    with pytest.raises(Tampered):
        SEAL.open(*PLACE, box, bound='["evil.example"]')
    # Where one part ends and the next begins counts, too.
    with pytest.raises(Tampered):
        SEAL.open(*PLACE, SEAL.seal(*PLACE, "value", version=1, bound="1"), version=1, bound="11")


@pytest.mark.parametrize("make", [lambda: SEAL.seal(*PLACE, "value", version=7), lambda: old_box(OLD, *PLACE, "value")])
def test_a_changed_box_doesnt_open(make: Callable[[], bytes]) -> None:
    box = make()
    version = 7 if box[0] == 2 else 0
    assert SEAL.open(*PLACE, box, version=version) == "value"
    for position in range(len(box)):
        for bit in (1, 0x80):
            changed = box[:position] + bytes([box[position] ^ bit]) + box[position + 1 :]
            with pytest.raises(Tampered):
                SEAL.open(*PLACE, changed, version=version)
    for length in range(len(box)):
        with pytest.raises(Tampered):
            SEAL.open(*PLACE, box[:length], version=version)
    with pytest.raises(Tampered):
        SEAL.open(*PLACE, box + b"\0", version=version)


def test_the_halves_of_two_boxes_make_none() -> None:
    """Data keys are good for one value: neither half may come from elsewhere."""
    one, two = SEAL.seal("org_a", "ONE", "1"), SEAL.seal("org_a", "TWO", "2")
    for cut in range(17, 90):
        with pytest.raises(Tampered):
            SEAL.open("org_a", "ONE", one[:cut] + two[cut:])


def test_under_another_kek_nothing_opens() -> None:
    for box in (SEAL.seal(*PLACE, "value"), old_box(OLD, *PLACE, "value")):
        with pytest.raises(Tampered):
            Envelope(NEW).open(*PLACE, box)
    with pytest.raises(UnknownKek, match=shown(kek_id(OLD))):
        Envelope(NEW).open(*PLACE, SEAL.seal(*PLACE, "value"))


def test_the_first_kek_wraps_and_all_unwrap() -> None:
    both, new = Envelope(NEW, OLD), Envelope(NEW)
    assert both.open(*PLACE, SEAL.seal(*PLACE, "value")) == "value"
    assert both.open(*PLACE, old_box(OLD, *PLACE, "value")) == "value"
    assert new.open(*PLACE, both.seal(*PLACE, "value")) == "value"


def test_a_rewrapped_box_needs_the_new_kek_alone_and_keeps_its_place_and_version() -> None:
    both, new = Envelope(NEW, OLD), Envelope(NEW)
    box = SEAL.seal(*PLACE, "value", version=3, bound="[]")
    again = both.rewrap(*PLACE, box, bound="[]")
    assert new.open(*PLACE, again, version=3, bound="[]") == "value"
    assert again[77:] == box[77:], "the value was not encrypted again"
    for place, version in ((("org_b", "TOKEN"), 3), (PLACE, 4)):
        with pytest.raises(Tampered):
            new.open(*place, again, version=version, bound="[]")
    upgraded = both.rewrap(*PLACE, old_box(OLD, *PLACE, "value"), bound="[]")
    assert upgraded[:9] == b"\x02" + kek_id(NEW)
    assert new.open(*PLACE, upgraded, bound="[]") == "value"
    for broken in (b"", b"\x02", box[:40], b"\x03" + box[1:]):
        with pytest.raises(Tampered):
            both.rewrap(*PLACE, broken)
    with pytest.raises(UnknownKek):
        new.rewrap(*PLACE, box)


def test_a_kek_that_isnt_known_is_looked_for_once_more() -> None:
    there: list[bytes] = [OLD]
    envelope = Envelope(OLD, look_again=lambda: there)
    box = Envelope(NEW).seal(*PLACE, "value")
    with pytest.raises(UnknownKek):
        envelope.open(*PLACE, box)
    there.insert(0, NEW)
    assert envelope.open(*PLACE, box) == "value"
    assert envelope.ids == (kek_id(NEW), kek_id(OLD))
    there.clear()  # nobody can tell: what was known stays
    with pytest.raises(UnknownKek):
        envelope.open(*PLACE, Envelope(b"x" * 32).seal(*PLACE, "value"))
    assert envelope.open(*PLACE, box) == "value"


@pytest.mark.parametrize("keks", [(), (b"",), (b"k" * 31,), (b"k" * 33,), (OLD, b"short")])
def test_a_kek_has_32_bytes(keks: tuple[bytes, ...]) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Envelope(*keks)


def test_ids_tell_keks_apart_and_nothing_else() -> None:
    assert kek_id(OLD) != kek_id(NEW)
    assert shown(kek_id(OLD)) == f"kek_{kek_id(OLD).hex()}"
    assert OLD[:8] not in kek_id(OLD)


def test_the_keyed_hash_depends_on_the_pepper() -> None:
    assert PepperedHash(b"a" * 32)("cwk-x") != PepperedHash(b"b" * 32)("cwk-x")
    assert len(PepperedHash(b"a" * 32)("cwk-x")) == 32
