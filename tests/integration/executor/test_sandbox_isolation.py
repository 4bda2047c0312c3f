"""What user code tries and must not get, and that nothing of it stays. Canaries are planted on the host."""

import asyncio
import contextlib
import json
import os
import sys
import textwrap
import uuid
from pathlib import Path
from typing import Any

import pytest

from executor import seccomp
from executor.driver import BubblewrapDriver
from executor.sandbox import StartFailed
from tests.fakes.real_sandboxes import READY_SECONDS, alive, started, until, until_gone

PROBE = """
import ctypes, errno, json, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)

def call(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(number, *arguments)
    return "allowed" if result >= 0 else errno.errorcode[ctypes.get_errno()]

def tried(action):
    try:
        return repr(action())
    except OSError as error:
        return errno.errorcode[error.errno]

"""


async def probe(driver: BubblewrapDriver, code: str, env: dict[str, str] | None = None) -> Any:
    """What `result` is after `code` has run inside."""
    source = f"{PROBE}{textwrap.dedent(code)}\nprint(json.dumps(result))\n"
    async with started(driver, source, env=env) as session:
        session.sandbox.process.close_ways()  # nobody serves them here
        with pytest.raises(StartFailed):
            await session.sandbox.ready(READY_SECONDS)
    assert session.stdout, session.stderr
    return json.loads(session.stdout)


async def test_who_it_is(driver: BubblewrapDriver) -> None:
    lines = await probe(driver, 'result = open("/proc/self/status").read().splitlines()')
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert status["Uid"].split() == ["1000"] * 4
    assert status["Gid"].split() == ["1000"] * 4
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert {int(status[name], 16) for name in status if name.startswith("Cap")} == {0}


async def test_it_is_never_the_hosts_root(driver: BubblewrapDriver, sandbox_home: Path) -> None:
    async with started(driver, "import time\nopen('mine', 'w').close()\ntime.sleep(600)") as session:
        runs = sandbox_home / "runs"
        await until(lambda: list(runs.glob("*/work/mine")), READY_SECONDS)
        (made,) = runs.glob("*/work/mine")
        owner = made.stat().st_uid
        assert owner != 0
        assert (owner >= 200_000) == (os.getuid() == 0)
        assert (runs / made.parts[-3]).stat().st_mode & 0o777 == 0o700
        await session.end()


async def test_what_it_sees_of_the_host(driver: BubblewrapDriver, sandbox_home: Path) -> None:
    canary = sandbox_home / "canary"
    canary.write_text("secret")
    code = f"""
    paths = ["/home", "/root/.ssh", "/etc/shadow", "/etc/hostname", "/sys"]
    paths += [{str(canary)!r}, {str(sandbox_home / "runs")!r}]
    result = {{
        "exists": [path for path in paths if os.path.exists(path)],
        "etc": sorted(set(os.listdir("/etc")) & {{"passwd", "hosts", "shadow"}}),
        "processes": sorted(int(name) for name in os.listdir("/proc") if name.isdigit()),
        "init": [tried(lambda: open(f"/proc/1/{{name}}", "rb").read()) for name in ("environ", "cmdline")],
        "environ": open("/proc/self/environ").read(),
        "hosts": open("/etc/hosts").read(),
        "devices": sorted(os.listdir("/dev")),
    }}
    """
    os.environ["SECRET_CANARY"] = "in the executor"
    try:
        seen = await probe(driver, code, env={"SECRET_CANARY": "the run's own"})
    finally:
        del os.environ["SECRET_CANARY"]
    assert seen["exists"] == []
    assert seen["etc"] == ["hosts", "passwd"]
    assert seen["processes"] == [1, 2]
    environ, command = seen["init"]
    assert environ in {"b''", "EACCES"}  # Landlock refuses it where the kernel has it
    assert str(sandbox_home) not in command
    assert "CANARY" not in seen["environ"]
    assert seen["hosts"].split() == ["127.0.0.1", "localhost", "127.0.0.1", "runmesh", "127.0.0.2", "runtime.runmesh"]
    assert set(seen["devices"]) <= {
        "console", "core", "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty",
        "urandom", "zero",
    }  # fmt: skip


async def test_where_it_can_write(driver: BubblewrapDriver) -> None:
    code = f"""
    python = {sys.prefix!r}
    places = ["/x", "/etc/passwd", "/etc/hosts", "/usr/x", "/dev/x", "/runmesh/shim.py", python + "/x", "/run/x",
              "/var/x", "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/net/ipv4/ip_forward",
              "/proc/sysrq-trigger", "/proc/self/oom_score_adj"]
    result = {{place: tried(lambda: os.close(os.open(place, os.O_WRONLY | os.O_CREAT))) for place in places}}
    for place in ("/tmp/x", "/workflow/x", "/dev/shm/x"):
        assert open(place, "w").write("x") == 1
    """
    result = await probe(driver, code)
    allowed = {place for place, told in result.items() if told == "None"}
    assert allowed == {"/proc/self/oom_score_adj"}, result
    assert result["/proc/sys/kernel/core_pattern"] in {"EACCES", "EROFS"}


async def test_what_the_kernel_hides(driver: BubblewrapDriver) -> None:
    code = """
    names = ["kallsyms", "keys", "key-users", "kmsg", "timer_list", "sysrq-trigger", "kcore", "vmallocinfo"]
    present = [name for name in names if os.path.exists("/proc/" + name)]
    result = {name: tried(lambda: len(open("/proc/" + name, "rb").read(100))) for name in present}
    result.update({name: tried(lambda: os.listdir("/proc/" + name)) for name in ("acpi", "bus", "fs", "irq")})
    """
    result = await probe(driver, code)
    assert set(result.values()) <= {"0", "[]", "EACCES", "EPERM", "ENOENT"}, result


async def test_denied_system_calls(driver: BubblewrapDriver) -> None:
    machine = seccomp.MACHINES[os.uname().machine]
    code = f"result = {{name: call(number, 0, 0, 0, 0, 0, 0) for name, number in {machine.denied!r}.items()}}"
    assert set((await probe(driver, code)).values()) == {"EPERM"}


async def test_calls_that_depend_on_their_arguments(driver: BubblewrapDriver) -> None:
    m = seccomp.MACHINES[os.uname().machine].allowed
    code = f"""
    new = [0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000]
    result = {{
        "unshare": [call({m["unshare"]}, flag) for flag in [*new, 0x80]],
        "clone": [call({m["clone"]}, flag | 17, 0, 0, 0, 0) for flag in new],
        "clone3": call(435, 0, 0), "io_uring": call(425, 1, 0), "future": call(1000, 0),
        "personality": [call({m["personality"]}, 0xffffffff), call({m["personality"]}, 0x0040000)],
        "tiocsti": call({m["ioctl"]}, 0, 0x5412, b"x"),
        "families": [tried(lambda: socket.socket(f, t).close()) for f, t in
                     [(16, 3), (17, 3), (38, 5), (40, 1), (33, 2), (30, 2), (15, 3), (44, 3), (2, 3), (10, 3)]],
        "protocols": [tried(lambda: socket.socket(2, 1, p).close()) for p in (132, 262, 33)],
        "usual": [tried(lambda: socket.socket(f, t).close()) for f in (1, 2, 10) for t in (1, 2)],
        "seqpacket": tried(lambda: [s.close() for s in socket.socketpair(1, 5)]),
    }}
    """
    result = await probe(driver, code)
    assert set(result["unshare"] + result["clone"]) == {"EPERM"}
    assert {result["clone3"], result["io_uring"], result["future"]} == {"ENOSYS"}
    assert result["personality"] == ["allowed", "EPERM"]
    assert result["tiocsti"] == "EPERM"
    assert set(result["families"]) <= {"EAFNOSUPPORT", "ESOCKTNOSUPPORT"}
    assert set(result["protocols"]) == {"EPROTONOSUPPORT"}
    assert set(result["usual"]) == {"None"}
    assert result["seqpacket"].startswith("[")


async def test_the_usual_still_works(driver: BubblewrapDriver) -> None:
    """Threads, children, executors, loops, temporary files, pseudo-terminals, semaphores, times, names."""
    code = """
    import asyncio, concurrent.futures, mmap, multiprocessing, subprocess, tempfile, threading, time, pty, pwd
    import uvloop
    thread = threading.Thread(target=print, kwargs={"file": sys.stderr}); thread.start(); thread.join()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        threads = list(pool.map(abs, range(8)))
    with multiprocessing.get_context("fork").Pool(2) as pool:
        forked = pool.map(abs, [-1, -2])
    def run(*command):
        return subprocess.run(command, capture_output=True, text=True).stdout
    async def loop():
        return await asyncio.to_thread(lambda: 5)
    pty.openpty()
    result = {
        "threads": threads, "forked": forked,
        "child": run("/bin/sh", "-c", "echo $((1+1)); id -un").split(),
        "python": run("python", "-c", "import sys; print(sys.prefix)"),
        "loops": [asyncio.run(loop()), uvloop.run(loop())],
        "temp": tempfile.mkdtemp()[:4],
        "user": pwd.getpwuid(os.getuid()).pw_name, "host": socket.gethostname(),
        "localhost": socket.gethostbyname("localhost"),
        "zone": time.tzname[0] != "",
        "encoding": [sys.getfilesystemencoding(), sys.stdout.encoding],
    }
    """
    result = await probe(driver, code)
    assert result["threads"] == list(range(8))
    assert result["forked"] == [1, 2]
    assert result["child"] == ["2", "runmesh"]
    assert result["python"] == f"{sys.prefix}\n"
    assert result["loops"] == [5, 5]
    assert (result["temp"], result["user"], result["host"]) == ("/tmp", "runmesh", "runmesh")
    assert result["localhost"] == "127.0.0.1"
    assert result["encoding"] == ["utf-8", "utf-8"]


async def test_the_network_is_empty(driver: BubblewrapDriver) -> None:
    code = """
    def connect(family, address):
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.settimeout(3)
            sock.connect(address)
    result = {
        "tcp": [tried(lambda: connect(2, (host, port))) for host, port in
                [("169.254.169.254", 80), ("10.0.0.1", 80), ("8.8.8.8", 53), ("127.0.0.1", 4222), ("127.0.0.1", 22)]],
        "tcp6": [tried(lambda: connect(10, (host, 80))) for host in ("fd00:ec2::254", "::ffff:169.254.169.254", "::1")],
        "abstract": open("/proc/net/unix").read().count("@"),
        "resolved": None,
    }
    try:
        socket.getaddrinfo("example.com", 80)
    except socket.gaierror as error:
        result["resolved"] = str(error)
    """
    result = await probe(driver, code)
    assert set(result["tcp"] + result["tcp6"]) <= {"ENETUNREACH", "ECONNREFUSED", "EADDRNOTAVAIL"}
    assert result["abstract"] == 0
    assert result["resolved"]


async def test_limits(driver: BubblewrapDriver) -> None:
    code = """
    import resource as r
    names = ("CORE", "NOFILE", "FSIZE", "MEMLOCK", "NPROC")
    result = {name: r.getrlimit(getattr(r, "RLIMIT_" + name)) for name in names}
    result["queue"] = r.getrlimit(12)
    result["oom"] = int(open("/proc/self/oom_score_adj").read())
    result["umask"] = os.umask(0)
    """
    result = await probe(driver, code)
    assert result["CORE"] == result["queue"] == [0, 0]
    assert result["NOFILE"][1] <= 4096
    assert result["FSIZE"][1] <= 10 << 30
    assert result["NPROC"] == [512, 512]
    assert (result["oom"], result["umask"]) == (1000, 0o077)


async def test_a_fork_bomb_stays_inside(driver: BubblewrapDriver) -> None:
    code = """
    made = 0
    try:
        while made < 2000:
            if os.fork() == 0:
                os.setsid()
                import time
                time.sleep(600)
            made += 1
        result = "no limit"
    except OSError as error:
        result = [errno.errorcode[error.errno], made]
    """
    told, made = await probe(driver, code)
    assert told == "EAGAIN"
    assert 200 < made < 512  # the control group's limit is the lower one, where there is one


async def test_daemons_die_with_it(driver: BubblewrapDriver) -> None:
    marker = f"marker-{uuid.uuid4()}"
    source = f"""
import os, signal, subprocess, sys, time
for number in range(1, 60):
    try:
        signal.signal(number, signal.SIG_IGN)
    except OSError:
        pass
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)", {marker!r}])
    os._exit(0)
print("up", flush=True)
time.sleep(600)
"""
    async with started(driver, source) as session:
        await until(lambda: alive(marker), READY_SECONDS)
        await session.end()
    assert alive(marker) == []  # not a moment later: `close` has waited for it


async def test_daemons_die_with_a_script_that_ended(driver: BubblewrapDriver) -> None:
    marker = f"marker-{uuid.uuid4()}"
    source = f"""
import subprocess, sys
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", {marker!r}], start_new_session=True)
"""
    async with started(driver, source) as session:
        with pytest.raises(StartFailed):
            await session.sandbox.ready(READY_SECONDS)
        await until_gone(marker)


async def test_hostile_trees_are_removed(driver: BubblewrapDriver, sandbox_home: Path) -> None:
    outside = sandbox_home / "outside"
    outside.mkdir(mode=0o777)
    (outside / "kept").write_text("kept")
    code = f"""
    os.chdir("/tmp")
    for depth in range(1500):
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
    os.chdir("/tmp")
    os.symlink({str(outside)!r}, "link")
    os.symlink("/", "root")
    os.mkfifo("fifo")
    socket.socket(socket.AF_UNIX).bind("sock")
    os.mkdir("closed")
    open("closed/file", "w").close()
    os.chmod("closed", 0)
    os.chmod("/tmp", 0)
    os.chmod("/workflow", 0)
    result = True
    """
    assert await probe(driver, code)
    assert list((sandbox_home / "runs").iterdir()) == []
    assert (outside / "kept").read_text() == "kept"
    with contextlib.suppress(FileNotFoundError):
        assert oct(outside.stat().st_mode & 0o700) == "0o700"


async def test_two_at_once_see_nothing_of_each_other(driver: BubblewrapDriver) -> None:
    source = """
import os, sys, time, socket
open("/tmp/mine", "x").close()
open("/dev/shm/mine", "x").close()
seen = [p for p in os.listdir("/proc") if p.isdigit()]
sys.stdout.write(f"{seen}")
socket.socket().bind(("127.0.0.1", 9000))
time.sleep(600)
"""
    async with started(driver, source, run_id="run_a") as one, started(driver, source, run_id="run_b") as two:
        for session in (one, two):
            os.set_blocking(session.sandbox.process.stdout, True)
            line = await asyncio.to_thread(os.read, session.sandbox.process.stdout, 1000)
            assert line == b"['1', '2']"
        with pytest.raises(StartFailed, match="within"):
            await two.sandbox.ready(0.1)


async def test_the_same_run_twice_at_once(driver: BubblewrapDriver) -> None:
    """A retry may start before the directory of the attempt before it is gone."""
    async with started(driver, "import time; time.sleep(600)"), started(driver, "import time; time.sleep(600)"):
        pass
