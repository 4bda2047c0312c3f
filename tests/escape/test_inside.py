"""What user code finds when it looks around at request time, and what it leaves behind."""

import httpx
import pytest

from tests.e2e.mesh import until
from tests.escape.attacks import OWN_TMP, Attacker, outside


def test_killing_everybody_kills_itself(attacker: Attacker) -> None:
    assert attacker.run("tried(lambda: os.kill(-1, 9))\nos.kill(os.getpid(), 9)").json()["code"] == "workflow_crashed"
    attacker.leaves_nothing()


def test_the_init_of_a_sandbox_gives_nothing_away(attacker: Attacker) -> None:
    code = """
fds = set(os.listdir("/proc/1/fd")) - {"0"}
result = [tried(lambda: os.open(f"/proc/1/fd/{fd}", mode | os.O_NONBLOCK)) for fd in fds for mode in (0, 1)]
result += [tried(lambda: os.pidfd_open(1) and signal.pidfd_send_signal(os.pidfd_open(1), 9))]
result += [tried(lambda: open("/proc/1/mem", "r+b", 0).write(b"x"))]
"""
    told = attacker.result(code)
    *opened, killed, written = told
    # Our own log pipes at most: another's uid owns them where we are root.
    assert all(entry in {"EACCES", "ENXIO", "EINVAL"} or entry.isdigit() for entry in opened)
    assert killed in {"None", "EPERM"}  # Landlock refuses it; without it, a signal to one's own init is dropped
    assert written in {"EACCES", "EPERM", "EIO", "ESRCH"}


@pytest.mark.parametrize("place", ["/tmp", "/workflow"])
def test_hostile_trees(attacker: Attacker, place: str) -> None:
    code = f"""
os.chdir({place!r})
for name in (b"\\xff\\xfe", b"\\x1b[2J", b"-rf", b"a\\nb", b" ", b"x" * 255):
    open(name, "w").close()
os.mkfifo("fifo"); os.symlink("/", "root"); os.symlink("loop", "loop"); os.link("fifo", "hard")
socket.socket(socket.AF_UNIX).bind("sock")
os.mkdir("wide")
for number in range(3000):
    open(f"wide/{{number}}", "w").close()
for _ in range(1000):
    os.mkdir("d" * 60); os.chdir("d" * 60)
os.chmod({place!r} + "/wide", 0)
os.chmod({place!r}, 0)
result = True
"""
    removing = "import shutil\nos.chdir('/')\nresult = forked(lambda: tried_to_remove())"
    naive = """
def tried_to_remove():
    try:
        return shutil.rmtree("/tmp")
    except Exception as error:
        return type(error).__name__
"""
    control = outside(OWN_TMP + code.replace("/workflow", "/tmp") + naive + removing)
    assert control in {"RecursionError", "OSError"}
    answer = attacker.run(code)
    # What is too deep to be walked ends the run, where a second passes before it is done.
    assert answer.text == "true" or answer.json()["code"] == "disk_full"
    attacker.leaves_nothing()


def test_import_time_is_no_different(attacker: Attacker) -> None:
    """A deployment runs the script too: it may print what it likes, and kill whom it can reach."""
    code = """# /// script
# dependencies = ["uvicorn"]
# ///
import os, sys
os.write(2, b"\\xff\\x1b[2J\\0" * 10000)
if os.fork() == 0:
    os.setsid()
    os.execv("/bin/sleep", ["sleep", "600"])
raise ValueError("\\ud800 \\0 \\x1b[31m" + open("/proc/1/environ").read())
"""
    with attacker.mesh.http() as client:
        answer = client.post("/deploy", json={"code": code, "name": "import", "service_id": "import"})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_workflow")
    assert not {"\x1b", "\0"} & set(answer.json()["detail"])
    attacker.leaves_nothing()


def test_a_log_holds_lines_whatever_was_printed(attacker: Attacker) -> None:
    printed = r"""b'\xff\xfe\x00\x1b[31mred\x1b]0;title\x07\n{"level":"\\ud800","event":1e999}\n\r\n' + b"x" * 200000"""
    answer = attacker.run(f"open(1, 'wb', closefd=False).write({printed})\nos.write(2, b'\\xe2\\x82')")
    assert answer.status_code == 200
    run = answer.headers["x-request-id"]
    attacker.mesh.finished(run)
    with attacker.mesh.http() as client:
        log: httpx.Response = until(lambda: found if (found := client.get(f"/logs/{run}")).is_success else None)
    lines = [line for line in log.text.splitlines() if line]
    assert len(lines) >= 6
    assert not {"\x1b", "\0", "\x07"} & set(log.text)
