"""A workflow that is loaded once and forked for each run: the part of the shim that forks (frame F of shim.py).

Standard library only, beside shim.py in the sandbox. A template has run the script up to the point where the app would
be served; a slot is a child of it in namespaces of its own. Between the fork and its first request a slot talks to the
spawner on a socket that came with F: in order `!` born · `G` furnished + [a cgroup's tasks files] · `C` inside them ·
`K` checked. Nothing here is a boundary: what a template's own code may do, its slots' code may do.
"""

from __future__ import annotations

import base64
import concurrent.futures.thread  # noqa: F401  # has something to do at forks, and says so now: see `watch_forks`
import ctypes
import gc
import os
import platform
import signal
import socket
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import shim_chance  # type: ignore[import-not-found]  # it lies beside us in the sandbox, as do the next
import shim_landlock  # type: ignore[import-not-found]

UID = 1000
_CLONE = {"x86_64": 56, "aarch64": 220}
_CAPSET = {"x86_64": 126, "aarch64": 91}
# CLONE_NEWNS NEWUTS NEWIPC NEWUSER NEWPID NEWNET: exactly what the template's filter allows.
_NAMESPACES = 0x00020000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
_PR_SET_DUMPABLE, _PR_GET_TID_ADDRESS = 4, 40
_PR_CAPBSET_DROP, _PR_SET_SECCOMP, _PR_CAP_AMBIENT = 24, 22, 47
_SECCOMP_MODE_FILTER, _PR_CAP_AMBIENT_CLEAR_ALL = 2, 4
_CAPABILITY_VERSION = 0x20080522
_MADV_COLLAPSE, _HUGE = 25, 2 << 20
_MAP = f"{UID} {UID} 1".encode()
_IDENTITY = (("/proc/self/setgroups", b"deny"), ("/proc/self/uid_map", _MAP), ("/proc/self/gid_map", _MAP))
_HARMLESS = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")
# PyDLL: the GIL stays ours across the system call, so the child has it too.
_libc = ctypes.PyDLL(None, use_errno=True)


def unforkable(own: set[int]) -> str:
    """Why the process as it stands can't be forked into many; empty when it can. `own` descriptors are ours."""
    status = Path("/proc/self/status").read_text(errors="replace")
    threads = int(status.split("Threads:", 1)[1].split(None, 1)[0])
    if threads > 1:
        return f"importing it leaves {threads - 1} thread(s) running"
    if os.getpid() == 1:  # what programs that it started have left behind became our children, and may be dead
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
    with suppress(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        return "importing it leaves a child process"
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        fields = line.split(None, 5)
        if fields[1].startswith("rw") and fields[1].endswith("s"):
            return f"importing it leaves memory shared with others: {fields[5] if len(fields) > 5 else 'anonymous'}"
    for number in sorted(int(path.name) for path in Path("/proc/self/fd").iterdir()):
        if number > 2 and number not in own and (what := _shared_state(number)):
            return f"importing it leaves {what} open, which forked copies would share"
    return ""


_collapsed: set[int] = set()


def collapse_pages() -> None:
    """Huge pages where our memory has any by now: a fork copies, and an exit takes down, one entry instead of 512. Not
    where a base has made them already: they would be copied, and not be shared any more.
    """
    for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
        fields = line.split(None, 5)
        if fields[1] != "rw-p" or fields[4] != "0":
            continue
        start, end = (int(address, 16) for address in fields[0].split("-"))
        start = -(-start // _HUGE) * _HUGE
        for place in range(start, end - _HUGE + 1, _HUGE):
            if place not in _collapsed:
                _collapsed.add(place)
                _libc.madvise(ctypes.c_void_p(place), ctypes.c_size_t(_HUGE), _MADV_COLLAPSE)  # as far as there are any


def _left_open(own: set[int]) -> str:
    """Any descriptor at all: a template checks that it has none but ours before it runs a script."""
    for number in sorted(int(path.name) for path in Path("/proc/self/fd").iterdir()):
        with suppress(OSError):  # that of the listing itself
            os.fstat(number)
            if number > 2 and number not in own:
                return f"importing it leaves descriptor {number} open"
    return ""


def _place_of_tid() -> ctypes.c_int | None:
    """Where libc keeps the main thread's id, which only its own fork would change: a template is the first of its
    namespace, and its second thread mustn't be taken for its main one.
    """
    place = ctypes.c_void_p()
    if _libc.prctl(_PR_GET_TID_ADDRESS, ctypes.byref(place), 0, 0, 0) or not place.value:
        return None  # this kernel doesn't tell
    return ctypes.c_int.from_address(place.value)


def _shared_state(number: int) -> str:
    """What an open descriptor is, when processes that inherit it would get in each other's way."""
    try:
        about = os.fstat(number)
        name = str(Path(f"/proc/self/fd/{number}").readlink())
    except OSError:
        return ""  # that of the listing itself
    if name in _HARMLESS:
        return ""
    flags = int(Path(f"/proc/self/fdinfo/{number}").read_text().split("flags:", 1)[1].split()[0], 8)
    reads_only = flags & os.O_ACCMODE == os.O_RDONLY
    if reads_only and (stat.S_ISREG(about.st_mode) or stat.S_ISDIR(about.st_mode)):
        return ""
    return f"{name} (descriptor {number})"


_told_of_forks: list[Any] = []


def watch_forks() -> None:
    """Notices whether anybody but the interpreter itself wants to be told of forks. If not, a slot goes without
    Python's own steps after one, which copy a MiB of memory to make locks anew that nobody else can hold: the template
    has one thread, which has just said so (`unforkable`). What `random` does then, `shim_chance` does.
    """
    original = os.register_at_fork

    def register_at_fork(**hooks: Any) -> None:
        _told_of_forks.append(hooks)
        original(**hooks)

    os.register_at_fork = register_at_fork


class Template:
    """Waits for orders to fork. `serve` returns in each slot, never in the template itself.

    A `base` forks templates instead, each the init of its own pid namespace.
    """

    def __init__(self, control: Any, *, base: bool = False) -> None:
        self._control = control
        self._base = base
        self._slots: dict[int, int] = {}  # pid → slot
        self._collects = gc.isenabled()

    def serve(self, ready: Callable[[dict[str, Any]], None], other: Callable[[bytes], None]) -> dict[str, Any]:
        """The order, in a slot. `ready` tells the executor; `other` answers frames that aren't about forking."""
        own = {self._control.sock.fileno()}
        reason = unforkable(own) or (_left_open(own) if self._base else "")
        tid = _place_of_tid() if self._base else None
        shim_chance.find_generators()
        gc.collect()
        gc.freeze()
        collapse_pages()
        ready({"fork": reason})
        awake, wake = socket.socketpair()
        for end in (awake, wake):
            end.setblocking(False)
        previous = signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        while True:
            _wait_for(self._control.sock, awake)
            self._reap(awake)
            if not _readable(self._control.sock):
                continue
            kind, order, fds = self._control.receive()
            if kind != b"F":
                other(kind)
            elif self._fork(order["slot"]) == 0:

                def reset() -> None:
                    signal.set_wakeup_fd(-1)
                    signal.signal(signal.SIGCHLD, previous)
                    awake.close()
                    wake.close()

                if tid is not None:
                    tid.value = 1
                if self._base:
                    become_template(self._control, order, fds, reset)
                else:
                    become_slot(self._control, order, fds, reset, collects=self._collects)
                return order  # type: ignore[no-any-return]
            else:
                for fd in fds:
                    os.close(fd)

    def _fork(self, slot: int) -> int:
        """0 in the slot, which is pid 2 of its namespace, so that signals that a workflow sends itself reach it; pid 1
        only reaps. That one never gets as far as Python's own steps after a fork.
        """
        if _told_of_forks:
            ctypes.pythonapi.PyOS_BeforeFork()
        pid = int(_libc.syscall(_CLONE[platform.machine()], _NAMESPACES | signal.SIGCHLD, 0, 0, 0, 0))
        if pid == 0:
            if not self._base and (main := int(_libc.fork())):  # libc's knows what else is to be done in a child
                be_init(main) if main > 0 else os._exit(71)
            if _told_of_forks:
                ctypes.pythonapi.PyOS_AfterFork_Child()
            return 0
        error = ctypes.get_errno()
        if _told_of_forks:
            ctypes.pythonapi.PyOS_AfterFork_Parent()
        if pid < 0:
            self._control.send(b"W", {"slot": slot, "status": 255, "error": os.strerror(error)})
        else:
            self._slots[pid] = slot
        return pid

    def _reap(self, awake: socket.socket) -> None:
        with suppress(BlockingIOError):
            awake.recv(4096)
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if not pid:
                    return
                slot = self._slots.pop(pid, 0)
                self._control.send(b"W", {"slot": slot, "status": os.waitstatus_to_exitcode(status), "error": ""})


def _wait_for(*socks: socket.socket) -> None:
    import select  # noqa: PLC0415  # only templates need it

    poll = select.poll()
    for sock in socks:
        poll.register(sock, select.POLLIN)
    poll.poll()


def _readable(sock: socket.socket) -> bool:
    import select  # noqa: PLC0415

    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def become_slot(
    control: Any, order: dict[str, Any], fds: list[int], reset: Callable[[], None], *, collects: bool
) -> None:
    """Takes its place: identity, furniture, cgroup; then gives up every right to change it.

    Whatever is touched here is copied, at some 5 µs a page: simple calls instead of comfortable ones.
    """
    _map_itself()
    _take_line(control, fds)
    os.chdir(order["directory"])
    try:
        shim_landlock.confine()
    except OSError:
        os._exit(68)
    reset()
    drop_rights(base64.b64decode(order["filter"]))
    shim_chance.be_unique()
    if collects:
        gc.enable()


def become_template(control: Any, order: dict[str, Any], fds: list[int], reset: Callable[[], None]) -> None:
    """As a slot, but for what makes it one that forks: no filter but its base's, and the memory of what is chance.
    Where we have many uids, ours is mapped from outside, before `G`.
    """
    if not order["mapped"]:
        _map_itself()
    _take_line(control, fds)
    for change in (os.setresgid, os.setresuid):
        change(UID, UID, UID)
    _libc.prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0)  # which that has changed: else slots' own /proc/self isn't theirs
    os.umask(0o077)
    os.chdir(order["directory"])
    reset()
    give_up_capabilities()
    shim_chance.be_unique(forks=True)


def _map_itself() -> None:
    for place, text in _IDENTITY:
        opened = os.open(place, os.O_WRONLY)
        os.write(opened, text)
        os.close(opened)


def _take_line(control: Any, fds: list[int]) -> None:
    """The control socket is ours, and not that of whoever forked us; the spawner has its say on the other."""
    os.dup2(fds[0], control.sock.fileno(), inheritable=False)
    os.close(fds[0])
    with socket.socket(fileno=fds[1]) as spawner:
        _settle(spawner)


def _settle(spawner: socket.socket) -> None:
    """Ends the process when the spawner says no: nothing may run half furnished."""
    spawner.send(b"!")
    word, tasks, _, _ = socket.recv_fds(spawner, 1, 8, socket.MSG_CMSG_CLOEXEC)
    if word != b"G":
        os._exit(67)
    for fd in tasks:
        os.write(fd, b"0")
        os.close(fd)
    spawner.send(b"C")
    if spawner.recv(1) != b"K":
        os._exit(67)


def be_init(main: int) -> NoReturn:
    """Waits for all, and ends with `main`; its status is 128 + n for signal n."""
    os.closerange(0, 1 << 16)
    while True:
        pid, status = os.wait()
        if pid == main:
            end = os.waitstatus_to_exitcode(status)
            os._exit(128 - end if end < 0 else end)


class _Filter(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("program", ctypes.c_char_p))


def drop_rights(program: bytes) -> None:
    """No capability, and the filter of a run on top of the template's."""
    give_up_capabilities()
    fprog = _Filter(len(program) // 8, program)
    if _libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(fprog), 0, 0):
        os._exit(68)


def give_up_capabilities() -> None:
    """All, even in our own namespaces."""
    for capability in range(64):
        if _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0):
            break  # the last one that this kernel knows
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if _libc.syscall(_CAPSET[platform.machine()], header, nothing):
        os._exit(68)
