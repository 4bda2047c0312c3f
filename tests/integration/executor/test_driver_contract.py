"""What every driver promises a workflow and the executor: bubblewrap, gvisor, none. What each adds is tested beside.

The port's own rules (closing twice, who owns the pipes) are in tests/contract/test_sandbox.py, for the fake as well.
"""

import asyncio
import hashlib
import json
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from executor import seen
from executor.driver import BubblewrapDriver, open_driver
from executor.gvisor import find_runsc
from executor.gvisor_driver import GvisorDriver, open_gvisor
from executor.none_driver import NoneDriver, open_none
from executor.sandbox import AnswerEnd, Crashed, Exit, Finished, Head, StartFailed
from tests.fakes.real_sandboxes import PUBLIC_URL, READY_SECONDS, chunks, once, started, until

AnyDriver = BubblewrapDriver | NoneDriver
DRIVERS: dict[str, Callable[[Path], AbstractAsyncContextManager[AnyDriver]]] = {
    "bubblewrap": lambda home: open_driver(home, PUBLIC_URL),
    "gvisor": lambda home: open_gvisor(home, PUBLIC_URL),
    "none": open_none,
}
APP = """
import asyncio, json, os, sys, time, uvicorn

async def start(send, status=200, headers=()):
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})

async def body(send, data=b"", more=False):
    await send({"type": "http.response.body", "body": data, "more_body": more})

async def read(receive):
    more = True
    while more:
        message = await receive()
        more = message["more_body"]
        yield message["body"]

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                print("shut down")
                return
"""


def script(handler: str, before: str = "") -> str:
    """An app that does this with a request; it prints `after` at its very end."""
    lines = textwrap.indent(textwrap.dedent(handler).strip(), "    ")
    return f"{before}\n{APP}{lines}\n\nuvicorn.run(app)\nprint('after')\n"


# tests/contract/test_sandbox.py holds all drivers to what they share; this is more of it.
@pytest.fixture(
    params=[pytest.param(name, marks=pytest.mark.slow) if name != "bubblewrap" else name for name in DRIVERS]
)
async def driver(request: pytest.FixtureRequest, sandbox_home: Path) -> AsyncIterator[AnyDriver]:
    if request.param == "gvisor" and find_runsc() is None:
        pytest.skip("gVisor (runsc) isn't installed on this machine")
    async with DRIVERS[request.param](sandbox_home) as opened:
        yield opened
        # Nothing of a sandbox that was closed is left, neither processes nor (see `sandbox_home`) directories.
        await until(lambda: not seen.descendants(opened.spawner.pid))


async def failure(driver: AnyDriver, source: str, timeout: float = READY_SECONDS) -> tuple[StartFailed, bytes]:
    async with started(driver, source) as session:
        with pytest.raises(StartFailed) as caught:
            await session.sandbox.ready(timeout)
    return caught.value, session.stderr


async def test_a_request_and_its_answer(driver: AnyDriver) -> None:
    handler = """
    names = ("method", "path", "raw_path", "query_string", "headers", "http_version")
    told = {name: repr(scope[name]) for name in names}
    await start(send, 201, [(b"x-tag", b"\\xe9")])
    await body(send, json.dumps(told).encode())
    """
    head = Head([(b"x", b"1"), (b"x", b"\xe9")], method="PATCH", path="/a%20b/%C3%A9", query="x=%20&y")
    answer, session = await once(driver, script(handler), head)
    assert answer.head == Head([(b"x-tag", b"\xe9")], status=201)
    assert json.loads(answer.body) == {
        "method": "'PATCH'",
        "path": "'/a b/é'",
        "raw_path": r"b'/a%20b/%C3%A9'",
        "query_string": "b'x=%20&y'",
        "headers": r"[(b'x', b'1'), (b'x', b'\xe9')]",
        "http_version": "'1.1'",
    }
    assert (answer.ended, answer.finished, session.exit) == (True, Finished(), Exit())
    assert (session.stdout, session.stderr) == (b"shut down\nafter\n", b"")


async def test_the_script_finds_itself_as_if_run_by_hand(driver: AnyDriver) -> None:
    before = """
import json, os, sys, tempfile
print(json.dumps({
    "file": __file__, "name": __name__, "argv": sys.argv, "path": sys.path[0], "cwd": os.getcwd(),
    "env": dict(os.environ), "prefix": sys.prefix, "stdin": sys.stdin.read(), "uids": [os.getuid(), os.getgid()],
    "groups": os.getgroups(),
}))
with open("beside", "w") as file, tempfile.NamedTemporaryFile() as temporary:
    file.write("x")
    temporary.write(b"x")
    open(os.devnull, "w").write("x")
    assert os.stat("beside").st_uid == os.stat(temporary.name).st_uid == os.getuid()
"""
    env = {"TOKEN": "s3cret", "ODD": "a\nb=c é", "LANG": "C"}
    async with started(driver, script("await start(send)", before), env=env, file_name="my flow.py") as session:
        await session.sandbox.ready(READY_SECONDS)
    assert session.stderr == b""
    told = json.loads(session.stdout)
    work = Path(told["cwd"])
    assert (told["file"], told["path"]) == (str(work / "my flow.py"), str(work))
    assert (told["name"], told["argv"], told["stdin"]) == ("__main__", ["my flow.py"], "")
    assert told["prefix"] == sys.prefix
    assert {name: told["env"].pop(name) for name in env} == env
    assert told["env"].pop("PATH").startswith(f"{sys.prefix}/bin:")
    assert told["env"].pop("VIRTUAL_ENV") == sys.prefix
    allowed = {"HOME", "TMPDIR", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "PWD"}  # and nothing of the host's
    assert set(told["env"]) <= allowed
    if not isinstance(driver, NoneDriver):
        assert (str(work), told["uids"], told["groups"]) == ("/workflow", [1000, 1000], [])


async def test_what_it_prints_comes_at_once_and_apart(driver: AnyDriver) -> None:
    handler = """
    await start(send)
    print("out")
    print("err", file=sys.stderr)
    await body(send, b".", more=True)
    os._exit(3)
    """
    async with started(driver, script(handler, "import os\nos.write(1, b'imported\\n')")) as session:
        await session.sandbox.ready(READY_SECONDS)
        with pytest.raises(Crashed, match="ended with exit status 3"):
            await session.call()
    assert (session.stdout, session.stderr) == (b"imported\nout\n", b"err\n")


async def test_output_without_end_waits_for_its_reader(driver: AnyDriver) -> None:
    """The pipe is all that is buffered; closing doesn't wait for what nobody reads."""
    async with started(driver, script("await start(send)", "while True: print('x' * 1000)")) as session:
        seconds = 15 if isinstance(driver, GvisorDriver) else 1  # until it prints
        with pytest.raises(StartFailed, match=f"within {seconds} seconds"):
            await session.sandbox.ready(seconds)
    assert 0 < len(session.stdout) <= 1 << 20
    assert session.exit == Exit(signal=9)


async def test_streams_both_ways(driver: AnyDriver) -> None:
    handler = """
    await start(send)
    async for piece in read(receive):
        await body(send, piece.upper(), more=True)
    await body(send)
    """
    asked: asyncio.Queue[bytes] = asyncio.Queue()

    async def slowly() -> AsyncIterator[bytes]:
        while piece := await asked.get():
            yield piece

    async with started(driver, script(handler)) as session:
        await session.sandbox.ready(READY_SECONDS)
        events = aiter(session.sandbox.serve(Head([], method="POST"), slowly()))
        assert isinstance(await anext(events), Head)
        for word in (b"one", b"two"):
            await asked.put(word)
            assert await anext(events) == word.upper()
        await asked.put(b"")
        assert [event async for event in events] == [AnswerEnd(), Finished()]


async def test_large_bodies_both_ways_at_once(driver: AnyDriver) -> None:
    handler = """
    await start(send)
    async for piece in read(receive):
        await body(send, piece, more=True)
    await body(send, b"z" * 8_000_000)
    """
    parts = [bytes([number]) * 1_000_000 for number in range(8)]
    answer, _ = await once(driver, script(handler), Head([], method="POST"), *parts)
    expected = b"".join(parts) + b"z" * 8_000_000
    assert hashlib.sha256(answer.body).digest() == hashlib.sha256(expected).digest()
    assert answer.finished == Finished()


async def test_a_body_that_nobody_reads(driver: AnyDriver) -> None:
    handler = "await start(send)\nawait body(send, b'ok')"
    answer, session = await once(driver, script(handler), Head([], method="POST"), *[b"x" * 1_000_000] * 20)
    assert (answer.body, answer.ended) == (b"ok", True)
    assert session.stdout == b"shut down\nafter\n"


@pytest.mark.parametrize(
    ("source", "kind", "line", "told"),
    [
        ("x = 1\ndef broken(:\n", "syntax", 2, "SyntaxError"),
        ("import os\ndef f():\n    return {}['missing']\n\nf()\n", "import", 3, "KeyError: 'missing'"),
        ("print('done')", "no_app", 0, "without handing an app"),
        ("import sys; sys.exit(4)", "exited", 0, "exit status 4"),
        ("import os; os.kill(os.getpid(), 9)", "killed", 0, "signal 9 (SIGKILL)"),
        ("import os\nos.write(3, b'\\xff' * 5)\nimport time\ntime.sleep(60)", "exited", 0, "broke the protocol"),
    ],
    ids=["syntax", "import", "no app", "exit", "killed", "lies"],
)
async def test_a_script_that_never_serves(driver: AnyDriver, source: str, kind: str, line: int, told: str) -> None:
    problem, printed = await failure(driver, source)
    assert (problem.kind, problem.line) == (kind, line)
    assert told in problem.detail
    assert problem.traceback.encode() == (printed if kind in {"syntax", "import"} else b"")


async def test_a_script_that_hangs(driver: AnyDriver) -> None:
    before = time.monotonic()
    problem, _ = await failure(driver, "import time\ntime.sleep(600)", timeout=1.0)
    assert (problem.kind, "within 1 seconds" in problem.detail) == ("timeout", True)
    assert time.monotonic() - before < READY_SECONDS


LIFESPAN = """
import uvicorn
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            if message["type"] == "lifespan.%s":
                await send({"type": message["type"] + ".failed", "message": "no database"})
                return
            await send({"type": message["type"] + ".complete"})
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})
uvicorn.run(app, lifespan="on")
"""


async def test_a_startup_that_fails(driver: AnyDriver) -> None:
    async with started(driver, LIFESPAN % "startup") as session:
        await session.sandbox.ready(READY_SECONDS)
        with pytest.raises(StartFailed) as caught:
            await session.call()
    assert (caught.value.kind, caught.value.detail) == ("lifespan", "no database")
    assert b"no database" in session.stderr


async def test_a_shutdown_that_fails_spoils_no_answer(driver: AnyDriver) -> None:
    answer, session = await once(driver, LIFESPAN % "shutdown")
    assert (answer.body, answer.ended, answer.finished) == (b"ok", True, Finished())
    assert b"no database" in session.stderr


async def test_an_exception_before_the_answer_is_a_500(driver: AnyDriver) -> None:
    answer, session = await once(driver, script("raise ValueError('a bug')"))
    assert (answer.status, answer.body, answer.ended) == (500, b"Internal Server Error", True)
    assert answer.finished == Finished("ValueError: a bug")
    assert b"ValueError: a bug" in session.stderr
    assert session.stdout == b"shut down\nafter\n"


async def test_a_process_that_dies_while_serving(driver: AnyDriver) -> None:
    async with started(driver, script("await start(send)\nprint('last words')\nos.abort()")) as session:
        await session.sandbox.ready(READY_SECONDS)
        with pytest.raises(Crashed, match=r"signal 6 \(SIGABRT\)"):
            await session.call()
    assert session.stdout == b"last words\n"


async def test_an_answer_that_is_no_protocol(driver: AnyDriver) -> None:
    handler = """
    import gc
    (sock,) = [one._sock for one in gc.get_objects() if type(one).__name__ == "Exchange"]
    sock.setblocking(True)
    sock.sendall(b"\\x00\\x04\\x00\\x01D" + b"x" * 262145)  # a frame that is too long by one byte
    await asyncio.sleep(60)
    """
    async with started(driver, script(handler)) as session:
        await session.sandbox.ready(READY_SECONDS)
        with pytest.raises(Crashed, match="broke the protocol"):
            await session.call()


async def test_a_caller_who_hangs_up_is_told_to_the_app(driver: AnyDriver) -> None:
    handler = """
    print("heard", (await receive())["type"])
    await start(send)
    await body(send, b"first", more=True)
    print("heard", (await receive())["type"])
    await body(send, b"into the void", more=True)
    """
    async with started(driver, script(handler)) as session:
        await session.sandbox.ready(READY_SECONDS)
        events = aiter(session.sandbox.serve(Head([], method="POST"), chunks()))
        await anext(events)
        assert await anext(events) == b"first"
        await session.sandbox.caller_gone()
        assert await anext(events) == Finished()
    assert session.stdout == b"heard http.request\nheard http.disconnect\nshut down\nafter\n"


async def test_closing_kills_it_with_its_children(driver: AnyDriver, sandbox_home: Path) -> None:
    handler = """
    import subprocess
    subprocess.Popen(["sleep", "600"])
    await start(send)
    await body(send, b"up", more=True)
    time.sleep(600)
    """
    async with started(driver, script(handler)) as session:
        await session.sandbox.ready(READY_SECONDS)
        events = aiter(session.sandbox.serve(Head([], method="POST"), chunks()))
        await anext(events)
        assert await anext(events) == b"up"
        assert seen.descendants(driver.spawner.pid)
        before = time.monotonic()
        first, second = await asyncio.gather(session.sandbox.close(), session.sandbox.close())
        assert time.monotonic() - before < 5
        assert first == second == Exit(signal=9)
        await until(lambda: not seen.descendants(driver.spawner.pid))
        await until(lambda: not list((sandbox_home / "runs").iterdir()))
        with pytest.raises(Crashed):
            await anext(events)


async def test_a_closing_before_it_is_up(driver: AnyDriver) -> None:
    async with started(driver, script("await start(send)")) as session:
        assert await session.end() == Exit(signal=9)


async def test_many_at_once(driver: AnyDriver) -> None:
    handler = "await start(send)\nawait body(send, (os.environ['WHO'] + ' ' + open('mine').read()).encode())"
    before = "import os\nassert not os.path.exists('mine')\nopen('mine', 'w').write(os.environ['WHO'])"

    async def one(number: int) -> list[str]:
        async with started(driver, script(handler, before), env={"WHO": str(number)}) as session:
            await session.sandbox.ready(READY_SECONDS)
            return (await session.call()).body.decode().split()

    assert await asyncio.gather(*map(one, range(5))) == [[str(number)] * 2 for number in range(5)]
