"""Attacks on the way to the internet: on the listeners inside, on the names, on whoever answers."""

import os
from urllib.parse import urlsplit

import pytest

from tests.escape.attacks import CANARY, Attacker, as_anybody, outside

REFUSED = {"ECONNREFUSED", "ECONNRESET", "EPIPE", "ENETUNREACH", "EADDRNOTAVAIL"}
# A question for a name, as a client sends it.
ASK = """
def question(name, number=7):
    labels = b"".join(bytes([len(label)]) + label for label in name.split(b"."))
    return struct.pack("!6H", number, 256, 1, 0, 0, 0) + labels + b"\\0" + struct.pack("!HH", 1, 1)

def asked(packet, seconds=5):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(seconds)
        sock.sendto(packet, ("127.0.0.53", 53))
        return sock.recv(4096)
"""

# A network of its own, for controls: whatever address is asked for, somebody is there.
EVERYBODY = """
import fcntl, threading
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as four, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six:
    fcntl.ioctl(four, 0x8914, struct.pack("16sh14x", b"lo", 1 | 64))  # up
    for number, host in enumerate(there):
        if ":" in host:
            fcntl.ioctl(six, 0x8916, socket.inet_pton(socket.AF_INET6, host) + struct.pack("Ii", 128, 1))
        else:
            fcntl.ioctl(four, 0x8916, struct.pack("16shH4s8x", b"lo:%d" % number, 2, 0, socket.inet_aton(host)))
def tell(listening):
    while True:
        listening.accept()[0].sendall(b"@CANARY@")
def echo(bound):
    while True:
        content, caller = bound.recvfrom(100)
        bound.sendto(content, caller)
for port in (9, 53, 80, 443, 4222):
    streams = socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=99)
    threading.Thread(target=tell, args=(streams,), daemon=True).start()
    for family in (socket.AF_INET, socket.AF_INET6):
        bound = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.bind(("", port))
        threading.Thread(target=echo, args=(bound,), daemon=True).start()
""".replace("@CANARY@", CANARY)


def test_names_lead_to_nothing_of_the_hosts(either: Attacker) -> None:
    """Asked for directly, since libraries read numbers by themselves; then connected to."""
    names = ["metadata.google.internal", "host.docker.internal", os.uname().nodename, "2130706433", "0x7f000001",
             "127.1", "localhost.localdomain", "ip6-localhost"]  # fmt: skip
    ports = [22, 80, 4222, urlsplit(either.mesh.url).port]
    code = f"""{ASK}
result = []
for name in {names!r}:
    answer = asked(question(name.encode()), 15)
    if answer[7]:
        result += [heard((socket.inet_ntoa(answer[-4:]), port)) for port in {ports!r}]
"""
    assert set(either.result(code)) <= REFUSED
    # A name that means something is answered, and leads to somebody: the control.
    code = f'{ASK}\nresult = heard((socket.inet_ntoa(asked(question(b"runtime.runmesh"))[-4:]), 80))'
    assert "error-origin: runtime" in either.result(code)


def test_spellings_of_this_host(either: Attacker, canary_port: int) -> None:
    hosts = ["127.0.0.1", "127.1", "0x7f.1", "0177.0.0.1", "2130706433", "0x7f000001", "0", "0.0.0.0", "localhost",
             "::ffff:127.0.0.1", "::ffff:7f00:1"]  # fmt: skip
    code = f"result = [heard((host, {canary_port})) for host in {hosts!r}]"
    assert set(as_anybody(code)) == {repr(CANARY)}
    assert set(either.result(code)) <= REFUSED


def test_spellings_of_private_addresses(either: Attacker) -> None:
    hosts = ["10.0.0.1", "169.254.169.254", "100.100.100.200", "168.63.129.16", "172.17.0.1", "192.168.0.1",
             "198.18.3.4", "::ffff:169.254.169.254", "fd00:ec2::254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::1",
             "2001:0:a9fe:a9fe::1", "fe80::1%lo", "::169.254.169.254"]  # fmt: skip
    code = f"result = [heard((host, port)) for host in {hosts!r} for port in (80, 4222)]"
    there = [host for host in hosts if "%" not in host and "ffff:" not in host]
    assert set(outside(f"there = {there!r}{EVERYBODY}{code}")) <= {repr(CANARY), "EINVAL"}
    assert set(either.result(code)) <= REFUSED | {"EINVAL"}


def test_the_listener_itself_leads_nowhere(either: Attacker) -> None:
    """Whoever connects to it directly, or takes its port or its name from it."""
    code = (
        f"own = {urlsplit(either.mesh.url).port}"
        """
ports = {int(line.split()[1].split(":")[1], 16) for kind in ("tcp", "tcp6")
         for line in open(f"/proc/net/{kind}").readlines()[1:] if line.split()[3] == "0A"}
result = [heard((host, port)) for port in ports - {80, 53, own} for host in ("127.0.0.1", "127.9.9.9", "::1")]
def take(address, option=None):
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    if option:
        sock.setsockopt(*option)
    sock.bind(address)
result += [tried(lambda: take(("127.0.0.1", port))) for port in ports - {80, 53, own}]
result += [tried(lambda: take(("127.0.0.53", 53))), tried(lambda: take(("8.8.8.8", 5000), (0, 19, 1)))]
result += [tried(lambda: socket.socket(*kind)) for kind in ((16, 3, 12), (16, 3, 0), (2, 3, 255), (17, 3, 3))]
"""
    )
    control = outside(code)
    assert control[:2] == ["None"] * 2
    assert [told[:8] for told in control[2:]] == ["<socket."] * 4
    denied = {"EADDRINUSE", "EACCES", "EPERM", "EAFNOSUPPORT", "ESOCKTNOSUPPORT", "EPROTONOSUPPORT"}
    assert set(either.result(code)) - {"''"} <= REFUSED | denied


def test_nothing_but_tcp_goes_out(either: Attacker) -> None:
    code = """
def said(host, port):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(1)
        sock.connect((host, port))
        for _ in range(15):
            sock.send(b"x")
            sock.send(b"x")
            try:
                return sock.recv(100)
            except TimeoutError:  # a datagram may be lost, where there is little room for it
                continue
        return sock.recv(100)
result = [tried(lambda: said(host, port)) for host in ("8.8.8.8", "10.0.0.1", "2606:4700::1") for port in (53, 443, 9)]
"""
    assert set(outside(f"there = ['8.8.8.8', '10.0.0.1', '2606:4700::1']{EVERYBODY}{code}")) == {repr(b"x")}
    assert set(either.result(code)) <= {"ECONNREFUSED"}


def test_broken_questions_don_t_stop_the_answers(either: Attacker) -> None:
    code = f"""{ASK}
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for number in range(3000):
    packet = os.urandom(number % 300) if number % 3 else question(b"a.example")[:-number % 20]
    tried(lambda: sock.sendto(packet, ("127.0.0.53", 53)))
streams = [socket.create_connection(("127.0.0.53", 53), 5) for _ in range(20)]
for stream in streams:
    tried(lambda: stream.sendall(b"\\xff\\xff" + os.urandom(70000)))
for attempt in range(20):
    try:
        result = asked(question(b"runtime.runmesh"), 2)[-4:].hex()
        break
    except TimeoutError:
        time.sleep(0.2)
"""
    assert either.result(code) == "7f000002"


@pytest.mark.parametrize(
    "flood",
    [
        "heard(('10.0.0.1', 80))",
        "socks.append(socket.create_connection(('169.254.169.254', 80), 2))",
        "asked(question(b'x%d.invalid' % len(socks)), 0.01)",
    ],
)
def test_a_flood_drowns_nobody_else(attacker: Attacker, flood: str) -> None:
    code = f"{ASK}\nsocks, until = [], time.time() + 20\nwhile time.time() < until:\n    tried(lambda: {flood})"
    with attacker.meanwhile(code, 2), attacker.mesh.http(timeout=20) as client:
        for _ in range(5):
            assert client.get("/run/neighbour/").text == "fine"
