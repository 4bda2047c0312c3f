"""A template that attacks its own slots, and whoever furnishes them: an alarm runs its code between the forks.

A template's code and its slots' are one author's, so what it does to them is its own loss. It must not gain a right
that a slot lacks, nor reach the spawner that works for it, nor anybody else.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.mesh import Mesh, until
from tests.escape.attacks import CANARY, HEADER, PRELUDE, Attacker, none_left, runs_left, serves

# At each alarm `attack` is called with the pids of the slots; what it found out is in a file that slots see.
TEMPLATE = """
import uvicorn
ME = os.getpid()
FOUND = {}

def told(name, value):
    FOUND.setdefault(name, [])
    if value not in FOUND[name]:
        FOUND[name].append(value)
        with open("/tmp/found.new", "w") as file:
            json.dump(FOUND, file)
        os.replace("/tmp/found.new", "/tmp/found")

def alarm(*_):
    if os.getpid() != ME or not os.path.isdir("/runmesh/slots"):
        return
    slots = [int(it) for it in os.listdir("/proc") if it.isdigit() and int(it) not in (1, ME)]
    try:
        attack(slots)
    except (ProcessLookupError, FileNotFoundError):
        pass  # a slot ended meanwhile
    except Exception:
        told("error", traceback.format_exc()[-300:])

@ATTACK@

signal.signal(signal.SIGALRM, alarm)
signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    await asyncio.sleep(0.3)
    try:
        found = json.load(open("/tmp/found"))
    except OSError:
        found = {}
    told = open("/proc/self/status", errors="replace").read()
    status = dict(line.split(":\\t") for line in told.splitlines() if ":\\t" in line)
    mine = {"pid": os.getpid(), "caps": status["CapEff"], "seccomp": status["Seccomp"], "mounts": [
        line.split()[4] for line in open("/proc/self/mountinfo")], "roots": sorted(os.listdir("/tmp"))}
    content = json.dumps([found, mine]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-attack", b"through")]})
    await send({"type": "http.response.body", "body": content})

uvicorn.run(app)
"""
REACHING = """
def attack(slots):
    told("seen", len(slots) > 0)
    local = struct.pack("=QQ", ctypes.addressof(ctypes.create_string_buffer(64)), 64)
    for pid in slots:
        told("ptrace", [call("ptrace", 16, pid, 0, 0), call("ptrace", 0x4206, pid, 0, 0)])
        told("memory", [call("process_vm_readv", pid, local, 1, local, 1, 0),
                        call("process_vm_writev", pid, local, 1, local, 1, 0)])
        told("getfd", call("pidfd_getfd", os.pidfd_open(pid), 0, 0))
        told("setns", [call("setns", os.pidfd_open(pid), 0x40000000), call("setns", os.pidfd_open(pid), 0x20000)])
        told("ids", written(f"/proc/{pid}/uid_map", "0 0 1"))
    told("mount", [call("mount", b"none", b"/runmesh/slots", b"tmpfs", 0, 0), call("umount2", b"/tmp", 2),
                   call("mount", b"/tmp", b"/workflow", 0, 4096, 0), call("open_tree", -100, b"/", 1),
                   call("unshare", 0x10000000), call("unshare", 0x20000)])
"""


@pytest.fixture
def mesh(besieged: Mesh) -> Iterator[Mesh]:
    yield besieged
    serves(besieged)
    until(lambda: not [name for name in runs_left(besieged) if "slot" not in name], 15)


def deployed(mesh: Mesh, attack: str) -> Attacker:
    mesh.deploy("template", HEADER % "run" + PRELUDE + TEMPLATE.replace("@ATTACK@", attack))
    return Attacker(mesh, "template")


def found(attacker: Attacker) -> tuple[Any, Any]:
    """What the template found out while slots of its were there, and what the last slot says of itself."""

    def looked() -> Any:
        answer = attacker.run("")
        said: Any = answer.json() if answer.status_code == 200 else None
        return said if said and said[0].get("mount", said[0].get("error")) else None

    found, mine = until(looked, 40)
    assert "error" not in found, found
    return found, mine


def test_reaching_into_slots(mesh: Mesh) -> None:
    results, mine = found(deployed(mesh, REACHING))
    assert results.pop("seen")[-1] is True
    told = {it for name in results for value in results[name] for it in ([value] if isinstance(value, str) else value)}
    assert told <= {"EPERM", "EACCES", "ESRCH"}, results
    assert (mine["caps"], mine["seccomp"]) == ("0" * 16, "2")


def test_killing_slots(mesh: Mesh) -> None:
    attack = """
def attack(slots):
    for pid in slots:
        told("seen", True)
        tried(lambda: os.kill(pid, 9))
"""
    attacker = deployed(mesh, attack)
    for _ in range(3):
        answer = attacker.run("")
        assert answer.status_code in {200, 502, 503}
        serves(mesh)


FURNITURE = {
    "links": """
def attack(slots):
    told("seen", True)
    for name in os.listdir("/runmesh/slots"):
        for part in ("tmp", "work", "tmp.overlay", "work.overlay"):
            path = f"/runmesh/slots/{name}/{part}"
            tried(lambda: os.rename(path, path + ".old"))
            tried(lambda: os.symlink("@HOME@", path))
""",
    "files": """
def attack(slots):
    told("seen", True)
    for name in os.listdir("/runmesh/slots"):
        tried(lambda: os.rename(f"/runmesh/slots/{name}", f"/runmesh/slots/{name}.old"))
        tried(lambda: os.symlink("/", f"/runmesh/slots/{name}"))
    tried(lambda: os.symlink("/", "/runmesh/slots/slot-next"))
""",
    "own place": """
import shutil
def attack(slots):
    told("seen", True)
    if slots:
        for place in ("/workflow", "/var/tmp"):
            tried(lambda: os.rename(place, place + ".old"))
        tried(lambda: os.rmdir("/tmp"))
        tried(lambda: os.chmod("/tmp", 0))
        tried(lambda: os.chmod("/tmp", 0o700))
""",
}


@pytest.mark.parametrize("name", FURNITURE)
def test_moving_the_furniture(mesh: Mesh, name: str) -> None:
    """Runs may fail of it; what it links to is not touched, and is not shown to them."""
    kept = mesh.home / "kept"
    kept.mkdir(exist_ok=True)
    (kept / "canary").write_text(CANARY)
    kept.chmod(0o777)
    attacker = deployed(mesh, FURNITURE[name].replace("@HOME@", str(kept)))
    for _ in range(4):
        answer = attacker.run("")
        assert answer.status_code in {200, 502, 503}, answer.text
        assert CANARY not in answer.text
        if answer.status_code == 200:
            assert "canary" not in answer.json()[1]["roots"]
        serves(mesh)
    assert [(path.name, path.read_text()) for path in kept.iterdir()] == [("canary", CANARY)]


LYING = {
    "forged births": """
import shim_template
original = shim_template.os.close
class Os:
    def __getattr__(self, name):
        return getattr(os, name)
    def close(self, fd):
        # The template's own copy of a new slot's line to the spawner: it speaks first.
        tried(lambda: socket.socket(fileno=os.dup(fd)).send(b"!"))
        tried(lambda: socket.socket(fileno=os.dup(fd)).send(b"C"))
        original(fd)
shim_template.os = Os()
def attack(slots):
    told("seen", True)
""",
    "ends of others": """
control = sys.modules["__runmesh_shim__"].handover.control
def attack(slots):
    told("seen", True)
    for number in (-1, 0, 1, 2, 3, 5, 10, 2**63, "1", None, [1]):
        tried(lambda: control.send(b"W", {"slot": number, "status": 9, "error": "\\udc00"}))
""",
    "garbage": """
control = sys.modules["__runmesh_shim__"].handover.control
def attack(slots):
    told("seen", True)
    if slots:
        tried(lambda: control.sock.send(os.urandom(4096)))
""",
    "no rights given up": """
import shim_template
shim_template.drop_rights = lambda program: None
def attack(slots):
    told("seen", True)
""",
}


@pytest.mark.parametrize("name", LYING)
def test_lying_to_whoever_works_for_it(mesh: Mesh, name: str) -> None:
    attacker = deployed(mesh, LYING[name])
    for _ in range(4):
        answer = attacker.run("")
        assert answer.status_code in {200, 502, 503}, answer.text
        serves(mesh)
        if answer.status_code == 200 and name == "no rights given up":
            # Capabilities in namespaces of its own, and the template's filter: nothing to use them on.
            assert answer.json()[1]["seccomp"] == "2"
    assert mesh.process.poll() is None


@pytest.mark.parametrize("name", [b"PPid: 1", b"NSpid: 1", b"\xff\xfe"])
def test_the_name_of_a_process_is_nothing_but_a_name(mesh: Mesh, name: bytes) -> None:
    """It stands in /proc/PID/status before what the spawner reads there."""
    before = len([line for line in mesh.output if "template.failed" in line])
    attacker = deployed(mesh, f'libc.prctl(15, {name!r}, 0, 0, 0)\ndef attack(slots):\n    told("seen", True)')
    for _ in range(3):
        answer = attacker.run("")
        assert answer.status_code == 200, answer.text
        assert "/runmesh" in answer.json()[1]["mounts"]  # it is a slot, not a process from nothing
        serves(mesh)
    assert len([line for line in mesh.output if "template.failed" in line]) == before


def test_saying_that_its_slots_have_ended_spares_them_nothing(mesh: Mesh) -> None:
    attack = """
control = sys.modules["__runmesh_shim__"].handover.control
original, numbers = control.receive, []
def receive():
    kind, order, fds = original()
    if kind == b"F" and os.getpid() == ME:
        numbers.append(order["slot"])
    return kind, order, fds
control.receive = receive
def attack(slots):
    told("seen", True)
    for number in numbers:
        tried(lambda: control.send(b"W", {"slot": number, "status": 0, "error": ""}))
"""
    code = HEADER % "run" + PRELUDE + TEMPLATE.replace("@ATTACK@", attack).replace("sleep(0.3)", "sleep(600)")
    mesh.deploy("sleepy", code)
    with mesh.http() as client:
        assert client.patch("/workflows/sleepy", json={"limits": {"sync_timeout_ms": 1000}}).status_code == 200
    for _ in range(3):
        assert Attacker(mesh, "sleepy").run("").status_code in {502, 503, 504}
        serves(mesh)
    none_left(mesh)


def test_a_slot_that_keeps_its_rights_mounts_nothing(mesh: Mesh) -> None:
    """Its template's filter holds it, whatever capabilities it has within its namespaces."""
    code = (
        HEADER % "run"
        + PRELUDE
        + """
import uvicorn, shim_template
shim_template.drop_rights = lambda program: None
sys.modules["__runmesh_shim__"].no_rights = lambda: ""
async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    result = [call("mount", b"none", b"/tmp", b"tmpfs", 0, 0), call("umount2", b"/runmesh", 2), call("setns", 0, 0),
              call("unshare", 0x20000), call("unshare", 0x10000000), call("ptrace", 16, 1, 0, 0), call("bpf", 0, 0, 0),
              call("sethostname", b"x", 1), *(tried(lambda: socket.socket(*kind)) for kind in ((16, 3, 12), (17, 3),
              (2, 3, 1))), written("/proc/sys/kernel/hostname", "x"),
              written("/proc/sys/net/ipv4/ip_forward", "1"), call("chroot", b"/tmp"), call("pivot_root", b"/", b"/"),
              open("/proc/self/status").read().split("CapEff:")[1].split()[0]]
    content = json.dumps(result).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-attack", b"through")]})
    await send({"type": "http.response.body", "body": content})
uvicorn.run(app)
"""
    )
    mesh.deploy("keeper", code)
    refusals = {"EPERM", "EACCES", "EROFS", "ENOENT", "EAFNOSUPPORT", "ESOCKTNOSUPPORT"}
    result = Attacker(mesh, "keeper").result("")
    assert int(result.pop(), 16) > 0
    assert set(result) <= refusals
