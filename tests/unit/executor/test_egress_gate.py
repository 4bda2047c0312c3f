"""Whether a connection is made, where to, and what is written down of it."""

import asyncio
import ipaddress
import json
import socket
import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest

from executor.arrivals import Pace
from executor.egress.fixed import NEAR, FixedGate
from executor.egress.gate import LEAST_OF_A_RUN, MAX_CONNECTIONS, Denied, Failed, Gate, Internet
from executor.egress.log import MAX_ENTRIES, Contact, EgressLog
from executor.egress.resolve import MAX_KEPT, THREADS, NoSuchName, Resolver, ask_host
from executor.egress.rules import parse
from kit.addresses import Address, is_own
from kit.clock import FakeClock
from tests.fakes.internet import FakeInternet

NOW = datetime(2026, 1, 1, tzinfo=UTC)
PUBLIC = "93.184.216.34"


def gate(world: FakeInternet, rules: list[str] | None = None) -> Gate:
    return Gate(world.open(FakeClock(NOW)), parse(rules))


async def test_it_goes_to_the_checked_addresses_only_one_after_the_other() -> None:
    world = FakeInternet({"a.example": [["10.0.0.1", PUBLIC, "::1", "1.1.1.1", "169.254.169.254"]]})
    with pytest.raises(Failed, match="refused"):
        await gate(world).reach("a.example", None, 80)
    assert world.connected == [(PUBLIC, 80), ("1.1.1.1", 80)]


@pytest.mark.parametrize("address", ["10.0.0.1", "127.0.0.1", "169.254.169.254", "::ffff:10.0.0.1", "fd00::1"])
async def test_private_ones_are_denied_by_name_and_literally(address: str) -> None:
    world = FakeInternet({"a.example": [[address]]}, {(address, 80): 1})
    for name, literal in (("a.example", None), ("", ipaddress.ip_address(address))):
        with pytest.raises(Denied):
            await gate(world).reach(name, literal, 80)
    assert world.connected == []


async def test_this_machine_itself_is_denied() -> None:
    world = FakeInternet({"me.example": [[PUBLIC]]}, own=[PUBLIC])
    with pytest.raises(Denied, match="own machine"):
        await gate(world).reach("me.example", None, 80)


async def test_a_denied_name_is_not_looked_up() -> None:
    world = FakeInternet({"a.example": [[PUBLIC]]})
    for rules in (["b.example"], ["!a.example"], []):
        with pytest.raises(Denied):
            await gate(world, rules).reach("a.example", None, 80)
        with pytest.raises(Denied):
            await gate(world, rules).knows("a.example")
    assert world.asked == []


async def test_names_that_lead_nowhere() -> None:
    world = FakeInternet({"empty.example": [[]]})
    assert not await gate(world).knows("missing.example")
    with pytest.raises(Failed, match="no such name"):
        await gate(world).reach("missing.example", None, 80)
    with pytest.raises(Failed, match="silent"):
        await gate(world).knows("unknown.example")
    with pytest.raises(Denied, match="no address"):
        await gate(world).reach("empty.example", None, 80)


async def test_connections_of_all_runs_are_bounded() -> None:
    world = FakeInternet({"a.example": [[PUBLIC]]})
    internet = world.open(FakeClock(NOW))
    internet.connections = MAX_CONNECTIONS
    with pytest.raises(Failed, match="too many"):
        await Gate(internet, parse(None)).reach("a.example", None, 80)
    assert world.connected == []


@pytest.mark.parametrize("greedy", [16, 100])
def test_greedy_runs_leave_some_connections_to_others(greedy: int) -> None:
    internet = FakeInternet({}).open(FakeClock(NOW))
    held = [0] * greedy
    for run in range(greedy * MAX_CONNECTIONS):  # by turns
        if held[run % greedy] < internet.share:
            held[run % greedy] += 1
            internet.connections += 1
    assert internet.connections < MAX_CONNECTIONS
    assert LEAST_OF_A_RUN < internet.share <= max(held)


async def test_names_that_nobody_answers_for_leave_threads_to_others() -> None:
    silent = threading.Event()

    def find(name: str) -> Sequence[Address]:
        if name.endswith(".hole"):
            silent.wait(20)
        return [ipaddress.ip_address(PUBLIC)]

    internet = Internet(Resolver(FakeClock(NOW), find))
    tasks: list[asyncio.Task[bool]] = []
    try:
        for _ in range(3):
            greedy = Gate(internet, parse(None))
            tasks += [asyncio.create_task(greedy.knows(f"{number}-{len(tasks)}.hole")) for number in range(200)]
        await asyncio.sleep(0)
        async with asyncio.timeout(3):
            assert await Gate(internet, parse(None)).knows("a.example")
        refused = [task for task in tasks if task.done() and "too many names" in str(task.exception())]
        assert 400 < len(refused) < 600
    finally:
        silent.set()
        await asyncio.gather(*tasks, return_exceptions=True)
        internet.resolver.close()
    assert internet.resolver.share == THREADS // 2


async def test_an_answer_serves_for_five_seconds_and_all_who_ask_at_once() -> None:
    clock, asked = FakeClock(NOW), []

    def find(name: str) -> Sequence[Address]:
        asked.append(name)
        return [ipaddress.ip_address(PUBLIC)]

    resolver = Resolver(clock, find)
    await asyncio.gather(*(resolver.ask("a.example") for _ in range(5)))
    await clock.advance(4.9)
    await resolver.ask("a.example")
    assert asked == ["a.example"]
    await clock.advance(0.2)
    await resolver.ask("a.example")
    assert asked == ["a.example"] * 2
    for number in range(MAX_KEPT + 10):
        await resolver.ask(f"n{number}.example")
    assert len(resolver._asked) == MAX_KEPT
    resolver.close()


async def test_an_error_is_no_answer_for_long() -> None:
    clock, answers = FakeClock(NOW), [NoSuchName("a.example"), None]

    def find(_: str) -> Sequence[Address]:
        if error := answers.pop(0):
            raise error
        return []

    resolver = Resolver(clock, find)
    with pytest.raises(NoSuchName):
        await resolver.ask("a.example")
    await clock.advance(6)
    assert await resolver.ask("a.example") == []
    resolver.close()


def test_the_hosts_own_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    infos = [(2, 1, 6, "", ("8.8.8.8", 0)), (10, 1, 6, "", ("fe80::1%2", 0, 0, 2)), (2, 1, 6, "", ("8.8.8.8", 0))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: infos)
    assert [str(address) for address in ask_host("a.example")] == ["8.8.8.8", "fe80::1"]

    def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "no")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(NoSuchName):
        ask_host("a.example")


def test_whose_address_it_is() -> None:
    assert is_own(ipaddress.ip_address("127.0.0.1"))
    assert not is_own(ipaddress.ip_address("192.0.2.1"))
    assert not is_own(ipaddress.ip_address("2001:db8::1"))


def contact(number: int = 0, verdict: str = "allowed") -> Contact:
    return Contact(NOW + timedelta(seconds=number), f"n{number}.example", 443, PUBLIC, verdict, "", 3, 2, 0.12345)


def test_the_log_in_order_of_time() -> None:
    log = EgressLog()
    assert log.lines() == b""
    log.add(contact(2))
    log.add(contact(1, "denied"))
    items = [json.loads(line) for line in log.lines().splitlines()]
    assert items[1] == {
        "at": "2026-01-01T00:00:02.000Z", "host": "n2.example", "port": 443, "address": PUBLIC, "verdict": "allowed",
        "reason": "", "bytes_in": 3, "bytes_out": 2, "seconds": 0.123, "secrets": [],
    }  # fmt: skip
    assert [item["host"] for item in items] == ["n1.example", "n2.example"]
    assert log.bytes_carried == 10


def test_the_log_is_bounded_and_sums_up_the_rest() -> None:
    log = EgressLog()
    for number in range(MAX_ENTRIES + 7):
        log.add(contact(number))
    *items, rest = [json.loads(line) for line in log.lines().splitlines()]
    assert len(items) == MAX_ENTRIES
    assert (rest["verdict"], rest["reason"], rest["bytes_in"]) == ("omitted", "7 more are not listed", 21)
    assert log.bytes_carried == (MAX_ENTRIES + 7) * 5


def test_the_same_refusal_is_written_down_once() -> None:
    log = EgressLog()
    for _ in range(2 * MAX_ENTRIES):
        log.add(Contact(NOW, "10.0.0.1", 5432, verdict="denied", reason="a private address"))
    log.add(Contact(NOW, "fd00::1", 80, verdict="denied", reason="no"))
    log.add(Contact(NOW, "a.example", 0, verdict="denied", reason="not listed"))
    for _ in range(2 * MAX_ENTRIES):
        log.add(Contact(NOW, "gone.example", 0, verdict="failed", reason="there is no such name"))
        log.add(Contact(NOW, "10.0.0.1", 5432, verdict="denied", reason="a private address"))
    assert len(log.lines().splitlines()) == 4
    assert log.refusals == [
        "a connection to 10.0.0.1:5432 was refused: a private address",
        "a connection to [fd00::1]:80 was refused: no",
        "a connection to a.example was refused: not listed",
    ]


def test_the_pace() -> None:
    pace = Pace(3)
    assert [pace.step(10.0), pace.step(10.1), pace.step(10.2)] == [0, 0, 0]
    assert pace.step(10.4) == pytest.approx(0.6)
    assert pace.step(11.0) == 0


async def test_a_fixed_gate_leads_to_its_targets_wherever_they_are_and_nowhere_else() -> None:
    world = FakeInternet({"private.example": [["10.0.0.1"]], "a.example": [[PUBLIC]]})
    fixed = FixedGate(world.open(FakeClock(NOW)), [("private.example", 443), ("192.168.1.1", 80)], "not there")
    for name, literal, port in (("private.example", None, 443), ("", ipaddress.ip_address("192.168.1.1"), 80)):
        with pytest.raises(Failed, match="refused"):  # nobody listens in this world, but it was tried
            await fixed.reach(name, literal, port)
    assert world.connected == [("10.0.0.1", 443), ("192.168.1.1", 80)]
    for name, literal, port in (
        ("private.example", None, 80),
        ("a.example", None, 443),
        ("", ipaddress.ip_address("10.0.0.1"), 443),
        (NEAR, None, 443),
    ):
        with pytest.raises(Denied, match="not there"):
            await fixed.reach(name, literal, port)
    with pytest.raises(Denied):
        await fixed.knows(NEAR)
    assert len(world.connected) == 2


@pytest.mark.parametrize(("host", "found"), [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("::1", "::1")])
async def test_a_target_on_this_hosts_loopback_has_a_name_inside(host: str, found: str) -> None:
    world = FakeInternet({"localhost": [["127.0.0.1"]]})
    fixed = FixedGate(world.open(FakeClock(NOW)), [(host, 8000)])
    assert await fixed.knows(NEAR)
    with pytest.raises(Failed, match="refused"):
        await fixed.reach(NEAR, None, 8000)
    assert world.connected == [(found, 8000)]
    with pytest.raises(Denied):
        await fixed.reach(NEAR, None, 8001)
