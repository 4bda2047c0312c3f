"""The host from inside: rows S1, S10, S11, S14 and S18 of docs/security.md."""

import os
import socket
from pathlib import Path

from tests.e2e.mesh import until
from tests.escape.attacks import CANARY, OWN_TMP, Attacker, as_root, outside

SETTINGS = """
def same(place):
    # What is there already: to succeed changes nothing.
    try:
        return open(place).read()
    except OSError:
        return "x"

result = {
    "written": {place: written(place, same(place)) for place in (
        "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/vm/drop_caches", "/proc/sysrq-trigger",
        "/proc/sys/net/ipv4/ip_forward", "/proc/sys/fs/binfmt_misc/register", "/proc/sys/kernel/modprobe")},
    "read": {name: tried(lambda: len(open("/proc/" + name, "rb").read(100))) for name in (
        "kallsyms", "keys", "key-users", "kcore", "kmsg", "timer_list", "vmallocinfo", "slabinfo", "kpageflags")},
    "listed": {name: tried(lambda: os.listdir("/proc/" + name)) for name in ("acpi", "bus", "fs", "irq", "scsi")},
    "init": [tried(lambda: open("/proc/1/" + name, "rb").read()) for name in ("environ", "cmdline")],
    "host": os.uname().nodename, "visible": [place for place in ("/sys", "/root/.ssh", "/home", "/boot", "/opt", "/mnt",
        "/var/lib", "/var/log", "/run/systemd", "/etc/shadow", "/etc/hostname") if os.path.exists(place)],
}
"""


def test_settings_and_secrets_of_the_kernel(either: Attacker) -> None:
    control = outside(SETTINGS)
    assert control["written"]["/proc/sys/net/ipv4/ip_forward"].isdigit()  # of its own network
    assert control["init"][1] != "b''"
    assert "/etc/shadow" in control["visible"]
    if control := as_root(SETTINGS):
        assert control["written"]["/proc/sys/kernel/core_pattern"].isdigit()
        assert control["written"]["/proc/sys/kernel/hostname"].isdigit()
        assert control["read"]["kallsyms"] == "100"
    result = either.result(SETTINGS)
    assert set(result["written"].values()) <= {"EACCES", "EROFS", "EPERM", "ENOENT"}, result
    assert set(result["read"].values()) <= {"0", "EACCES", "EPERM", "ENOENT"}, result
    assert set(result["listed"].values()) <= {"[]", "EACCES", "ENOENT"}, result
    environ, command = result["init"]
    assert environ in {"b''", "EACCES", "EPERM"} or "PYTHONUNBUFFERED" in environ  # ours, of the shim's own start
    assert CANARY not in environ + command
    assert command.count(either.mesh.home.name) == command.count(f"{either.mesh.home.name}/envs/")
    assert (result["host"], result["visible"]) == ("runmesh", [])


DESCRIPTORS = """
import stat
found = []
for number in sorted(int(name) for name in os.listdir("/proc/self/fd")):
    try:
        about, name = os.fstat(number), os.readlink(f"/proc/self/fd/{number}")
    except OSError:
        continue
    found.append([number, stat.S_ISDIR(about.st_mode) or stat.S_ISBLK(about.st_mode), name])
upward = []
for number, is_directory, name in found:
    for path in ("..", "../../../../../../etc/shadow"):
        upward.append(tried(lambda: os.open(path, os.O_RDONLY, dir_fd=number)))
    upward.append(tried(lambda: os.readlink(f"/proc/self/fd/{number}/..")))
result = [found, upward, tried(lambda: open("../" * 40 + "etc/shadow"))]
"""


def test_descriptors(either: Attacker) -> None:
    """The control has a directory open that somebody forgot."""
    found, upward, _ = outside("forgotten = os.open('/etc', os.O_RDONLY)\n" + DESCRIPTORS)
    assert [entry[2] for entry in found if entry[1]] == ["/etc"]
    assert [told for told in upward if told.isdigit()]
    found, upward, climbed = either.result(DESCRIPTORS)
    assert [entry for entry in found if entry[1]] == []
    kinds = {entry[2].split(":")[0].split("[")[0] for entry in found}
    assert kinds <= {"pipe", "socket", "anon_inode", "/dev/null"}, found
    assert set(upward) <= {"ENOTDIR", "ENOENT", "EACCES"}
    assert climbed in {"ENOENT", "EACCES"}


OTHERS = """
import uvicorn, sysconfig
packages = sysconfig.get_paths()["purelib"]
places = [sys.executable, os.path.realpath(sys.executable), uvicorn.__file__, packages + "/x.pth", json.__file__,
          "/usr/bin/env", "/etc/passwd", "/etc/hosts", "/etc/ld.so.cache", "/bin/sh", "/lib64/x.so"]
"""
OWN = """
places = ["/tmp/own"]
open("/tmp/own", "wb").write(open("/usr/bin/env", "rb").read())
"""
OVERWRITING = """
result = {}
for place in places:
    result[place] = [
        tried(lambda: os.close(os.open(place, os.O_WRONLY | os.O_CREAT))), tried(lambda: os.chmod(place, 0o777)),
        tried(lambda: os.utime(place)), tried(lambda: os.link(place, "/tmp/linked")),
        tried(lambda: os.truncate(place, 0)), tried(lambda: os.rename(place, place + ".old")),
    ]
"""


def test_overwriting_what_others_run(either: Attacker) -> None:
    """The control does it to a program of its own, on a file system that may be written."""
    assert set(outside(OWN_TMP + OWN + OVERWRITING)["/tmp/own"]) == {"None"}
    for place, tried in either.result(OTHERS + OVERWRITING).items():
        assert set(tried) <= {"EROFS", "EACCES", "EPERM", "ENOENT", "EXDEV", "ETXTBSY"}, (place, tried)


def test_no_file_of_the_host_by_any_name(either: Attacker) -> None:
    """The canary is in the services' environment and in the mesh's home."""
    home = either.mesh.home
    code = f"""
names = [f"/proc/{{it}}/{{name}}" for it in os.listdir("/proc") if it.isdigit()
         for name in ("environ", "cmdline", "maps", "mountinfo", "status")]
for top in ("/etc", "/run", "/var", "/tmp", "/workflow", "/runmesh", "/dev", {str(home)!r}):
    for directory, _, files in os.walk(top):
        if "/envs/" not in directory:
            names += [os.path.join(directory, name) for name in files]
names = [name for name in names if not os.path.exists(name) or os.path.isfile(name)]
found = [[name, tried(lambda: open(name, "rb", buffering=0).read(10000))] for name in names]
leaked = [name for name, content in found if {CANARY!r} in content]
result = [len(found), leaked, tried(lambda: os.listdir({str(home)!r}))]
"""
    looked, found, listed = either.result(code)
    assert looked > 10
    assert found == []
    assert listed in {"['envs']", "ENOENT", "EACCES"}


def test_doors_of_this_host(either: Attacker, canary_port: int) -> None:
    abstract = f"\0{CANARY}-{canary_port}"
    with socket.create_connection(("127.0.0.1", canary_port)) as control:
        assert control.recv(100).decode() == CANARY
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(abstract)
        assert control.recv(100).decode() == CANARY
    home = str(either.mesh.home)
    code = f"""
hosts = {_own_addresses()}
ports = [{canary_port}, {either.mesh.url.rsplit(":", 1)[1]}, 4222, 8222, 9901, 50051, 5432, 6379, 22]
runtime = [(host, ports[1]) for host in ("127.0.0.1", "0.0.0.0")]  # which is meant to be reached
answers = [heard((host, port), seconds=1) for host in hosts for port in ports[:2] if (host, port) not in runtime]
answers += [heard((hosts[0], port), seconds=1) for port in ports[2:]]
paths = [{abstract!r}, "\\0envoy_domain_socket_parent_0@0", "\\0/tmp/.X11-unix/X0", "/run/docker.sock",
         *({home!r} + f"/run/{{name}}.sock" for name in ("keys", "executor", "nested", "envoy-admin"))]
result = [answers, [heard(path, socket.AF_UNIX) for path in paths], open("/proc/net/unix").read().count("@")]
"""
    answers, paths, abstracts = either.result(code)
    assert not [answer for answer in answers if CANARY in answer or "HTTP/" in answer], answers
    assert set(paths) <= {"ECONNREFUSED", "ENOENT", "EPERM", "EACCES"}
    assert abstracts == 0


def _own_addresses() -> list[str]:
    """The addresses of this host that others would use."""
    found = {"127.0.0.1", "127.1.2.3", "0.0.0.0"}
    for target in ("192.0.2.1", "10.0.0.1"):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((target, 9))
                found.add(probe.getsockname()[0])
            except OSError:
                continue
    return sorted(found)


def test_processes_of_this_host(either: Attacker) -> None:
    code = """
result = [[tried(lambda: os.pidfd_open(pid)), tried(lambda: os.sched_getaffinity(pid)), tried(lambda: os.getpgid(pid))]
          for pid in pids]
result += [[tried(lambda: os.kill(pid, number)) for number in (0, 19, 9)] for pid in pids]
"""
    looked, killed = outside('pids = [subprocess.Popen(["/bin/sleep", "600"]).pid]' + code)
    assert killed == ["None"] * 3
    assert not {told for told in looked if told.startswith("E")}
    code = f"pids = {sorted({os.getpid(), either.mesh.process.pid, os.getppid()} - {1})}{code}"
    assert {told for tried in either.result(code) for told in tried} <= {"ESRCH", "EPERM", "EINVAL"}
    assert either.mesh.process.poll() is None


CORE = """
os.chdir("/tmp")
hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
child = os.fork()
if not child:
    os.abort()
result = [os.WCOREDUMP(os.waitpid(child, 0)[1]), [name for name in os.listdir("/tmp") if name.startswith("core")] != []]
"""


def test_a_core_is_not_dumped(either: Attacker) -> None:
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if pattern == "core":  # another would bother a program or a directory of this host's
        assert outside(OWN_TMP + CORE) == [True, True]
    assert either.result(CORE) == [False, False]
    answer = either.run("os.chdir('/tmp')\nos.abort()")
    assert (answer.status_code, answer.json()["code"]) == (502, "workflow_crashed")
    assert "SIGABRT" in answer.json()["detail"]
    home = either.mesh.home
    until(lambda: not list(home.glob("runs/**/core*")), 5)
