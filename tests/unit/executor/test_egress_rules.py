"""What a workflow may reach: the language of `[tool.runmesh] egress`, and what is private in which spelling."""

import ipaddress
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.egress.rules import MAX_RULES, parse, plain_name
from kit.addresses import is_in, networks, not_public

PUBLIC = ipaddress.ip_address("93.184.216.34")


def at(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    return ipaddress.ip_address(text)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("10.255.255.255", "private"),
        ("100.64.0.1", "carrier"),
        ("100.127.255.255", "carrier"),
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("168.63.129.16", "metadata"),
        ("169.254.169.254", "link-local"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.0.0.192", "metadata"),
        ("192.0.2.1", "reserved"),
        ("192.168.0.1", "private"),
        ("198.19.255.255", "reserved"),
        ("203.0.113.9", "reserved"),
        ("224.0.0.1", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "reserved"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("::7f00:1", "disguise"),  # IPv4-compatible
        ("::ffff:10.0.0.1", "private"),  # IPv4-mapped
        ("::ffff:169.254.169.254", "link-local"),
        ("::ffff:0:7f00:1", "not an address of the public internet"),  # IPv4-translated
        ("64:ff9b::a9fe:a9fe", "link-local"),  # NAT64
        ("64:ff9b:1::a00:1", "not an address of the public internet"),
        ("100::1", "not an address of the public internet"),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", "disguise"),  # Teredo
        ("2001:db8::1", "reserved"),
        ("2002:a00:1::1", "disguise"),  # 6to4
        ("2606:4700::5efe:10.0.0.1", "disguise"),  # ISATAP
        ("2606:4700::200:5efe:10.0.0.1", "disguise"),
        ("3fff::1", "reserved"),
        ("fc00::1", "private"),
        ("fd00:ec2::254", "private"),
        ("fe80::1", "link-local"),
        ("fec0::1", "private"),
        ("ff02::1", "multicast"),
    ],
)
def test_what_is_not_public(address: str, kind: str) -> None:
    assert kind in not_public(at(address))
    assert parse(None).refuses(at(address), "") != ""
    assert parse(["*", "0.0.0.0/0", "::/0", str(at(address))]).refuses(at(address), "any.example") != ""


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "172.32.0.0", "192.0.1.1",
                "198.17.255.255", "223.255.255.255", "2606:4700::1111", "2a00:1450::1", "64:ff9b::808:808",
                "::ffff:8.8.8.8"],
)  # fmt: skip
def test_what_is_public(address: str) -> None:
    assert not_public(at(address)) == ""
    assert parse(None).refuses(at(address), "") == ""


@given(st.ip_addresses(v=4))
def test_a_disguise_never_shows_more_than_the_address_itself(address: ipaddress.IPv4Address) -> None:
    if not_public(address):
        value = int(address)
        for other in (0xFFFF << 32 | value, 0x64FF9B << 96 | value, 0x2002 << 112 | value << 80 | 1, value):
            assert not_public(ipaddress.IPv6Address(other))


def test_the_operator_decides_about_private_addresses() -> None:
    allowed = networks(" 10.1.0.0/16, 192.168.7.7,fd00::/8 ")
    assert parse(None).refuses(at("10.1.2.3"), "db.internal", allowed) == ""
    assert parse(None).refuses(at("::ffff:10.1.2.3"), "db.internal", allowed) == ""
    assert parse(None).refuses(at("fd00::5"), "", allowed) == ""
    assert "private" in parse(None).refuses(at("10.2.0.1"), "db.internal", allowed)
    assert parse(["api.example"]).refuses(at("10.1.2.3"), "db.internal", allowed)
    assert networks("") == ()
    with pytest.raises(ValueError, match=r"10\.1"):
        networks("10.1")


def allowed(rules: list[str] | None, name: str, address: str = str(PUBLIC)) -> bool:
    return not parse(rules).refuses(at(address), name)


@pytest.mark.parametrize(
    ("rules", "yes", "no"),
    [
        (None, ["a.example", "b.c.example"], []),
        ([], [], ["a.example"]),
        (["*"], ["a.example"], []),
        (["a.example"], ["a.example"], ["b.example", "x.a.example", "aa.example", "a.example.evil"]),
        (["A.Example."], ["a.example"], ["b.example"]),
        (["*.a.example"], ["x.a.example", "y.x.a.example"], ["a.example", "xa.example"]),
        (["!evil.example"], ["a.example", "x.evil.example"], ["evil.example"]),
        (["!*.evil.example"], ["evil.example"], ["x.evil.example"]),
        (["*.example", "!a.example"], ["b.example"], ["a.example"]),
        (["!a.example", "a.example"], [], ["a.example"]),
        (["!*"], [], ["a.example"]),
        (["93.184.0.0/16"], ["whatever.example"], []),
        (["1.1.1.0/24"], [], ["whatever.example"]),
        (["*", "!93.184.216.34"], [], ["a.example"]),
        (["*", "!93.184.0.0/16"], [], ["a.example"]),
        (["bücher.example"], ["xn--bcher-kva.example"], ["bucher.example"]),
    ],
)
def test_names(rules: list[str] | None, yes: list[str], no: list[str]) -> None:
    assert [name for name in yes if not allowed(rules, name)] == []
    assert [name for name in no if allowed(rules, name)] == []


@pytest.mark.parametrize(
    ("rules", "yes", "no"),
    [
        (None, ["1.1.1.1", "2606:4700::1111"], []),
        (["!evil.example"], ["1.1.1.1"], []),
        (["*"], ["1.1.1.1"], []),
        (["a.example"], [], ["1.1.1.1"]),
        (["1.1.1.0/24", "2606:4700::/32"], ["1.1.1.1", "::ffff:1.1.1.2", "2606:4700::1"], ["1.1.2.1", "2a00::1"]),
        (["1.1.1.1/24"], ["1.1.1.77"], ["1.1.2.1"]),
        (["[2606:4700::1]"], ["2606:4700::1"], ["2606:4700::2"]),
        (["*", "!1.1.1.0/24"], ["1.1.2.1"], ["1.1.1.1", "::ffff:1.1.1.1"]),
    ],
)
def test_literal_addresses(rules: list[str] | None, yes: list[str], no: list[str]) -> None:
    assert [address for address in yes if not allowed(rules, "", address)] == []
    assert [address for address in no if allowed(rules, "", address)] == []


def test_names_that_cannot_be_allowed_are_not_even_looked_up() -> None:
    assert parse(["a.example"]).refuses_name("tunnel.evil.example")
    assert parse([]).refuses_name("a.example")
    assert parse(["!a.example"]).refuses_name("a.example")
    assert parse(["1.1.1.0/24"]).refuses_name("a.example") == ""  # where it leads decides


@pytest.mark.parametrize(
    "entry",
    ["", "!", "https://a.example", "a.example:443", "a.example/path", "a b.example", "*a.example",
     "a.*.example", "*.*.example", "10.0.0.0/33", "10.0.0", "1.2.3.4.5", "2001:db8::/200", "!!a.example", "-a.example",
              "a..example", "x" * 64 + ".example", ".".join(["x" * 60] * 5), "user@a.example", "::g"],
)  # fmt: skip
def test_what_is_no_entry(entry: str) -> None:
    with pytest.raises(ValueError, match=r"is no (host|address)"):
        parse([entry])


def test_too_many_entries() -> None:
    parse(["a.example"] * MAX_RULES)
    with pytest.raises(ValueError, match="too many"):
        parse(["a.example"] * (MAX_RULES + 1))


@given(st.text(max_size=80))
def test_whatever_is_written_is_refused_or_understood(text: str) -> None:
    try:
        rules = parse([text])
    except ValueError:
        return
    assert rules.refuses(at("10.0.0.1"), "a.example")


def test_names_are_plain() -> None:
    assert plain_name("API.Example.") == "api.example"
    assert plain_name("_dmarc.example") == "_dmarc.example"
    with pytest.raises(ValueError, match="no host name"):
        plain_name("a\0.example")
    began = time.process_time()
    with pytest.raises(ValueError, match="no host name"):
        plain_name("\u00fc" * 200_000)  # five seconds, by the codec
    assert time.process_time() - began < 1


def test_is_in_knows_both_kinds() -> None:
    assert is_in(at("::ffff:10.0.0.1"), networks("10.0.0.0/8"))
    assert not is_in(at("fd00::1"), networks("10.0.0.0/8"))
