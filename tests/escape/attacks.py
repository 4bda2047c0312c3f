"""What attacks are written in, and what runs them.

The attacker is an ordinary workflow: it runs the request's body as Python, inside, and answers with `result` as JSON.
`outside` runs the same code where nothing holds it back: as an ordinary user of the host in throw-away namespaces. What
succeeds there and fails inside is what is tested.
"""

import functools
import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import httpx

from executor import seccomp
from tests.e2e.mesh import Mesh, until

CANARY = "canary-5d0f3b1e"
KNOWN = seccomp.MACHINES[os.uname().machine]
CALLS = {**KNOWN.allowed, **KNOWN.denied, "clone3": 435, "io_uring_setup": 425}
HEADER = """# /// script
# dependencies = ["uvicorn"]
# [tool.runmesh]
# isolation = "%s"
# memory = "512MiB"
# ///
"""
# What an attack may use, inside and outside.
PRELUDE = '''
CALLS = @CALLS@
import asyncio, ctypes, errno, json, os, resource, signal, socket, struct, subprocess, sys, time, traceback

def tried(action):
    """What an action gives, or the name of its errno."""
    try:
        return repr(action())
    except OSError as error:
        return errno.errorcode.get(error.errno, repr(error))

libc = ctypes.CDLL(None, use_errno=True)

def call(name, *arguments):
    """A system call by name or number: "allowed", or the name of its errno."""
    passed = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(CALLS.get(name, name)), *passed)
    return "allowed" if result >= 0 else errno.errorcode[ctypes.get_errno()]

def written(path, content):
    """What comes of writing to a file that is there."""
    def write():
        file = os.open(path, os.O_WRONLY)
        try:
            return os.write(file, content.encode())
        finally:
            os.close(file)
    return tried(write)

def forked(action):
    """What an action gives in a child, or the name of the signal that killed it."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.write(writing, json.dumps(action()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    said = os.read(reading, 60000)
    os.close(reading)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return signal.Signals(-status).name if status < 0 else json.loads(said)

def heard(address, family=None, seconds=2):
    """What somebody answers who is connected to, or the name of the errno."""
    def ask():
        with socket.socket(family or (socket.AF_INET6 if ":" in address[0] else socket.AF_INET)) as sock:
            sock.settimeout(seconds)
            sock.connect(address)
            sock.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            return sock.recv(1000).decode("latin-1")
    return tried(ask)

'''.replace("@CALLS@", repr(CALLS))
# How the shim speaks to the executor.
WIRE = """
def frame(kind, payload=b""):
    return struct.pack("!I", len(payload)) + kind + payload

def head(status=200, *headers):
    return frame(b"H", json.dumps({"status": status, "headers": headers}).encode())

"""
APP = (
    WIRE
    + '''
def wires(send):
    """The sockets to the executor: of the request, and of control."""
    request = send.__self__._sock.fileno()
    control = sys.modules["__runmesh_shim__"].handover.control.sock.fileno()
    sockets = [socket.socket(fileno=os.dup(fd)) for fd in (request, control)]
    sockets[0].setblocking(True)
    return sockets

def say(raw, address=("runtime.runmesh", 80)):
    """Sends bytes on the way out; all that comes back."""
    with socket.create_connection(address, 5) as sock:
        sock.sendall(raw)
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
    return answer.decode("latin-1")

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    code, more = b"", True
    while more:
        message = await receive()
        code, more = code + message.get("body", b""), message.get("more_body")
    scope_of_attack = {**globals(), "scope": scope, "send": send, "result": None}
    exec(code, scope_of_attack)
    content = json.dumps(scope_of_attack["result"]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-attack", b"through")]})
    await send({"type": "http.response.body", "body": content})

import uvicorn
uvicorn.run(app)
'''
)
ATTACKER = HEADER % "run" + PRELUDE + APP
COLD = HEADER % "cold" + PRELUDE + APP
NEIGHBOUR = (
    HEADER % "run"
    + """
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"fine"})

import uvicorn
uvicorn.run(app)
"""
)
# A user namespace gives an ordinary user every right within it.
_THROW_AWAY = ("/usr/bin/unshare", "--user", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--net",
               "--ipc", "--uts", "--cgroup", "--mount-proc")  # fmt: skip
_THROW_AWAY_BUT_USERS = tuple(word for word in _THROW_AWAY if word not in {"--user", "--map-root-user"})
_NOBODY = 65534
# A file system of its own, outside, at places that hosts share. As large as a control may ever fill.
OWN_TMP = """
for place in (b"/tmp", b"/var/tmp", b"/dev/shm"):
    assert call("mount", b"none", place, b"tmpfs", 0, b"size=900m,mode=1777") == "allowed"
"""


_SLOT = re.compile(r"slot-\d+-\d+")  # as confinement.py names them


@dataclass
class Attacker:
    """Attacks as an ordinary caller of an ordinary workflow."""

    mesh: Mesh
    name: str = "attacker"

    def run(self, code: str, seconds: float = 30) -> httpx.Response:
        """Whatever comes of the attack. Errors: httpx.HTTPError when the answer breaks off."""
        with self.mesh.http(timeout=seconds) as client:
            return client.post(f"/run/{self.name}/", content=code.encode())

    def result(self, code: str) -> Any:
        """What the attack found out."""
        answer = self.run(code)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-attack"] == "through"
        return answer.json()

    def leaves_nothing(self) -> None:
        """No directory of a run, and the next caller is served."""
        none_left(self.mesh)
        assert self.result("result = 'served'") == "served"

    @contextmanager
    def meanwhile(self, code: str, seconds: float = 1) -> Iterator[None]:
        """The attack again and again, while the block runs."""
        over = threading.Event()

        def attack() -> None:
            with self.mesh.http(timeout=seconds) as client:
                while not over.is_set():
                    with (
                        suppress(httpx.HTTPError),
                        client.stream("POST", f"/run/{self.name}/", content=code.encode()) as answer,
                    ):
                        for _ in answer.iter_raw():
                            if over.is_set():
                                break

        thread = threading.Thread(target=attack)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def runs_left(mesh: Mesh) -> list[str]:
    """Directories of runs that haven't gone; bases and templates stay, and one slot of each that waits for a call. What
    a hostile template has renamed or put into its own directory is its own, and goes when it does.
    """
    left = []
    runs = mesh.home / "runs"
    for place in (*runs.iterdir(), *runs.glob("base-*/slots/*")):
        if place.parent == runs and place.name.startswith("base-"):
            continue
        if not place.name.startswith("template-"):
            left.append(place.name)
        elif (place / "slots").is_dir():
            slots = [slot for slot in (place / "slots").iterdir() if _SLOT.fullmatch(slot.name)]
            left += [slot.name for slot in slots if not slot.is_symlink()][1:]
    return left


def none_left(mesh: Mesh) -> None:
    """Within 15 s; which they are, if not, with what may say why."""
    with suppress(AssertionError):
        until(lambda: not runs_left(mesh), 15)
    if left := runs_left(mesh):
        with mesh.http() as client:
            runs = client.get("/requests", params={"limit": 5}).text
        listed = subprocess.run(["ps", "axf", "-o", "pid,uid,stat,etimes,args"], capture_output=True, check=True)
        processes = listed.stdout.decode(errors="replace")
        told = [line for line in mesh.output if "spawner: " in line or '"warning"' in line]
        raise AssertionError(left, told, runs, processes)


def serves(mesh: Mesh) -> None:
    """The neighbour answers."""
    with mesh.http(timeout=20) as client:
        answer = client.get("/run/neighbour/")
    assert (answer.status_code, answer.text) == (200, "fine"), answer.text


def outside(code: str) -> Any:
    """What `result` is when the same code runs outside of any sandbox, as an ordinary user in throw-away namespaces.

    The system's Python: ours may lie where only its owner reaches it.
    """
    return json.loads(_ran(code, _THROW_AWAY))


def as_anybody(code: str) -> Any:
    """The same as an ordinary user of this host, in its own namespaces: for what leaves no trace there."""
    return json.loads(_ran(code, ()))


def as_root(code: str) -> Any:
    """The same with root's own rights in throw-away namespaces, for what only concerns the process that does it.

    None where the tests don't run as root: the control can't be had there.
    """
    return json.loads(_ran(code, _THROW_AWAY_BUT_USERS, user=0)) if os.getuid() == 0 else None


@functools.cache  # an attack is tried on several sandboxes
def _ran(code: str, namespaces: tuple[str, ...], user: int = _NOBODY) -> str:
    source = f"{PRELUDE}\n{code}\nprint(json.dumps(result))"
    as_user = {"user": user, "group": user, "extra_groups": []} if os.getuid() == 0 else {}
    ended = subprocess.run(  # type: ignore[call-overload]  # of the keywords
        [*namespaces, "/usr/bin/python3", "-c", source],
        capture_output=True, text=True, check=False, cwd="/", timeout=50, start_new_session=True, **as_user,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return str(ended.stdout)
