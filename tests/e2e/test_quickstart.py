"""docs/quickstart.md, by a new user: each line of its console blocks is typed into a shell, in an empty folder."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.mesh import ROOT, free_port, until

PAGE = ROOT / "docs" / "quickstart.md"
BIN = Path(sys.executable).parent
DONE = "-- done"


@dataclass
class Step:
    """A line to type, and what it shows; or a file to write."""

    line: str = ""
    shows: list[str] = field(default_factory=list)
    file: str = ""


def steps(page: str) -> Iterator[Step]:
    """In their order."""
    for kind, block in re.findall(r"^```(console|python)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        if kind == "python":
            yield Step(file=block)
            continue
        step: Step | None = None
        for line in block.splitlines():
            if line.startswith("$ "):
                if step:
                    yield step
                step = Step(line[2:])
            else:
                assert step, "a block begins with a line to type"
                step.shows.append(line)
        assert step
        yield step


def pattern(shown: str) -> str:
    """`…` is anything; columns are as wide as what is in them."""
    return r"\s+".join(".*".join(map(re.escape, word.split("…"))) for word in shown.split())


class Shell:
    """bash, as in a terminal: it stays where `cd` led, and keeps what was set."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            ["bash"], cwd=folder, env=environ, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )  # fmt: skip

    def types(self, line: str) -> tuple[list[str], int]:
        """What it shows, and its exit status."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(f"{{ {line}\n}} </dev/null\necho; echo '{DONE}' $?\n")
        self.process.stdin.flush()
        shown: list[str] = []
        for output in iter(self.process.stdout.readline, ""):
            if output.startswith(DONE):
                return [one for one in shown if one.strip()], int(output.split()[-1])
            shown.append(output.rstrip("\n"))
        raise AssertionError("the shell has ended: " + "\n".join(shown))


class Server:
    """`runmesh up`, in a terminal of its own."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.output: list[str] = []
        self.process = subprocess.Popen(
            ["runmesh", "up"], cwd=folder, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout
        self.output.extend(iter(self.process.stdout.readline, ""))

    def shows(self, lines: list[str]) -> None:
        for wanted in lines:
            until(lambda wanted=wanted: self._has(wanted) or self.process.poll() is not None, 120)  # type: ignore[misc]
            assert self._has(wanted), "".join(self.output)

    def _has(self, wanted: str) -> bool:
        return any(re.fullmatch(pattern(wanted), line.strip()) for line in self.output)


@pytest.fixture
def home() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="new-user-", dir="/var/tmp"))  # /tmp is another one inside a sandbox
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def environment(home: Path, port: int) -> dict[str, str]:
    """Of a new user of this machine, who may have told it where packages are got from."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(("UV_", "PIP_", "SSL_")) or name in {"LANG", "TMPDIR"}
    }
    return kept | {
        "PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
        "HOME": str(home),
        "RUNMESH_PORT": str(port),
    }


@pytest.mark.parametrize(
    ("wanted", "line", "fits"),
    [
        ("greet  …  200", "greet run_1 200", True),
        ("greet  …  200", "greet run_1 404", False),
        ("… ago", "3 min ago", True),
        ("a.c", "abc", False),
        ("served", "is served", False),
    ],
)
def test_a_line_fits_what_the_page_shows(wanted: str, line: str, fits: bool) -> None:
    assert bool(re.fullmatch(pattern(wanted), line)) is fits


@pytest.mark.slow
@pytest.mark.timeout(420)
def test_every_line_does_what_the_page_shows(home: Path) -> None:
    port = free_port()
    environ = environment(home, port)
    shell, server, folder = Shell(home, environ), None, home
    typed = 0
    try:
        for step in steps(PAGE.read_text().replace("8080", str(port))):
            if step.file:
                (folder / "greet.py").write_text(step.file)
                continue
            typed += 1
            if step.line == "runmesh up":
                where, _ = shell.types("pwd")
                folder = Path(where[0])
                server = Server(folder, environ)
                server.shows(step.shows)
                continue
            shown, status = shell.types(step.line)
            told = f"$ {step.line}\n" + "\n".join(shown)
            assert status == 0, told
            assert len(shown) == len(step.shows), told
            for line, wanted in zip(shown, step.shows, strict=True):
                assert re.fullmatch(pattern(wanted), line.strip()), f"{told}\nthe page shows: {wanted}"
        assert typed > 20
        assert server
        assert server.process.wait(60) == 0
    finally:
        for process in (server.process if server else None, shell.process):
            if process and process.poll() is None:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(30)
                process.kill()
            for stream in (process.stdin, process.stdout) if process else ():
                if stream:
                    stream.close()
