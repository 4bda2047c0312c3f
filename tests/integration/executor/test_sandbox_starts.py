"""Every way in which a script hands its app over, and every way in which it doesn't."""

import textwrap

import pytest

from executor.driver import BubblewrapDriver
from executor.sandbox import Crashed, Head, StartFailed
from tests.fakes.real_sandboxes import READY_SECONDS, once, started

APP = """
import asyncio, os, sys, uvicorn

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": message["type"] + ".complete"})
            if message["type"] == "lifespan.shutdown":
                print("shut down")
                return
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"bare"})

class MyServer(uvicorn.Server):
    def install_signal_handlers(self):
        pass
"""
WAYS = {
    "run": 'uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", 8000)))',
    "run without logging": "uvicorn.run(app, log_config=None, access_log=False)",
    "server run": "uvicorn.Server(uvicorn.Config(app, port=8000)).run()",
    "server serve": "asyncio.run(uvicorn.Server(uvicorn.Config(app)).serve())",
    "subclass": "MyServer(config=uvicorn.Config(app)).run()",
    "import string": 'uvicorn.run("workflow:app")',
    "import string, reload": 'uvicorn.run("workflow:app", reload=True)',
    "import string, workers": 'uvicorn.run("workflow:app", workers=4)',
    "reload with an object": "uvicorn.run(app, reload=True)",
    "factory": "uvicorn.run(lambda: app, factory=True)",
    "asyncio loop": 'uvicorn.run(app, loop="asyncio")',
    "wsgi": 'uvicorn.run(lambda e, start: (start("200 OK", []), [b"bare"])[1], interface="wsgi")',
    "asgi2": """
        class Old:
            def __init__(self, scope): pass
            async def __call__(self, receive, send):
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"bare"})
        uvicorn.run(Old)
    """,
    "two servers": """
        async def both():
            await asyncio.gather(*(uvicorn.Server(uvicorn.Config(app, port=p)).serve() for p in (8000, 8001)))
        asyncio.run(both())
    """,
    "beside a task": """
        async def both():
            ticking = asyncio.create_task(asyncio.sleep(3600))
            await uvicorn.Server(uvicorn.Config(app)).serve()
            ticking.cancel()
        asyncio.run(both())
    """,
    "command line": 'uvicorn.main(["workflow:app", "--port", "8000"], standalone_mode=False)',
}


def script(end: str) -> str:
    body = textwrap.indent(textwrap.dedent(end).strip(), "    ")
    return f'{APP}\nif __name__ == "__main__":\n{body}\n    print("after")\n'


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.filterwarnings("ignore")
async def test_every_way_to_serve(driver: BubblewrapDriver, way: str) -> None:
    answer, session = await once(driver, script(WAYS[way]))
    assert (answer.status, answer.body, answer.ended) == (200, b"bare", True), session.stderr
    assert answer.finished is not None
    assert answer.finished.error == ""
    assert b"after\n" in session.stdout
    assert session.exit is not None
    assert (session.exit.status, session.exit.signal) == (0, 0)


async def test_the_log_is_the_workflows_own(driver: BubblewrapDriver) -> None:
    _, session = await once(driver, script(WAYS["run"]))
    assert session.stdout == b"shut down\nafter\n"
    assert session.stderr == b""


async def test_a_hostile_file_name_is_no_path(driver: BubblewrapDriver) -> None:
    for name in ("../../etc/x.py", "/etc/x.py", "..", ".hidden", "a\0b", "x" * 300, ""):
        async with started(driver, script("print(__file__)\nuvicorn.run(app)"), file_name=name) as session:
            await session.sandbox.ready(READY_SECONDS)
        assert session.stdout == b"/workflow/workflow.py\n"


async def failure(driver: BubblewrapDriver, source: str, timeout: float = READY_SECONDS) -> tuple[StartFailed, bytes]:
    async with started(driver, source) as session:
        with pytest.raises(StartFailed) as caught:
            await session.sandbox.ready(timeout)
    return caught.value, session.stderr


async def test_a_missing_module(driver: BubblewrapDriver) -> None:
    problem, _ = await failure(driver, "\n\nimport nobody_has_this\n")
    assert (problem.kind, problem.line) == ("import", 3)
    assert problem.detail == "ModuleNotFoundError: No module named 'nobody_has_this'"


@pytest.mark.parametrize("source", ["print('done')", 'if __name__ == "never":\n    pass', ""])
async def test_no_app(driver: BubblewrapDriver, source: str) -> None:
    problem, _ = await failure(driver, source)
    assert problem.kind == "no_app"
    assert "uvicorn" in problem.detail


@pytest.mark.parametrize(
    ("source", "kind", "told"),
    [
        ("import sys; sys.exit('bye')", "exited", "exit status 1"),
        ("import os; os._exit(7)", "exited", "exit status 7"),
        ("import ctypes; ctypes.string_at(0)", "killed", "signal 11 (SIGSEGV)"),
        ("import uvicorn; uvicorn.run('nothing:app')", "no_app", 'Could not import module "nothing"'),
        ("import uvicorn; uvicorn.run('workflow:nothing')", "no_app", '"nothing" not found in module "workflow"'),
        ("import socket\nsocket.socket(fileno=3).sendall(b'\\0\\0\\0\\2R[]')", "exited", "broke the protocol"),
        ("import os\nos.close(3)\nimport time\ntime.sleep(60)", "exited", "closed its connection"),
    ],
)
async def test_scripts_that_go_away(driver: BubblewrapDriver, source: str, kind: str, told: str) -> None:
    problem, _ = await failure(driver, source)
    assert problem.kind == kind
    assert told in problem.detail


async def test_a_startup_that_fails(driver: BubblewrapDriver) -> None:
    source = """
import contextlib, uvicorn
from starlette.applications import Starlette

@contextlib.asynccontextmanager
async def lifespan(app):
    raise ValueError("no database")
    yield

uvicorn.run(Starlette(lifespan=lifespan))
"""
    async with started(driver, source) as session:
        await session.sandbox.ready(READY_SECONDS)
        with pytest.raises(StartFailed) as caught:
            await session.call()
    assert caught.value.kind == "lifespan"
    assert caught.value.detail == "ValueError: no database"
    assert b"ValueError: no database" in session.stderr


async def test_the_startups_state_reaches_the_request(driver: BubblewrapDriver) -> None:
    source = """
import contextlib, uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

@contextlib.asynccontextmanager
async def lifespan(app):
    yield {"greeting": "from the startup"}

async def hello(request):
    return PlainTextResponse(request.state.greeting)

uvicorn.run(Starlette(routes=[Route("/", hello)], lifespan=lifespan))
"""
    answer, _ = await once(driver, source)
    assert answer.body == b"from the startup"


async def test_openapi(driver: BubblewrapDriver) -> None:
    described = "app.openapi = lambda: {'openapi': '3.1.0'}\nuvicorn.run(app)"
    async with started(driver, script(described)) as session:
        await session.sandbox.ready(READY_SECONDS)
        assert await session.sandbox.openapi() == '{"openapi": "3.1.0"}'
        assert (await session.call(Head([]))).body == b"bare"
    async with started(driver, script("uvicorn.run(app)")) as session:
        await session.sandbox.ready(READY_SECONDS)
        assert await session.sandbox.openapi() == ""
    async with started(driver, script("app.openapi = lambda: {}['x']\nuvicorn.run(app)")) as session:
        await session.sandbox.ready(READY_SECONDS)
        with pytest.raises(Crashed, match="KeyError: 'x'"):
            await session.sandbox.openapi()
