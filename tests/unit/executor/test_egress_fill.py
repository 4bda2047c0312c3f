"""Which secrets are filled in where, and what becomes of a header."""

import base64
import ssl
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor.egress.authority import BUNDLE, MAX_KEPT, Authority, roots
from executor.egress.fill import Filling, fill_in, filling_at, placeholder
from executor.egress.log import Contact, EgressLog
from executor.model import Secret
from executor.variables import TRUST_NAMES, Variables
from kit.clock import FakeClock
from tests.fakes.executor import START, VERSION, FakeSecrets

ENTRIES = ["api.example", "*.wild.example", "a.example:8443", "http://plain.example", "http://both.example:8080"]


@pytest.mark.parametrize(
    ("host", "port", "tls"),
    [
        ("api.example", 443, True),
        ("a.wild.example", 443, True),
        ("a.b.wild.example", 443, True),
        ("a.example", 8443, True),
        ("plain.example", 80, False),
        ("both.example", 8080, False),
    ],
)
def test_where_a_secret_is_filled_in(host: str, port: int, tls: bool) -> None:
    filling = filling_at([fill_in("T", "v", ENTRIES)], host, port)
    assert filling == Filling(host, port, tls, {b"T": b"v"})


@pytest.mark.parametrize(
    ("host", "port"),
    [
        ("api.example", 80), ("api.example", 8443), ("xapi.example", 443), ("api.example.evil", 443),
        ("x.api.example", 443), ("wild.example", 443), ("xwild.example", 443), ("a.example", 443),
        ("plain.example", 443), ("192.0.2.1", 443), ("", 443),
    ],
)  # fmt: skip
def test_where_it_is_not(host: str, port: int) -> None:
    assert filling_at([fill_in("T", "v", ENTRIES)], host, port) is None
    assert filling_at([], host, port) is None


def test_each_host_gets_its_own_secrets() -> None:
    known = [fill_in("A", "1", ["a.example"]), fill_in("B", "2", ["b.example"]), fill_in("C", "3", ["a.example"])]
    filling = filling_at(known, "a.example", 443)
    assert filling is not None
    headers = [(b"x", b"secret://A secret://B secret://C secret://D secret://")]
    assert filling.fill(headers) == [(b"x", b"1 secret://B 3 secret://D secret://")]
    assert filling.used == {"A", "C"}


def test_what_may_go_in_the_clear_doesnt_share_a_tls_connection_with_what_may_not() -> None:
    known = [fill_in("A", "1", ["https://a.example:81"]), fill_in("B", "2", ["http://a.example:81"])]
    assert filling_at(known, "a.example", 81) == Filling("a.example", 81, True, {b"A": b"1"})


def test_an_entry_that_nobody_can_read_means_no_host() -> None:
    assert fill_in("T", "v", ["", "*", "a/b", "ftp://x"]).entries == ()


@given(st.binary(max_size=60))
def test_a_value_is_put_in_as_it_is(value: bytes) -> None:
    filling = Filling("a.example", 443, True, {b"T": value})
    assert filling.fill([(b"X", b"a secret://T b")]) == [(b"X", b"a " + value + b" b")]
    basic = b"Basic " + base64.b64encode(b"secret://T:x")
    assert filling.fill([(b"AUTHORIZATION", basic)]) == [
        (b"AUTHORIZATION", b"Basic " + base64.b64encode(value + b":x"))
    ]
    assert filling.fill([(b"x-other", basic)]) == [(b"x-other", basic)]


@pytest.mark.parametrize("credentials", [b"!!!", b"YWJj", b"a", b"", base64.b64encode(b"a:secret://OTHER")])
def test_credentials_without_a_placeholder_stay_as_they_are(credentials: bytes) -> None:
    headers = [(b"authorization", b"basic  " + credentials)]
    assert Filling("a.example", 443, True, {b"T": b"v"}).fill(headers) == headers


@pytest.mark.parametrize("host", [b"A.example", b"a.example:443", b"a.example."])
def test_hosts_that_are_meant(host: bytes) -> None:
    assert Filling("a.example", 443, True, {}).is_meant([(b"HOST", host)])


@pytest.mark.parametrize(
    "host", [b"b.example", b"a.example:80", b"a.example:", b"", b"a.example@b", b"b@a.example", b"a.example/b", b"[a]"]
)
def test_hosts_that_are_not(host: bytes) -> None:
    filling = Filling("a.example", 443, True, {})
    assert not filling.is_meant([(b"host", host)])
    assert not filling.is_meant([])
    assert not filling.is_meant([(b"host", b"a.example"), (b"Host", b"a.example")])


def test_nothing_shows_a_value() -> None:
    known = [fill_in("T", "s3cret-value", ["a.example"])]
    shown = repr((known, filling_at(known, "a.example", 443), Secret("s3cret-value", ("a.example",))))
    assert "s3cret-value" not in shown


async def test_a_sandbox_finds_the_placeholder_whatever_the_value() -> None:
    secrets = FakeSecrets({("org_1", "T"): "1", ("org_1", "U"): "2"}, {"T": ["a.example"]})
    version = VERSION.__class__(**vars(VERSION) | {"env_vars": {"T": None, "U": None, "V": "3"}})
    given = await Variables(secrets).of(version, "org_1")
    assert {name: given.env[name] for name in "TUV"} == {"T": placeholder("T"), "U": "2", "V": "3"}
    assert {given.env[name] for name in TRUST_NAMES} == {"/etc/runmesh/ca-certificates.crt"}
    assert given.fill_ins == (fill_in("T", "1", ["a.example"]),)
    secrets.known["org_1", "T"] = "changed"
    assert (await Variables(secrets).of(version, "org_1")).env == given.env  # so that its template serves on
    plain = (await Variables(FakeSecrets(secrets.known)).of(version, "org_1")).env
    assert "REQUESTS_CA_BUNDLE" not in plain


def test_the_egress_log_shows_no_value() -> None:
    log = EgressLog()
    log.hide(["S3cret-Value", "abc"])
    log.add(Contact(START, "x-s3cret-value.evil.example", 0, verdict="denied", reason="no s3cret-VALUE"))
    assert b"cret-" not in log.lines()
    assert log.refusals == ["a connection to x-***.evil.example was refused: no ***"]


def test_the_authority(tmp_path: Path) -> None:
    clock = FakeClock(START)
    authority = Authority(tmp_path / "new" / "certificates", roots({}), clock)
    bundle = (authority.directory / BUNDLE).read_text()
    assert bundle.startswith(roots({}).read_text().rstrip())
    assert bundle.count("BEGIN CERTIFICATE") == roots({}).read_text().count("BEGIN CERTIFICATE") + 1
    assert "PRIVATE" not in "".join(path.read_text() for path in authority.directory.iterdir())
    assert (authority.directory / BUNDLE).stat().st_mode & 0o777 == 0o644
    assert authority.upstream.verify_mode == ssl.CERT_REQUIRED
    assert authority.upstream.check_hostname
    first = authority.server("a.example")
    assert authority.server("a.example") is first
    for number in range(MAX_KEPT):
        authority.server(f"n{number}.example")
    assert authority.server("a.example") is not first


async def test_a_certificate_is_renewed_before_it_ends(tmp_path: Path) -> None:
    clock = FakeClock(START)
    authority = Authority(tmp_path, roots({}), clock)
    first = authority.server("a.example")
    await clock.advance(timedelta(days=8).total_seconds())
    assert authority.server("a.example") is not first


def test_the_roots_are_the_operators_choice(tmp_path: Path) -> None:
    mine = tmp_path / "mine.pem"
    mine.write_text("")
    assert roots({"SSL_CERT_FILE": str(mine)}) == mine
    assert roots({"SSL_CERT_FILE": str(tmp_path / "none")}) == roots({})
