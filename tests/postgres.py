"""A real PostgreSQL for tests: Debian's, on a UNIX socket and a free port, in a directory of its own;
an ordinary user's where the tests are root. It doesn't sync to the disk: tests kill the server, never the machine.
"""

import asyncio
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from migrations.__main__ import SERVICES, upgrade

PASSWORD = "pg-$ecret/1"
_QUICK = ("fsync=off", "full_page_writes=off")
_SMALL = ("shared_buffers=16MB", "max_connections=60", "autovacuum=off", "logging_collector=off")


@dataclass
class Server:
    """A cluster."""

    directory: Path
    port: int
    user: int | None
    process: "subprocess.Popen[bytes] | None" = None
    template: str = ""
    # Whether what it has committed is on the disk: benchmarks want that.
    durable: bool = False

    def url(self, database: str = "postgres", *, tcp: bool = False) -> str:
        """By its socket, or by the loopback and a password."""
        if tcp:
            return (
                f"postgresql://mesh:{PASSWORD.replace('$', '%24').replace('/', '%2F')}@127.0.0.1:{self.port}/{database}"
            )
        return f"postgresql://mesh@/{database}?host={self.directory}&port={self.port}"

    def empty(self, template: str = "template1") -> str:
        """The name of a new database."""
        name = f"db_{secrets.token_hex(6)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return name

    def migrated(self) -> str:
        """The name of a new database that holds every service's schema, and nothing in them."""
        if not self.template:
            self.template = self.empty()
            for service in SERVICES:
                elsewhere(upgrade, service, f"{self.url(self.template)}&schema={service}")
        return self.empty(self.template)

    def execute(self, statement: str, database: str = "postgres") -> None:
        """One statement."""

        async def once() -> None:
            connection = await asyncpg.connect(self.url(database))
            try:
                await connection.execute(statement)
            finally:
                await connection.close()

        elsewhere(asyncio.run, once())

    def start(self) -> None:
        """Returns when it answers."""
        options = [
            *(f"port={self.port}", f"unix_socket_directories={self.directory}", "listen_addresses=127.0.0.1"),
            *(() if self.durable else _QUICK),
            *_SMALL,
        ]
        command: list[str | Path] = [binaries() / "postgres", "-D", self.directory / "data"]
        log = (self.directory / "log").open("ab")
        self.process = subprocess.Popen(
            [*command, *(part for option in options for part in ("-c", option))],
            stdout=log,
            stderr=log,
            cwd=self.directory,
            user=self.user,
            group=self.user,
        )
        log.close()
        deadline = time.monotonic() + 30
        while True:
            try:
                self.execute("SELECT 1")
                return
            except (OSError, asyncpg.PostgresError):
                ended = self.process.poll() is not None
                if ended or time.monotonic() > deadline:
                    raise RuntimeError((self.directory / "log").read_text()) from None
                time.sleep(0.02)

    def signal(self, number: signal.Signals) -> None:
        """To the server and all its processes: each is in a session of its own."""
        assert self.process is not None
        found = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False)
        for pid in (self.process.pid, *map(int, found.stdout.split())):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue

    def kill(self) -> None:
        """As if the machine's memory had run out."""
        assert self.process is not None
        self.signal(signal.SIGKILL)
        self.process.wait(10)

    def stop(self) -> None:
        """At once; nothing of it is kept."""
        if self.process is not None and self.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(20)

    def initialize(self) -> None:
        """An empty cluster, in another order of letters than that of their codes."""
        password = self.directory / "password"
        password.write_text(PASSWORD)
        if self.user is not None:
            for path in (self.directory, password):
                os.chown(path, self.user, self.user)
        locale = ("--encoding=UTF8", "--locale=C", "--locale-provider=icu", "--icu-locale=en-US")
        options = ("--username=mesh", f"--pwfile={password}", "--auth-local=trust", "--auth-host=scram-sha-256")
        command: list[str | Path] = [
            binaries() / "initdb",
            "-D",
            self.directory / "data",
            "--no-sync",
            *options,
            *locale,
        ]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd="/", user=self.user, group=self.user
        )
        assert done.returncode == 0, done.stdout + done.stderr


def elsewhere(call: Callable[..., Any], *arguments: Any) -> Any:
    """In a thread: what starts an event loop of its own can't do so inside of one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call, *arguments).result()


def binaries() -> Path:
    """The newest that Debian has installed."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    if found:
        return found[-1]
    initdb = shutil.which("initdb")
    assert initdb, "no PostgreSQL is installed: deploy/setup.sh tests"
    return Path(initdb).parent


@contextmanager
def postgres_server(*, durable: bool = False) -> Iterator[Server]:
    """A running one; it is gone, with its data, afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # short: a socket's path has 107 bytes
    directory.chmod(0o700)
    user = None if os.getuid() else pwd.getpwnam("nobody").pw_uid
    server = Server(directory, _free_port(), user, durable=durable)
    try:
        server.initialize()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
