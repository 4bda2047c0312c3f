"""More than there is: rows S7 to S9 of docs/security.md. Of memory there are 512 MiB, of the rest as by default.

Each bomb that counts has an end beyond the limit, and reaches it outside: 400 processes, 768 MiB.
"""

import time

import pytest

from tests.e2e.mesh import Mesh
from tests.escape.attacks import APP, HEADER, OWN_TMP, PRELUDE, Attacker, outside, serves

pytestmark = pytest.mark.slow  # minutes of forking and filling; `make test-all` has it

FORKS = """
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
EXECS = """
again = "import os, sys; os.fork(); os.execv(sys.executable, sys.orig_argv)"
os.execv(sys.executable, [sys.executable, "-c", again])
"""


@pytest.mark.parametrize("bomb", [FORKS, EXECS], ids=["forks", "execs"])
def test_processes_without_end(either: Attacker, bomb: str) -> None:
    with either.meanwhile(bomb, seconds=3):
        time.sleep(0.5)
        began = time.monotonic()
        serves(either.mesh)
        assert time.monotonic() - began < 5
    either.leaves_nothing()


COUNTED = {
    "forks": "os.fork() or time.sleep(600)",
    "execs": 'os.posix_spawn("/bin/sleep", ["sleep", "600"], {})',
    "threads": "threading.Thread(target=time.sleep, args=(600,), daemon=True).start()",
}


@pytest.mark.parametrize("name", COUNTED)
def test_so_many_and_no_more(either: Attacker, name: str) -> None:
    code = f"""
import threading
made = 0
try:
    while made < 400:
        {COUNTED[name]}
        made += 1
except (OSError, RuntimeError) as error:
    pass
result = made
"""
    # Nobody waits for what outlives the attack: it goes with its namespaces.
    assert outside(code + "print(json.dumps(result), flush=True)\nos._exit(0)") == 400
    assert 100 < either.result(code) < 256
    either.leaves_nothing()


MEMORY = {
    "heap": "kept.append(bytearray(16 << 20))",
    "shared": """
    kept.append(mmap.mmap(-1, 16 << 20))
    kept[-1].write(b"x" * (16 << 20))""",
    "memfd": 'os.write(os.memfd_create("x"), b"x" * (16 << 20))',
    "system v": """
    place = libc.shmat(libc.shmget(0, 16 << 20, 0o1600), None, 0)
    ctypes.memset(place, 1, 16 << 20)""",
}


@pytest.mark.parametrize("name", MEMORY)
def test_memory_without_end(either: Attacker, name: str) -> None:
    code = f"""
import mmap
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
ctypes.memset.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
kept, result = [], 0
while result < 768:
    {MEMORY[name]}
    result += 16
"""
    assert outside(code) == 768
    answer = either.run(code)
    assert answer.status_code == 502, answer.text
    assert answer.json()["code"] == "out_of_memory"
    either.leaves_nothing()


CHILDREN = """
children = []
for _ in range(12):
    if not (child := os.fork()):
        kept = os.urandom(1) * (64 << 20)
        time.sleep(5)
        os._exit(0)
    children.append(child)
result = sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -9 for child in children)
"""


def test_memory_of_many(either: Attacker) -> None:
    """They have their limit together; who dies of it is the kernel's choice."""
    assert outside(CHILDREN) == 0
    answer = either.run(CHILDREN, seconds=60)
    if answer.status_code == 200:
        assert answer.json() >= 4
    else:
        assert answer.json()["code"] == "out_of_memory"
    either.leaves_nothing()


FILLING = """
def filled(place):
    with open(place + "/fill", "wb", 0) as file:
        written = 0
        while written < 768 << 20:
            written += file.write(b"x" * (4 << 20))
    return written >> 20
result = tried(lambda: filled("/dev/shm"))
"""


def test_shared_memory_has_an_end(either: Attacker) -> None:
    assert outside(OWN_TMP + FILLING) == "768"
    assert either.result(FILLING) == "ENOSPC"


BUFFERS = """
kept, result = [], ["", 0]
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
def fill(writing):
    total = 0
    try:
        while True:
            total += os.write(writing, b"x" * 65536)
    except OSError:
        return total
try:
    while result[1] < 640 << 20:
        ends = os.pipe() if len(kept) % 8 == 0 else [sock.detach() for sock in socket.socketpair()]
        os.set_blocking(ends[1], False)
        kept.append(ends)
        result[1] += fill(ends[1])
except OSError as error:
    result[0] = errno.errorcode[error.errno]
"""


def test_buffers_have_an_end(either: Attacker) -> None:
    """They are the run's own memory, or as many as it may open."""
    told, held = outside(BUFFERS)
    assert told == ""
    assert held >= 640 << 20
    answer = either.run(BUFFERS)
    if answer.status_code == 200:
        told, held = answer.json()
        assert (told, held < 512 << 20) == ("EMFILE", True)
    else:
        assert answer.json()["code"] == "out_of_memory"
    either.leaves_nothing()


FILES = """
def sparse():
    with open("/tmp/sparse", "wb") as file:
        file.truncate(1 << 50)
def wide():
    os.mkdir("/tmp/wide")
    for number in range(20000):
        os.mknod(f"/tmp/wide/{number}")
def long():
    open("/tmp/" + "x" * 256, "w").close()
def loops():
    os.symlink("/tmp/loop", "/tmp/loop")
    os.open("/tmp/loop", os.O_RDONLY)
result = [tried(each) for each in (sparse, wide, long, loops)]
"""


def test_files_without_end(either: Attacker) -> None:
    """Wide is allowed, and removed again. Long and circular are so for everybody."""
    assert outside(OWN_TMP + FILES) == ["None", "None", "ENAMETOOLONG", "ELOOP"]
    assert either.result(FILES) == ["EFBIG", "None", "ENAMETOOLONG", "ELOOP"]
    either.leaves_nothing()


SMALL = HEADER.replace("# memory", '# disk = "64MiB"\n# memory') % "run" + PRELUDE + APP
DISK = """
for number in range(12):
    with open(f"/var/tmp/{number}", "wb") as file:
        file.write(bytes(8 << 20))
result = sum(os.stat(f"/var/tmp/{number}").st_size for number in range(12)) >> 20
"""


def test_the_disk_has_an_end(besieged: Mesh) -> None:
    """Of the 64 MiB that this one may write. It is looked at every second."""
    assert outside(OWN_TMP + DISK) == 96
    besieged.deploy("small", SMALL)
    small = Attacker(besieged, "small")
    answer = small.run(DISK + "time.sleep(20)")
    assert (answer.status_code, answer.json()["code"]) == (502, "disk_full"), answer.text
    small.leaves_nothing()
    serves(besieged)
