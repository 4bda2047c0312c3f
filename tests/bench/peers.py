"""What one would pick instead, on the same work: a new process in bubblewrap for each call, gVisor where it is, and a
queue that forks for each job.
"""

import json
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from tests.bench.rig import BIN, bench_environment, free_port

HERE = Path(__file__).parent / "apps"
BODY = json.dumps({"name": "Ada"}).encode()
BWRAP = (
    "bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--size", "67108864", "--tmpfs", "/run",
    "--unshare-all", "--die-with-parent",
)  # fmt: skip
RUNSC = ("runsc", "--network=none", "--ignore-cgroups", "do")


async def peers(calls: int) -> None:
    """Prints a table; a peer that isn't installed is named."""
    print("\n| instead | calls | p50 ms | calls/s |\n|---|---|---|---|", flush=True)
    python = str(await bench_environment() / "bin" / "python")
    for name, prefix in (
        ("a new process", ()),
        ("bubblewrap, a new process", BWRAP),
        ("gVisor (runsc), a new process", RUNSC),
    ):
        if prefix and shutil.which(prefix[0]) is None:
            print(f"| {name}: {prefix[0]} isn't installed | | | |", flush=True)
            continue
        row(name, [once([*prefix, python, str(HERE / "once.py")]) for _ in range(max(calls // 50, 10))])
    if shutil.which("redis-server") is None:
        print("| rq: redis-server isn't installed | | | |", flush=True)
    else:
        row("rq: a worker that forks for each job", await of_rq(python, calls))


def row(name: str, taken: list[float]) -> None:
    median = statistics.median(taken)
    print(f"| {name} | {len(taken)} | {median:.1f} | {1000 / median:.0f} |", flush=True)


def once(argv: list[str]) -> float:
    """ms of one call, from its start to its end."""
    started = time.monotonic()
    done = subprocess.run(argv, input=BODY, capture_output=True, check=False, timeout=120)  # our own
    if b"Hello Ada!" not in done.stdout:
        raise RuntimeError(f"{argv[0]}: {done.stderr.decode()[-2000:]}")
    return (time.monotonic() - started) * 1000


async def of_rq(python: str, calls: int) -> list[float]:
    """ms from enqueueing a job to its result, one after the other; its worker has the app imported, and forks."""
    install = [str(BIN / "uv"), "pip", "install", "--quiet", "--python", python, "rq>=2,<3"]
    subprocess.run(install, check=True, timeout=300)  # noqa: ASYNC221  # nothing else goes on
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        redis = subprocess.Popen(  # noqa: ASYNC220
            ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", directory],
            stdout=subprocess.DEVNULL,
        )
        worker = subprocess.Popen(  # noqa: ASYNC220
            [python, str(HERE / "rq_worker.py"), str(port)],
            cwd=HERE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            client = [python, str(HERE / "rq_client.py"), str(port), str(calls)]
            done = subprocess.run(client, capture_output=True, check=True, timeout=600, cwd=HERE)  # noqa: ASYNC221
            taken: list[float] = json.loads(done.stdout)
            return taken
        finally:
            for process in (worker, redis):
                process.terminate()
                process.wait()
