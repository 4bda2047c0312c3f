"""Doors of the kernel: rows S2 to S6, S12, S13, S18, S19 and S21 of docs/security.md. Each is tried outside first."""

import os
import struct
from typing import Any

import pytest

from executor import seccomp
from tests.escape.attacks import CALLS, KNOWN, OWN_TMP, Attacker, as_anybody, as_root, outside

REFUSED = {"EPERM", "ENOSYS"}
NEW = [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000]

MOUNTS = """
os.makedirs("/tmp/mine/old", exist_ok=True)
result = {
    "mount": call("mount", b"none", b"/tmp/mine", b"tmpfs", 0, 0),
    "open_tree": call("open_tree", -100, b"/tmp/mine", 1),
    "bind": call("mount", b"/", b"/tmp/mine", 0, 0x1000 | 0x4000, 0),
    "fsopen": call("fsopen", b"tmpfs", 0),
    "mount_setattr": call("mount_setattr", -100, b"/tmp/mine", 0, struct.pack("=4Q", 1, 0, 0, 0), 32),
    "umount": call("umount2", b"/tmp/mine", 2),
    "chroot": forked(lambda: call("chroot", b"/tmp")),
}
"""


def test_mounts(either: Attacker) -> None:
    assert set(outside(MOUNTS).values()) == {"allowed"}
    assert set(either.result(MOUNTS).values()) <= REFUSED
    names = ["pivot_root", "move_mount", "fsmount", "fspick", "fsconfig", "statmount", "listmount", "open_tree_attr"]
    others = f'result = [call(name, -100, b"/tmp", -100, b"/tmp", 4, 0) for name in {names}]'
    assert set(either.result(others)) <= REFUSED


NAMESPACES = f"""
def cloned(flags):
    child = libc.syscall(CALLS["clone"], ctypes.c_long(flags | 17), 0, 0, 0, 0)
    if child == 0:
        os._exit(0)
    return "allowed" if child > 0 else errno.errorcode[ctypes.get_errno()]

def cloned3(flags):
    packed = struct.pack("=11Q", flags, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0)
    child = libc.syscall(435, packed, ctypes.c_long(88))
    if child == 0:
        os._exit(0)
    return "allowed" if child > 0 else errno.errorcode[ctypes.get_errno()]

new = {NEW}
result = {{
    "unshare": [forked(lambda: call("unshare", flag)) for flag in new],
    "clone": [cloned(flag) for flag in new], "clone3": [cloned3(flag) for flag in new],
    "setns": [forked(lambda: call("setns", os.open(f"/proc/self/ns/{{it}}", 0), 0)) for it in ("net", "ipc", "uts")],
    "slot": cloned({seccomp.SLOT & ~17}), "time": forked(lambda: call("unshare", 0x80)),
}}
"""


def test_namespaces(either: Attacker) -> None:
    control = outside(NAMESPACES)
    assert {*control["unshare"], *control["clone"], *control["clone3"], *control["setns"]} == {"allowed"}
    result = either.result(NAMESPACES)
    assert set(result.pop("clone3")) == {"ENOSYS"}  # so that libc uses clone, whose flags are looked at
    assert {it for tried in result.values() for it in ([tried] if isinstance(tried, str) else tried)} == {"EPERM"}


PROCESSES = """
kept = bytearray(b"x" * 64)
child = os.fork()
if not child:
    time.sleep(30)
    os._exit(0)
local = struct.pack("=QQ", ctypes.addressof((ctypes.c_char * 64).from_buffer(kept)), 64)
result = {
    "read": call("process_vm_readv", child, local, 1, local, 1, 0),
    "write": call("process_vm_writev", child, local, 1, local, 1, 0),
    "kcmp": call("kcmp", os.getpid(), child, 0, 0, 0),
    "getfd": call("pidfd_getfd", os.pidfd_open(child), 0, 0),
    "seize": call("ptrace", 0x4206, child, 0, 0),
    "traceme": forked(lambda: call("ptrace", 0, 0, 0, 0)),
}
os.kill(child, 9)
os.waitpid(child, 0)
"""


def test_other_processes(either: Attacker) -> None:
    assert set(outside(PROCESSES).values()) == {"allowed"}
    assert set(either.result(PROCESSES).values()) == {"EPERM"}
    init = (
        'result = [call("ptrace", 0x4206, 1, 0, 0), *(tried(lambda: open(f"/proc/1/{it}")) for it in ("mem", "maps"))]'
    )
    assert set(either.result(init)) <= {"EPERM", "EACCES"}


def test_stopped_while_traced(either: Attacker) -> None:
    """What makes bubblewrap's init report a false status: it isn't to be had."""
    code = 'told = call("ptrace", 0, 0, 0, 0)\nos._exit(41)'
    answer = either.run(code)
    assert (answer.status_code, answer.json()["code"]) == (502, "workflow_crashed")
    assert "41" in answer.json()["detail"]


FAMILIES = """
def made(family, kind, protocol=0):
    return tried(lambda: socket.socket(family, kind, protocol).close())
result = {family: [made(family, kind) for kind in (1, 2, 3, 5)] for family in range(1, 47)}
result["raw"] = [made(2, 3, 1), made(2, 3, 255), made(10, 3, 58)]
result["protocols"] = [made(2, 1, 132), made(2, 1, 262), made(2, 2, 136), made(2, 6, 33)]
result["netlink"] = [made(16, 3, protocol) for protocol in range(23)]
"""


def test_sockets(either: Attacker) -> None:
    control, result = outside(FAMILIES), either.result(FAMILIES)
    assert "None" in control["netlink"]
    assert control["17"][2] == control["raw"][0] == "None"  # AF_PACKET and raw sockets, in its own network
    opened = {family for family, tried in result.items() if "None" in tried}
    assert opened == {"1", "2", "10"}
    assert result["1"] == ["None", "None", "ESOCKTNOSUPPORT", "None"]
    assert [it for family in ("2", "10") for it in result[family]] == [
        "None",
        "None",
        "ESOCKTNOSUPPORT",
        "ESOCKTNOSUPPORT",
    ] * 2


# Machine code that calls the kernel by the numbers of other processors; it ends up in the child's answer.
FOREIGN = """
import mmap
def executed(code):
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(code)
    function = ctypes.CFUNCTYPE(ctypes.c_long)(ctypes.addressof(ctypes.c_char.from_buffer(page)))
    return function()
i386 = bytes.fromhex("b8 14 00 00 00 cd 80 c3")      # mov eax, 20 (getpid of i386); int 0x80; ret
alg = bytes.fromhex("53 b8 67 01 00 00 bb 26 00 00 00 b9 05 00 00 00 31 d2 cd 80 5b c3")  # socket(AF_ALG, SEQPACKET, 0)
x32 = bytes.fromhex("b8 29 00 00 40 bf 01 00 00 00 be 01 00 00 00 31 d2 0f 05 c3")        # x32 socket(AF_UNIX, …)
native = bytes.fromhex("b8 27 00 00 00 0f 05 c3")    # getpid
result = [forked(lambda: executed(code)) for code in (native, i386, alg, x32)]
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the machine code of this attack is x86_64's")
def test_the_numbers_of_other_processors(either: Attacker) -> None:
    native, i386, *_ = outside(FOREIGN)
    assert native > 0
    assert i386 == native + 1 or i386 in {"SIGSEGV", -38}  # a kernel without 32-bit programs
    native, *foreign = either.result(FOREIGN)
    assert native > 0
    assert foreign == ["SIGSYS"] * 3


def test_every_call_that_is_denied(either: Attacker) -> None:
    names = sorted({*KNOWN.denied, "clone3", "io_uring_setup"})
    code = f"result = {{name: call(name, 0, 0, 0, 0, 0, 0) for name in {names}}}"
    result = either.result(code)
    assert {name: told for name, told in result.items() if told not in REFUSED} == {}
    numbers = sorted(set(range(425, 520)) - set(KNOWN.allowed.values()))
    assert set(either.result(f"result = [call(number, 0, 0, 0, 0, 0, 0) for number in {numbers}]")) <= REFUSED


POWERS = """
result = {
    "userfaultfd": call("userfaultfd", 1), "memfd_secret": call("memfd_secret", 0),
    "io_uring": call("io_uring_setup", 4, ctypes.create_string_buffer(120)),
    "add_key": call("add_key", b"user", b"x", b"y", 1, -3), "keyctl": call("keyctl", 0, -3, 1),
    "personality": forked(lambda: call("personality", 0x40000)), "handle": call(
        "name_to_handle_at", -100, b"/tmp", struct.pack("=Ii128x", 128, 0), ctypes.create_string_buffer(8), 0),
    "vmsplice": call("vmsplice", os.pipe()[1], struct.pack("=QQ", id(b""), 1), 1, 0),
    "hostname": forked(lambda: call("sethostname", b"x", 1)),
}
"""


def test_powers_that_ordinary_processes_have(either: Attacker) -> None:
    control = outside(POWERS)
    assert len([name for name, told in control.items() if told == "allowed"]) >= 7, control  # kernels differ
    assert set(either.result(POWERS).values()) <= REFUSED


SETUID = """
def effective(program):
    # Whose rights a program has that asks for a password.
    with open(os.devnull) as null, subprocess.Popen(program, stdin=subprocess.PIPE, stdout=null, stderr=null) as asking:
        for _ in range(100):
            time.sleep(0.01)
            started = open(f"/proc/{asking.pid}/status").read()
            if os.path.basename(program[0]) in started.splitlines()[0] or asking.poll() is not None:
                break
        asking.kill()
        return int(started.partition("Uid:")[2].split()[1])
os.makedirs("/tmp/set", exist_ok=True)
status = dict(line.split(":\\t") for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
copied = "/tmp/set/id"
open(copied, "wb").write(open("/usr/bin/id", "rb").read())
os.chmod(copied, 0o6755)
result = {
    "no_new_privs": status["NoNewPrivs"], "capabilities": [status[name] for name in status if name.startswith("Cap")],
    "nosuid": [bool(os.statvfs(place).f_flag & os.ST_NOSUID) for place in ("/usr", "/tmp")],
    "uid": subprocess.run([copied, "-u"], capture_output=True, text=True).stdout,
    "set": [tried(lambda: os.setuid(0)), tried(lambda: os.setgid(0)), tried(lambda: os.setgroups([0]))],
    "capset": call("capset", struct.pack("=Ii", 0x20080522, 0), b"\\xff" * 24),
    "su": subprocess.run(["/bin/sh", "-c", "for it in su newuidmap mount ping passwd sudo; do $it -c id; done"],
                         capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout.count("uid=0"),
    "effective": effective(["/usr/bin/su"]),
    "maps": [written(f"/proc/self/{name}", "0 0 1") for name in ("uid_map", "gid_map")],
}
"""


def test_no_way_to_become_somebody_else(either: Attacker) -> None:
    control = as_anybody(SETUID)
    assert (control["no_new_privs"], control["nosuid"][0], control["effective"]) == ("0", False, 0)
    control = outside(SETUID)
    assert (control["set"][0], control["capset"], control["capabilities"][1] > "0" * 16) == ("None", "allowed", True)
    result = either.result(SETUID)
    assert (result["no_new_privs"], result["effective"]) == ("1", 1000)
    assert set(result["capabilities"]) == {"0" * 16}
    assert result["nosuid"] == [True, True]
    assert (result["uid"], result["su"]) == ("1000\n", 0)
    assert set(result["set"]) <= {"EPERM", "EINVAL"}
    assert result["capset"] == "EPERM"
    assert set(result["maps"]) <= {"EPERM", "EACCES"}


TERMINAL = """
import fcntl, pty, termios
first, second = pty.openpty()
def injected():
    os.setsid()
    fcntl.ioctl(second, termios.TIOCSCTTY, 0)
    return [tried(lambda: fcntl.ioctl(second, termios.TIOCSTI, b"x")),
            tried(lambda: fcntl.ioctl(second, 0x541C, b"\\x03"))]
result = [*forked(injected), tried(lambda: os.open("/dev/tty", os.O_RDWR))]
"""


def test_typing_into_a_terminal(either: Attacker) -> None:
    control = outside(TERMINAL)
    with open("/proc/sys/dev/tty/legacy_tiocsti") as setting:  # noqa: PTH123
        if setting.read().strip() == "1":
            assert control[0] == repr(b"x")
    injected, linux, terminal = either.result(TERMINAL)
    assert (injected, linux) == ("EPERM", "EPERM")
    assert terminal in {"ENXIO", "EACCES", "ENOENT"}


PRIORITIES = """
def raised(kind):
    try:
        resource.setrlimit(kind, (-1, -1))
    except ValueError:
        raise OSError(errno.EPERM, "not above the hard limit") from None

result = {
    "nice": tried(lambda: os.setpriority(os.PRIO_PROCESS, 0, -5)),
    "real-time": [tried(lambda: os.sched_setscheduler(0, kind, os.sched_param(1))) for kind in (1, 2)],
    "deadline": call("sched_setattr", 0, struct.pack("=IIQiIQQQ", 48, 6, 0, 0, 0, 10**7, 10**8, 10**8), 0),
    "io": call("ioprio_set", 1, 0, 1 << 13), "core": resource.getrlimit(resource.RLIMIT_CORE),
    "limits": [tried(lambda: raised(kind)) for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)],
    "score": written("/proc/self/oom_score_adj", "-900"),
    "cgroups": [os.path.exists(place) for place in ("/sys/fs/cgroup", "/sys", "/cgroup")],
}
"""


def test_priorities_and_limits(either: Attacker) -> None:
    if control := as_root(PRIORITIES):  # its own process, for the moment that it lives
        assert (control["nice"], control["real-time"]) == ("None", ["None"] * 2)
        assert (control["deadline"], control["io"], control["cgroups"][:2]) == ("allowed", "allowed", [True] * 2)
    result = either.result(PRIORITIES)
    assert result["nice"] in {"EACCES", "EPERM"}
    assert set(result["real-time"]) | {result["deadline"], result["io"]} <= {"EPERM", "EACCES"}
    assert result["core"] == [0, 0]
    assert set(result["limits"]) == {"EPERM"}
    assert result["score"] in {"EACCES", "EPERM"}
    assert result["cgroups"] == [False] * 3


# The ideas of SandboxEscapeBench and its like: those that aren't rows of their own above.
IDEAS = """
def released():
    os.makedirs("/tmp/cg", exist_ok=True)
    return call("mount", b"cgroup", b"/tmp/cg", b"cgroup", 0, b"memory")
def piped():
    # Dirty Pipe: bytes spliced from a file that may only be read must not be written to.
    reading, writing = os.pipe()
    file = os.open("/etc/passwd", os.O_RDONLY)
    before = os.pread(file, 64, 0)
    os.write(writing, b"x" * 65536); os.read(reading, 65536)
    os.splice(file, writing, 1, offset_src=0)
    os.write(writing, b"OVERWRITTEN")
    return os.pread(file, 64, 0) == before
def cow():
    import mmap
    file = os.open("/etc/passwd", os.O_RDONLY)
    private = mmap.mmap(file, 64, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
    before = os.pread(file, 64, 0)
    private[:5] = b"OVERW"
    private.madvise(mmap.MADV_DONTNEED)
    return tried(lambda: open("/proc/self/mem", "r+b", 0).close()) and os.pread(file, 64, 0) == before
result = {
    "sockets": [it for it in ("/var/run/docker.sock", "/run/docker.sock", "/run/containerd/containerd.sock",
                "/run/crio/crio.sock", "/run/dbus/system_bus_socket", "/run/podman/podman.sock") if os.path.exists(it)],
    "devices": [it for it in os.listdir("/dev") if it.startswith(("sd", "vd", "nvme", "loop", "kvm", "mem", "kmsg",
                "fuse", "net", "vhost", "dri", "mapper"))],
    "nodes": [tried(lambda: os.mknod("/tmp/disk", 0o060600, os.makedev(254, 0))),
              tried(lambda: os.mknod("/tmp/mem", 0o020600, os.makedev(1, 1)))],
    "modules": [call("init_module", b"x", 1, b""), call("finit_module", 0, b"", 0)],
    "handle": call("open_by_handle_at", -100, struct.pack("=Ii8x", 8, 1), 0),
    "release_agent": released(), "bpf": call("bpf", 0, b"\\0" * 72, 72), "packet": tried(lambda: socket.socket(17, 3)),
    "runc": [tried(lambda: os.open("/proc/self/exe", os.O_WRONLY)), tried(lambda: os.open("/proc/1/exe", os.O_WRONLY))],
    "roots": [tried(lambda: os.stat(f"/proc/{it}/root/root/.ssh")) for it in os.listdir("/proc") if it.isdigit()],
    "pipe": piped(), "cow": cow(), "namespaces": tried(lambda: os.listdir("/proc/1/ns")) and tried(
        lambda: os.open("/proc/1/ns/mnt", os.O_RDONLY)),
}
"""


def test_known_ideas(either: Attacker) -> None:
    control = outside(OWN_TMP + IDEAS)
    assert (control["release_agent"], control["packet"][:8], control["namespaces"].isdigit()) == (
        "allowed",
        "<socket.",
        True,
    )
    if control := as_root(OWN_TMP + IDEAS):
        assert control["nodes"] == ["None"] * 2
        # Refused for the rubbish that it is, or unknown to a kernel without modules; not for want of rights.
        assert "EPERM" not in {*control["modules"], control["handle"], control["bpf"]}
    result: dict[str, Any] = either.result(IDEAS)
    assert (result["sockets"], result["devices"]) == ([], [])
    assert set(result["nodes"]) <= {"EPERM", "EACCES"}
    assert {*result["modules"], result["handle"], result["release_agent"], result["bpf"]} <= REFUSED
    assert result["packet"] == "EAFNOSUPPORT"
    assert set(result["runc"]) <= {"EACCES", "ETXTBSY", "EROFS", "EPERM", "ENOENT"}
    assert set(result["roots"]) <= {"ENOENT", "EACCES"}
    assert (result["pipe"], result["cow"]) == (True, True)


def test_the_numbers_that_are_used_here() -> None:
    assert CALLS["mount"] == KNOWN.denied["mount"]
    assert struct.calcsize("=11Q") == 88
