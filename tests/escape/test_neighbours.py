"""Runs and each other: rows S15 to S17 and S19 of docs/security.md."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx
import pytest

from tests.e2e.mesh import Mesh, until
from tests.escape.attacks import APP, HEADER, PRELUDE, Attacker, outside, serves
from tests.fakes.real_sandboxes import alive

LEFT = """
import mmap
for place in ("/tmp/left", "/var/tmp/left2", "/workflow/left", "/dev/shm/left"):
    open(place, "w").write("mine")
memory = libc.shmget(0x5EED, 4096, 0o1666)
semaphores = libc.semget(0x5EED, 1, 0o1666)
queue = libc.msgget(0x5EED, 0o1666)
listening = socket.create_server(("127.0.0.1", 7071))
abstract = socket.socket(socket.AF_UNIX)
abstract.bind("\\0left")
abstract.listen()
kept = subprocess.Popen(["/bin/sleep", "47"])
while b"sleep" not in open(f"/proc/{kept.pid}/cmdline", "rb").read():
    time.sleep(0.01)
os.environ["LEFT"] = sys.argv[0] = __import__("builtins").LEFT = "mine"
"""
SEEN = """
def reached(family, address):
    with socket.socket(family) as sock:
        sock.settimeout(1)
        sock.connect(address)
seen = {
    "files": [tried(lambda: open(place).read()) for place in
              ("/tmp/left", "/var/tmp/left2", "/workflow/left", "/dev/shm/left")],
    "memory": call("shmget", 0x5EED, 4096, 0o600), "semaphores": call("semget", 0x5EED, 1, 0o600),
    "queue": call("msgget", 0x5EED, 0o600), "port": tried(lambda: reached(2, ("127.0.0.1", 7071))),
    "abstract": tried(lambda: reached(1, "\\0left")), "environment": os.environ.get("LEFT", "ENOENT"),
    "globals": getattr(__import__("builtins"), "LEFT", "ENOENT"),
    "processes": "sleep" if any(b"sleep" in open(f"/proc/{it}/cmdline", "rb").read()
                                for it in os.listdir("/proc") if it.isdigit()) else "ENOENT",
}
result = seen
"""
NOTHING = {
    "files": ["ENOENT"] * 4, "memory": "ENOENT", "semaphores": "ENOENT", "queue": "ENOENT", "port": "ECONNREFUSED",
    "abstract": "ECONNREFUSED", "environment": "ENOENT", "globals": "ENOENT", "processes": "ENOENT",
}  # fmt: skip


@contextmanager
def held(attacker: Attacker, code: str) -> Iterator[None]:
    """A run that has done this, and stays until the block is left."""
    with attacker.mesh.http(timeout=60) as client:
        begun, over = threading.Event(), threading.Event()
        # It tells by its stream that it is ready.
        code += """
request, _ = wires(send)
request.sendall(head(200) + frame(b"D", b"ready"))
time.sleep(60)
"""

        def hold() -> None:
            with (
                suppress(httpx.HTTPError),
                client.stream("POST", f"/run/{attacker.name}/", content=code.encode()) as answer,
            ):
                for _ in answer.iter_raw():
                    begun.set()
                    over.wait(60)
                    return

        thread = threading.Thread(target=hold)
        thread.start()
        try:
            assert begun.wait(20)
            yield
        finally:
            over.set()
            thread.join()


def test_what_a_run_does_is_seen_by_itself(either: Attacker) -> None:
    """The positive control of the next two."""
    result = either.result(LEFT + SEEN)
    assert result["files"] == ["'mine'"] * 4
    assert {result["memory"], result["semaphores"], result["queue"]} == {"allowed"}
    assert (result["port"], result["abstract"]) == ("None", "None")
    assert (result["environment"], result["globals"], result["processes"]) == ("mine", "mine", "sleep")


def test_two_runs_at_once(either: Attacker) -> None:
    with held(either, LEFT):
        assert either.result(SEEN) == NOTHING
        serves(either.mesh)


def test_the_next_run(either: Attacker) -> None:
    assert either.result(LEFT + "result = 1") == 1
    assert either.result(SEEN) == NOTHING


def test_signals_and_messages_to_others(either: Attacker) -> None:
    """Whatever uid the other has on the host: its processes have no number in here."""
    with held(either, LEFT):
        code = (
            "result = [tried(lambda: os.kill(pid, 0)) for pid in range(2, 400) if not os.path.exists(f'/proc/{pid}')]"
        )
        assert set(either.result(code)) <= {"ESRCH"}
        assert either.result("result = tried(lambda: os.kill(-1, 9))") in {"None", "ESRCH", "EPERM"}
        serves(either.mesh)


DAEMON = """
import atexit
for number in range(1, 32):
    tried(lambda: signal.signal(number, signal.SIG_IGN)) if number not in (9, 17, 19) else None
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.chdir("/")
        os.execv("/bin/sleep", ["sleep", "%s"])
    os._exit(0)
os.wait()
atexit.register(lambda: os.fork() or time.sleep(600))
os.register_at_fork(after_in_child=lambda: time.sleep(600))
result = 1
"""


def test_daemons_do_not_outlive_their_run(either: Attacker) -> None:
    marker = f"6{time.time_ns() % 10**9}"
    with held(either, DAEMON % marker):
        until(lambda: alive(marker), 5)
    until(lambda: not alive(marker), 5)
    marker = f"7{time.time_ns() % 10**9}"
    with suppress(httpx.HTTPError, AssertionError):
        either.run(DAEMON % marker, seconds=5)
    until(lambda: not alive(marker), 5)
    either.leaves_nothing()


def test_chance_is_new(either: Attacker) -> None:
    code = """
import random, secrets, ssl, tempfile, uuid
result = [random.random(), secrets.token_hex(8), str(uuid.uuid4()), str(uuid.uuid1()), tempfile.mktemp(),
          ssl.RAND_bytes(8).hex(), os.urandom(8).hex(), random.Random().random()]
"""
    first, second = either.result(code), either.result(code)
    assert not set(first) & set(second)


SHARE = """
hogs = []
for _ in range(16):
    hogs.append(os.fork())
    if not hogs[-1]:
        while True:
            pass
def used():
    return sum(sum(map(int, open(f"/proc/{hog}/stat").read().rpartition(")")[2].split()[11:13])) for hog in hogs)
result = 0
for _ in range(10):
    before, began = used(), time.monotonic()
    time.sleep(1)
    result = max(result, (used() - before) / os.sysconf("SC_CLK_TCK") / (time.monotonic() - began))
    if result > 0.5:
        break
for hog in hogs:
    os.kill(hog, 9)
"""


def test_a_hog_has_its_share_and_no_more(besieged: Mesh) -> None:
    """A quarter of a processor, in any second."""
    assert outside(SHARE) > 0.5
    besieged.deploy("quarter", HEADER.replace("# memory", "# cpu = 0.25\n# memory") % "run" + PRELUDE + APP)
    quarter = Attacker(besieged, "quarter")
    assert quarter.result(SHARE.replace("range(10)", "range(3)")) < 0.4
    quarter.leaves_nothing()
    serves(besieged)


@pytest.mark.parametrize(
    "hog",
    [
        pytest.param("while True: pass", marks=pytest.mark.slow),
        "for _ in range(32): os.fork()\nwhile True: pass",
        "os.sched_setaffinity(0, {0})\nfor _ in range(8): os.fork()\nwhile True: hash('x')",
    ],
    ids=["one", "many", "pinned"],
)
def test_a_hog_starves_nobody(attacker: Attacker, hog: str) -> None:
    with attacker.meanwhile(hog, seconds=3):
        time.sleep(0.5)
        began = time.monotonic()
        serves(attacker.mesh)
        assert time.monotonic() - began < 4
    attacker.leaves_nothing()
