"""The packets of DNS, whatever comes; names and their addresses."""

import ipaddress
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from executor.egress import dns
from executor.egress.names import MAX_NAMES, NETWORK, Names

ADDRESS = ipaddress.IPv4Address("198.18.0.1")


def query(name: bytes = b"\3api\7example\0", kind: int = 1, flags: int = 0x0100, questions: int = 1) -> bytes:
    return struct.pack("!6H", 0x1234, flags, questions, 0, 0, 0) + name + struct.pack("!HH", kind, 1)


def test_a_question_and_its_answer() -> None:
    question = dns.parse(query(b"\3aPi\7eXample\0"))
    assert (question.name, question.kind, question.wants_address) == ("aPi.eXample", 1, True)
    reply = dns.reply(question, dns.OK, ADDRESS)
    assert struct.unpack_from("!6H", reply) == (0x1234, 0x8180, 1, 1, 0, 0)
    assert reply[12:].startswith(b"\3aPi\7eXample\0\0\1\0\1")  # as it was spelled
    assert reply.endswith(b"\xc0\x0c\0\1\0\1" + struct.pack("!IH", dns.TTL_SECONDS, 4) + ADDRESS.packed)


@pytest.mark.parametrize("kind", [28, 65, 15, 16, 33, 255, 0])
def test_other_kinds_of_answers_are_empty(kind: int) -> None:
    reply = dns.reply(dns.parse(query(kind=kind)), dns.OK, ADDRESS)
    assert struct.unpack_from("!6H", reply)[1:4] == (0x8180, 1, 0)


def test_what_can_not_be_told() -> None:
    question = dns.parse(query())
    for code in (dns.NO_SUCH_NAME, dns.FAILED):
        assert struct.unpack_from("!6H", dns.reply(question, code, ADDRESS))[1:4] == (0x8180 | code, 1, 0)


def test_additional_records_are_no_hindrance() -> None:
    edns = b"\0" + struct.pack("!HHIH", 41, 1232, 0, 0)
    assert dns.parse(query() + edns).name == "api.example"


@pytest.mark.parametrize(
    ("packet", "code"),
    [
        (b"", None),
        (query()[:11], None),
        (query(flags=0x8180), None),  # an answer: replying to one could go on for ever
        (query(flags=0x2800), dns.NOT_IMPLEMENTED),
        (query(questions=0), dns.MALFORMED),
        (query(questions=2), dns.MALFORMED),
        (query(b"\xc0\x0c"), dns.MALFORMED),
        (query(b"\x40" + b"a" * 64 + b"\0"), dns.MALFORMED),
        (query(b"\x3f" + b"a" * 10), dns.MALFORMED),
        (query((b"\x3f" + b"a" * 63) * 5 + b"\0"), dns.MALFORMED),
        (query(b"\3a.b\0"), dns.MALFORMED),
        (query(b"\3a\xffb\0"), dns.MALFORMED),
        (query()[:-2], dns.MALFORMED),
        (query() + bytes(5000), None),
    ],
)
def test_what_is_no_question(packet: bytes, code: int | None) -> None:
    with pytest.raises(dns.Unanswerable) as raised:
        dns.parse(packet)
    if code is None:
        assert raised.value.reply == b""
    else:
        assert struct.unpack_from("!6H", raised.value.reply) == (
            0x1234,
            raised.value.reply[2] << 8 | 0x80 | code,
            0,
            0,
            0,
            0,
        )


@given(st.binary(max_size=600))
@example(query())
def test_whatever_comes(packet: bytes) -> None:
    try:
        question = dns.parse(packet)
    except dns.Unanswerable:
        return
    reply = dns.reply(question, dns.OK, ADDRESS)
    assert reply[:2] == packet[:2]
    assert len(reply) <= len(packet) + 16  # no amplifier


def test_names_keep_their_addresses() -> None:
    names = Names()
    first, second = names.address_of("a.example"), names.address_of("b.example")
    assert first is not None
    assert second is not None
    assert first != second
    assert names.address_of("a.example") == first
    assert (names.name_of(first), names.name_of(second)) == ("a.example", "b.example")
    assert names.name_of(second + 1) == names.name_of(first - 1) == ""
    assert names.name_of(ipaddress.ip_address("8.8.8.8")) == names.name_of(ipaddress.ip_address("::1")) == ""


def test_there_are_only_so_many_names() -> None:
    names = Names()
    addresses = [names.address_of(f"n{number}.example") for number in range(MAX_NAMES + 1)]
    assert addresses[-1] is None
    assert addresses[-2] in NETWORK
    assert names.address_of("n0.example") == addresses[0]
