"""A uv that hostile metadata took over: what it reaches, sees and changes, where it runs."""

import json
import os
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from executor.commands import Commands, Uv
from executor.driver import open_driver
from executor.environments import Environments
from executor.reach import Reach
from kit.errors import Invalid, Unavailable
from tests.fakes.package_index import PackageIndex
from tests.fakes.real_sandboxes import OUR_ENVIRONMENT

PROBE = """
import json, os, pathlib, socket, sys
def tried(what):
    try:
        return str(what())
    except Exception as error:
        return type(error).__name__
def talk(host, port):
    with socket.create_connection((host, port), timeout=10) as sock:
        sock.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
        return sock.makefile("rb").read(8).decode()
%s
print(json.dumps(result))
"""
REFUSED = {"ConnectionRefusedError", "ConnectionResetError", "BrokenPipeError"}


@pytest.fixture
def index() -> Iterator[PackageIndex]:
    with PackageIndex() as index:
        index.add_wheel("lib", "1", lib="value = 1")
        yield index


@pytest.fixture
async def commands(tmp_path: Path) -> AsyncIterator[Commands]:
    async with open_driver(tmp_path, "http://127.0.0.1:8080") as driver:
        yield driver.programs


@pytest.fixture
def secret(tmp_path: Path) -> Iterator[int]:
    """The port of something else on this host."""
    with socket.create_server(("0.0.0.0", 0)) as listening:
        yield int(listening.getsockname()[1])
        listening.setblocking(False)
        with pytest.raises(BlockingIOError):
            listening.accept()


async def probed(
    commands: Commands, code: str, reach: Reach | None, writable: Sequence[Path] = (), cwd: Path = Path("/tmp")
) -> Any:
    """What the code finds, run as uv is."""
    done = await commands.run_packager(
        [str(OUR_ENVIRONMENT.interpreter), "-I", "-c", PROBE % code],
        reach=reach,
        binds_ro=[OUR_ENVIRONMENT.base_prefix, OUR_ENVIRONMENT.path],
        binds_rw=writable,
        env={},
        cwd=cwd,
        timeout=60,
    )
    assert done.returncode == 0, done.text
    return json.loads(done.text), list(done.refused)


def own_address() -> str:
    """One of this machine's, besides the loopback. Nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("192.0.2.1", 9))
        return str(sock.getsockname()[0])


async def test_it_reaches_the_index_and_nothing_else(commands: Commands, index: PackageIndex, secret: int) -> None:
    others = [("127.0.0.1", secret), ("localhost", secret), (own_address(), secret), (own_address(), index.port),
              ("169.254.169.254", 80), ("10.0.0.1", 443), ("1.1.1.1", 443), ("127.0.0.2", 80),
              ("::1", secret)]  # fmt: skip
    names = ["example.com", "metadata.google.internal", os.uname().nodename, "runtime.runmesh"]
    code = f"""
result = [tried(lambda: talk("127.0.0.1", {index.port})),
          [tried(lambda: talk(*target)) for target in {others!r}],
          [tried(lambda: socket.getaddrinfo(name, 80)) for name in {names!r}],
          tried(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b"x", ("1.1.1.1", 53)))]
"""
    (reached, elsewhere, found, datagram), refused = await probed(commands, code, Reach.of(index.environ))
    assert reached == "HTTP/1.0"
    assert set(elsewhere) <= REFUSED, elsewhere
    assert set(found) == {"gaierror"}
    assert datagram in {"1", "ConnectionRefusedError"}  # sent, to a network in which nobody else is
    assert any("1.1.1.1:443 was refused: packages come from the package index only" in each for each in refused)


async def test_an_index_by_name_is_reached_by_its_port_only(
    commands: Commands, index: PackageIndex, secret: int
) -> None:
    reach = Reach.of({"UV_DEFAULT_INDEX": f"http://localhost:{index.port}/simple"})
    code = f'result = [tried(lambda: talk("localhost", port)) for port in ({index.port}, {secret})]'
    (reached, other), _ = await probed(commands, code, reach)
    assert (reached, other in REFUSED) == ("HTTP/1.0", True)


async def test_without_an_index_there_is_nothing(commands: Commands, index: PackageIndex) -> None:
    result, _ = await probed(commands, f'result = tried(lambda: talk("127.0.0.1", {index.port}))', None)
    assert result == "ConnectionRefusedError"


async def test_it_sees_and_changes_its_own_only(commands: Commands, index: PackageIndex, tmp_path: Path) -> None:
    environments = Environments(tmp_path, commands, index.environ)
    python = await environments.choose("")
    made = await environments.ensure(python, await environments.resolve(python, ["lib"]))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "secret").write_text("secret")
    uv = Uv(commands, tmp_path, index.environ)
    async with uv.workplace() as (other, _), uv.workplace() as (here, own):
        (here / "requirements.in").write_text("lib")
        paths = [tmp_path / "data" / "secret", tmp_path / "envs", other, tmp_path / "wheels", Path("/etc/shadow")]
        targets = [made.path / "lib" / "x", here / "x", tmp_path / "packages" / "x", Path("/usr/x")]
        code = f"""
result = [[tried(lambda: os.stat(path) and os.listdir(path)) for path in {list(map(str, paths))!r}],
          tried(lambda: os.listdir({str(here.parent)!r})),
          [tried(lambda: open(path, "w")) for path in {list(map(str, targets))!r}],
          tried(lambda: pathlib.Path({str(own / "x")!r}).write_text("x")), os.getuid()]
"""
        (seen, listed, written, made_own, uid), _ = await probed(
            commands, code, None, writable=[tmp_path / "packages"], cwd=own
        )
    assert seen[0] == seen[1] == seen[3] == seen[4] == "FileNotFoundError"
    assert made_own == "1"
    assert uid == 1000
    assert written[0] in {"FileNotFoundError", "PermissionError"}
    assert written[3] == "OSError"
    if os.getuid() == 0:  # an ordinary user's sandboxes share a uid
        assert (seen[2], listed) == ("PermissionError", "PermissionError")
        assert written[1:3] == ["PermissionError", "PermissionError"]
        assert (tmp_path / "packages" / "cache").stat().st_uid == commands.packager
    library = next(made.path.rglob("lib.py"))
    assert (library.stat().st_mode & 0o777, library.stat().st_nlink) == (0o444, 2)  # the cache's own file


async def test_a_lock_that_is_a_link_is_not_read(
    commands: Commands, index: PackageIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What uv leaves is opened by us, who may read more."""
    environments = Environments(tmp_path, commands, index.environ)
    python = await environments.choose("")
    real = Uv.run

    async def taken_over(self: Uv, *arguments: str | Path, **options: Any) -> Any:
        done = await real(self, *arguments, **options)
        if "compile" in arguments:
            output = Path(arguments[arguments.index("--output-file") + 1])
            output.unlink()
            output.symlink_to("/etc/passwd")
        return done

    monkeypatch.setattr(Uv, "run", taken_over)
    with pytest.raises(Unavailable, match="uv gave no lock"):
        await environments.resolve(python, ["lib"])


async def test_an_index_that_sends_elsewhere(
    commands: Commands, index: PackageIndex, tmp_path: Path, secret: int
) -> None:
    """For a wheel, which uv fetches, and for a source distribution, which we fetch."""
    digest = index.add_sdist("only-source", "1")
    wheel = json.loads(index.page("lib"))["files"][0]
    for name, row in (
        ("lib", {**wheel, "url": f"http://127.0.0.1:{secret}/lib-1-py3-none-any.whl"}),
        (
            "only-source",
            {
                "filename": "only_source-1.tar.gz",
                "url": f"http://127.0.0.1:{secret}/only_source-1.tar.gz",
                "hashes": {"sha256": digest},
            },
        ),
    ):
        index.pages[name] = json.dumps({"meta": {"api-version": "1.0"}, "name": name, "files": [row]}).encode()
    environments = Environments(tmp_path, commands, index.environ)
    python = await environments.choose("")
    for name in ("lib", "only-source"):
        with pytest.raises((Unavailable, Invalid)) as raised:
            await environments.resolve(python, [name])
        assert isinstance(raised.value, Unavailable), raised.value.message
    assert "RUNMESH_PACKAGE_HOSTS" in raised.value.message
