"""The spawner: a small process of its own that forks for the executor, which mustn't (grpcio and fork hang together).

Single-threaded, standard library only, started before grpc is imported with an empty environment. Orders come and news
goes as JSON messages with descriptors over one socket (SEQPACKET); when it closes, everything that was started dies.

orders  configure {runs, uids, needed} · stage {job, path} · kill {job}
        spawn {job, argv, env, cwd, fds, confined, run, listen, bounds, kind: template | base | packager} + a descriptor
        for each number in fds: `run` names a directory to make in `runs` (staging.PARTS), `listen` addresses in its
        network, `bounds` are [memory in bytes, processes, processors], 0 for no limit · adopt {job, template, run,
        listen, bounds, forks: it is a template} + the socket on which what the job `template` will fork speaks
news    configured {job, runs, no_cgroups} · staged {job, path} · refused {job, error}
        spawned, and of a slot placed {job, group: controller → directory} · listening {job} + sockets
        deaf {job, error} · exited {job, status (null: a slot's), used, removed: its directory too} · removed {job}
"""

import ctypes
import gc
import json
import os
import re
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from executor import furnish, spawned
from executor.bubblewrap import MAPS_FD, STATUS_FD
from executor.cgroups import Bounds, Cgroups, Group, Usage
from executor.jobs import Job, Uids
from executor.slots import Slots
from executor.staging import Stage, make_directory
from executor.sweepers import Sweepers

MAX_MESSAGE = 64 * 1024
MAX_FDS = 64
PATIENCE_SECONDS = 1.0
PROCESSES, SLOTS_PROCESSES = 1024, 1 << 16  # of one uid
FAREWELL_SECONDS = 5.0
_PR_SET_CHILD_SUBREAPER, _PR_SET_PDEATHSIG = 36, 1


class Spawner:
    """The loop: orders, deaths, bubblewrap's reports."""

    def __init__(self, executor: socket.socket) -> None:
        self._executor = executor
        self._selector = selectors.DefaultSelector()
        self.jobs: dict[int, Job] = {}
        self._slots = Slots(self, executor)
        self._cgroups: Cgroups | None = None
        self._emptying: list[Group] = []
        self._by_pid: dict[int, Job] = {}
        self._sweepers = Sweepers(self._removed)
        self._stage: Stage | None = None
        self._uids: Uids | None = None
        self.runs = Path()
        self._last_order = 0.0  # when the executor went away
        self._wake, wake = socket.socketpair()
        for end in (self._wake, wake):
            end.setblocking(False)
        self._waker = wake
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        self.watch(executor.fileno(), self._order)
        self.watch(self._wake.fileno(), self._woken)

    def run(self) -> None:
        """Until the executor is gone, and then until nothing of what was started is left, or for five seconds."""
        while not self._last_order or ((self.jobs or self._sweepers) and not self._is_late()):
            for key, _ in self._selector.select(timeout=0.1 if self._is_impatient() else None):
                key.data()
            self._reap()
            self._insist()
            if self._emptying:
                self._remove_groups()

    def close(self) -> None:
        """Our control groups go too."""
        if self.jobs or self._sweepers:
            print(f"spawner: left {len(self.jobs)} jobs and {len(self._sweepers)} sweepers behind", file=sys.stderr)
        if self._cgroups is not None:
            self._cgroups.sweep()

    def _is_late(self) -> bool:
        return time.monotonic() > self._last_order + FAREWELL_SECONDS

    def _is_impatient(self) -> bool:
        return bool(self._last_order or self._emptying) or any(job.killed_at for job in self.jobs.values())

    def stop(self) -> None:
        """The executor is gone, or we are told to go: kills everything."""
        if not self._last_order:
            self._last_order = time.monotonic()
            self._selector.unregister(self._executor.fileno())
            for job in list(self.jobs.values()):
                self.kill(job)

    def watch(self, fd: int, act: Callable[[], None]) -> None:
        """`act` whenever there is something to read."""
        self._selector.register(fd, selectors.EVENT_READ, act)

    def unwatch(self, fd: int) -> None:
        """No longer."""
        self._selector.unregister(fd)

    def _woken(self) -> None:
        numbers = b""
        with suppress(BlockingIOError):
            numbers = self._wake.recv(4096)
        if signal.SIGTERM in numbers:
            self.stop()

    def tell(self, did: str, **content: Any) -> None:
        """News for the executor."""
        with suppress(OSError):  # nobody listens any more
            self._executor.send(json.dumps({"did": did, **content}).encode())

    def _order(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._executor, MAX_MESSAGE, MAX_FDS, socket.MSG_CMSG_CLOEXEC)
        except OSError:
            data, fds = b"", []
        if not data:
            self.stop()
            return
        order = json.loads(data)
        obey: dict[str, Callable[..., None]] = {
            "configure": self._configure,
            "stage": self._reach,
            "spawn": self._spawn,
            "adopt": self._slots.adopt,
            "kill": self._kill_job,
        }
        try:
            obey[order.pop("do")](**order, given=fds)
        except OSError as error:
            self.tell("refused", job=order["job"], error=str(error)[:1000])
        finally:
            for fd in fds:
                os.close(fd)

    def _configure(self, job: int, runs: str, uids: tuple[int, int], needed: list[str], **_: Any) -> None:
        self.runs = Path(runs)
        self.runs.mkdir(mode=0o711, parents=True, exist_ok=True)
        for left in self.runs.iterdir():  # of an executor that died
            owner = left.lstat().st_uid
            self._sweepers.begin(self.runs, left, owner if os.getuid() == 0 and owner else None, None)
        if os.getuid() == 0:
            self._stage = Stage.open([self.runs, *map(Path, needed)])
            self._uids = Uids(*uids, last=os.getpid() % uids[1])
        reason = ""
        try:
            self._cgroups = Cgroups.open(f"runmesh-{os.getpid()}")
        except OSError as error:
            reason = str(error)[:1000] or "unknown"
        reachable = self._stage.reach(self.runs) if self._stage else self.runs
        self.tell("configured", job=job, runs=str(reachable), no_cgroups=reason)

    def group(self, name: str, bounds: Sequence[float]) -> Group | None:
        """A control group for a sandbox, where there are any. Errors: OSError."""
        memory, processes, cpu = bounds
        return self._cgroups.make(name, Bounds(int(memory), int(processes), cpu)) if self._cgroups else None

    def _reach(self, job: int, path: str, **_: Any) -> None:
        self.tell("staged", job=job, path=str(self._stage.reach(Path(path)) if self._stage else Path(path)))

    def _spawn(
        self, job: int, run: str = "", *, given: list[int], confined: bool, kind: str = "", **order: Any
    ) -> None:
        uid = None
        if confined and self._uids:
            uid = self._uids.packager if kind == "packager" else self._uids.take()
        directory, group, unmapped = None, None, -1
        bounds = order.pop("bounds", (0, 0, 0))
        # Each slot has its own limit; a uid's is there for where nothing else is.
        order["processes"] = SLOTS_PROCESSES if kind in {"template", "base"} else max(PROCESSES, int(bounds[1]))
        doors: list[int] = []
        try:
            directory = make_directory(self.runs, self.runs / run, uid) if run else None
            if confined and run:
                group = self.group(run, bounds)
                doors = group.doors() if group else []
            placed = dict(zip(order.pop("fds"), given, strict=True))
            listen = order.pop("listen", None)
            if kind == "base" and uid is not None:
                placed[MAPS_FD], unmapped = os.pipe()
                given.append(placed[MAPS_FD])  # to be closed with the others
            order["umask"] = 0o077 if confined and kind != "base" else 0o022
            pid, told = self._fork(spawned.Order(fds=placed, confined=confined, uid=uid, doors=doors, **order))
        except OSError:
            if unmapped >= 0:
                os.close(unmapped)
            if group is not None:
                group.remove()
            if directory is not None:
                self._sweepers.begin(self.runs, directory, uid, None)
            self.give_back(uid)
            raise
        finally:
            for door in doors:
                os.close(door)
        started = Job(job, pid, confined, uid, directory, listen or [], told, group=group, opens=listen is not None)
        started.unmapped = unmapped
        self.jobs[job] = self._by_pid[pid] = started
        self.watch(told, lambda: self._read_status(started))
        self.tell("spawned", job=job, group=group.places if group else {})

    def _fork(self, order: spawned.Order) -> tuple[int, int]:
        """The pid, and where bubblewrap tells of the sandbox's init."""
        told, tell = os.pipe()
        os.set_blocking(told, False)
        us = os.getpid()
        try:
            pid = os.fork()
        except OSError:
            os.close(told)
            os.close(tell)
            raise
        if pid == 0:
            spawned.become(replace(order, fds={**order.fds, STATUS_FD: tell}) if order.confined else order, us)
        os.close(tell)
        return pid, told

    def _read_status(self, job: Job) -> None:
        """bubblewrap's report: `{ "child-pid": 42, … }`."""
        piece = b""
        with suppress(BlockingIOError):
            piece = os.read(job.told, 4096)
            if not piece:
                self._close_status(job)
        job.news = (job.news + piece)[:4096]
        found = re.search(rb'"child-pid": *(\d+)', job.news)
        if found is None or job.init is not None:
            return
        pid = int(found[1])
        with suppress(ProcessLookupError):
            job.init, job.init_pid = os.pidfd_open(pid), pid
            self.watch(job.init, lambda: self.maybe_ended(job))
        if job.unmapped >= 0 and self._uids and not job.map(self._uids, pid):
            self.kill(job)
        if job.killed_at is not None:
            self.kill(job)
        elif job.opens and os.fork() == 0:
            spawned.listen(self._executor, job.id, pid, job.listen)

    def _close_status(self, job: Job) -> None:
        if job.told >= 0:
            self._selector.unregister(job.told)
            os.close(job.told)
            job.told = -1

    def _kill_job(self, job: int, **_: Any) -> None:
        if job in self.jobs:
            self.kill(self.jobs[job])

    def kill(self, job: Job) -> None:
        """Everything in it, now or as soon as it is there."""
        job.killed_at = job.killed_at or time.monotonic()
        self._slots.hang_up(job)
        if job.template is not None and job.init is None:
            self.maybe_ended(job)  # it isn't born, and won't be: nobody answers its first word
            return
        with suppress(ProcessLookupError):
            if job.init is not None:
                signal.pidfd_send_signal(job.init, signal.SIGKILL)
            elif not job.confined and job.status is None:
                os.killpg(job.pid, signal.SIGKILL)

    def _insist(self) -> None:
        """bubblewrap itself is killed only when killing the sandbox's init didn't end it: its death may orphan that."""
        for job in self.jobs.values():
            if job.killed_at and job.status is None and time.monotonic() > job.killed_at + PATIENCE_SECONDS:
                with suppress(ProcessLookupError):
                    os.kill(job.pid, signal.SIGKILL)

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self._by_pid:
                job = self._by_pid.pop(pid)
                job.status = os.waitstatus_to_exitcode(status)
                if job.told >= 0:
                    self._read_status(job)  # what it said last: whether there is an init to wait for
                if job.init is not None:
                    self._kill_rest(job)
                self.maybe_ended(job)
            elif not self._sweepers.reaped(pid):
                self._slots.reaped(pid, status)

    def _kill_rest(self, job: Job) -> None:
        """bubblewrap is gone: so has everything inside to be."""
        with suppress(ProcessLookupError):
            assert job.init is not None
            signal.pidfd_send_signal(job.init, signal.SIGKILL)

    def maybe_ended(self, job: Job) -> None:
        """When bubblewrap and the sandbox's init are both dead, nothing is left in there."""
        if job.status is None or job.id not in self.jobs:
            return
        if job.init is not None:
            with selectors.PollSelector() as one:
                one.register(job.init, selectors.EVENT_READ)
                if not one.select(timeout=0):
                    return
            self._selector.unregister(job.init)
            os.close(job.init)
            job.init = None
        self._close_status(job)
        job.close_maps()
        self._slots.hang_up(job)
        del self.jobs[job.id]
        used = job.group.usage() if job.group else Usage()
        status = None if job.template else job.status
        removed = False
        if job.template and job.directory and not job.forks:
            removed = furnish.remove_untouched(self.runs, job.directory)
        self.tell("exited", job=job.id, status=status, used=vars(used), removed=removed)
        if job.group is not None:
            self._emptying.append(job.group)
            self._remove_groups()
        if removed:
            self._gone(job)
        else:
            self._remove(job)

    def _remove_groups(self) -> None:
        """Those that are empty; what has just died may take a moment."""
        self._emptying = [group for group in self._emptying if not group.remove()]

    def _remove(self, job: Job) -> None:
        """Its directory; a template's after those of its slots."""
        if job.directory is None:
            self.give_back(job.uid)
        elif not job.slots:
            self._sweepers.begin(self.runs, job.directory, job.owner, job)

    def _removed(self, job: Job) -> None:
        self.tell("removed", job=job.id)
        self._gone(job)

    def _gone(self, job: Job) -> None:
        """Nothing is left of it."""
        self.give_back(job.uid)
        template = job.template
        if template is not None:
            template.slots.discard(job.id)
            if template.id not in self.jobs:
                self._remove(template)

    def take_uid(self) -> int | None:
        """One for a sandbox, where we are root. Errors: OSError when all are taken."""
        return self._uids.take() if self._uids else None

    def give_back(self, uid: int | None) -> None:
        """Nothing of it is left."""
        if uid is not None and self._uids:
            self._uids.taken.discard(uid)


def main(fd: int) -> None:
    """Serves the executor at the other end of `fd`."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # orphans of a dying sandbox come to us, who reap them
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    for number in (signal.SIGCHLD, signal.SIGTERM):
        signal.signal(number, lambda *_: None)  # the wake-up descriptor is what counts
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.chdir("/")
    os.umask(0o022)
    gc.freeze()  # a collection in each forked child would copy what it looks at
    gc.disable()
    spawner = Spawner(socket.socket(fileno=fd))
    spawner.run()
    spawner.close()
