"""Real servers for tests: a nats-server on a free port, in a directory of its own."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BIN = Path(sys.executable).parent


@contextmanager
def nats_server() -> Iterator[str]:
    """The URL of a nats-server with JetStream; it is gone, with its store, afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="nats-"))
    command: list[str | Path] = [
        BIN / "nats-server",
        "-a",
        "127.0.0.1",
        "-p",
        "-1",
        "-js",
        "-sd",
        directory,
        "--ports_file_dir",
        directory,
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        yield _address(process)
    finally:
        process.terminate()
        process.wait(10)
        if process.stderr:
            process.stderr.close()
        shutil.rmtree(directory, ignore_errors=True)


def _address(process: "subprocess.Popen[str]") -> str:
    """Read from what it prints: `Listening for client connections on 127.0.0.1:PORT`, then `Server is ready`."""
    assert process.stderr is not None
    address = ""
    for line in process.stderr:
        if "Listening for client connections on" in line:
            address = line.rsplit(" ", 1)[1].strip()
        if "Server is ready" in line:
            return f"nats://{address}"
    raise RuntimeError("nats-server ended before it was ready")
