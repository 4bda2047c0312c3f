"""Runs a workflow's script inside a sandbox and serves one request where the script hands its app to uvicorn.

Standard library only: it is loaded into the user's environment, by the user's interpreter (3.10 and newer), with
shim_check.py, shim_control.py, shim_exchange.py (speaks ASGI), shim_template.py (forks) beside it. It speaks with the
executor in frames of `length (4 bytes, big-endian) type (1 byte) payload`:

control socket (fd 3)   in   S start {script, argv, env, self_check, mode, serves_many, asks; of LIMITS, 0 for none:
                             processes, file_bytes, memory} + [stdout, stderr, what the script is to hold if it isn't
                             there yet]; a base's (mode) {modules, left_open: descriptors to close} instead of script
                             O openapi? · V serve {seed, clock: where it repeats another run} + [request socket,
                             stdout, stderr], again after Z where `serves_many`
                        out  R ready {fork: why it can't be forked, if it `asks`} · P {document, error}
                             X failed {kind, error, traceback, line}
a template's (mode)     in   F fork {slot, directory, filter, warm: is there time for it}
                             + [the slot's control socket, one to the spawner]; a base's {slot, directory, mapped:
                             are its ids, from outside}, and the template goes on with its own S
                        out  W a slot ended {slot, status, error}
request socket (from V) in   H {method, path, raw_path, query, headers, client, server, scheme, metered} · D bytes · E
                             G gone · M as out
                        out  H {status, headers} · D bytes · E · Z {ok, error} · M where it is metered, before Z: about
                             the use of models (model_calls.py)

uvicorn doesn't listen: `Server.serve`, to which all its entry points lead, serves in place and returns, so that what
the script does after it runs too. Nothing here is a boundary: user code may do to it whatever it likes.
"""

from __future__ import annotations

import asyncio
import atexit
import builtins
import json
import logging
import os
import resource
import socket
import sys
import traceback
import types
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import shim_base  # type: ignore[import-not-found]  # it lies beside us in the sandbox, as do the next
import shim_chance  # type: ignore[import-not-found]
import shim_landlock  # type: ignore[import-not-found]
import shim_replay  # type: ignore[import-not-found]
import shim_template  # type: ignore[import-not-found]
import shim_warm  # type: ignore[import-not-found]
from shim_check import no_rights, self_check  # type: ignore[import-not-found]
from shim_control import CONTROL_FD, Control  # type: ignore[import-not-found]
from shim_exchange import Exchange, one_line, openapi_of  # type: ignore[import-not-found]

MAX_TRACEBACK = 8 * 1024
LIMITS = {
    "processes": resource.RLIMIT_NPROC,
    "file_bytes": resource.RLIMIT_FSIZE,
    "memory": resource.RLIMIT_DATA,
}
STARTUP_FAILURE = 3  # uvicorn's own exit status for it
OWN_LOOP = "the script starts an event loop by itself before it serves"


def main() -> None:
    """Runs the script that it is told, and leaves without the interpreter's slow farewell."""
    os.set_inheritable(CONTROL_FD, False)  # a program that the workflow starts has no business with it
    handover.control = Control(socket.socket(fileno=CONTROL_FD))
    order = begin()
    if order.get("mode") in {"template", "base"}:
        handover.is_template = True
        shim_chance.watch_randomness()
        shim_template.watch_forks()
    sys.meta_path.insert(0, Hook(template=handover.is_template))  # a finder by shape
    if order.get("mode") == "base":
        shim_base.serve(handover.control, order["modules"], heard)
        order = begin()
    handover.is_asked = order.get("asks", False)
    handover.serves_many = order.get("serves_many", False)
    leave(run_script(order["script"], order.get("argv", [])))


def begin() -> dict[str, Any]:
    """Waits for the order to start, and takes its place. Ends the process where that is none to run anything in."""
    kind, order, fds = handover.control.receive()
    if kind != b"S":
        os._exit(64)
    for left in order.get("left_open", ()):
        os.close(left)
    refusal = self_check(handover.control.passed) or confine(order) if order.get("self_check", True) else ""
    if refusal:
        handover.fail("refused", refusal)
        os._exit(65)
    take_output(fds[:2])
    for name, limit in LIMITS.items():
        limit_to(order.get(name, 0), limit)
    os.environ.update(order["env"])
    for source in fds[2:]:
        with open(source, "rb") as given, open(order["script"], "wb") as script:  # noqa: PTH123  # a descriptor
            script.write(given.read())
    if order.get("mode") == "base":
        shim_base.stand_apart()
    return order  # type: ignore[no-any-return]


def limit_to(most: int, kind: int) -> None:
    """0: as it stands. What the spawner has set can't be raised."""
    hard = resource.getrlimit(kind)[1]
    if most:
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))


def confine(order: dict[str, Any]) -> str:
    """Landlock, as far as this kernel has it. Why that failed; empty when it didn't."""
    try:
        shim_landlock.confine(template=order.get("mode") in {"template", "base"})
    except OSError as error:
        return str(error)
    return ""


def leave(status: int) -> None:
    """Ends the process as a script's end would, but for threads: nobody waits for those."""
    for step in (atexit._run_exitfuncs, sys.stdout.flush, sys.stderr.flush):  # noqa: SLF001  # there is no public name
        with suppress(BaseException):  # it ends either way
            step()
    os._exit(status)


def take_output(fds: Sequence[int]) -> None:
    """stdout and stderr become these; the given descriptors are used up."""
    sys.stdout.flush()
    sys.stderr.flush()
    for given, standard in zip(fds, (1, 2)):  # noqa: B905  # `strict` came with 3.10
        os.dup2(given, standard)
        os.close(given)


def let_go_of_output() -> None:
    """What is printed between two requests belongs to neither."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    take_output([nowhere, os.dup(nowhere)])


def run_script(script: str, arguments: list[str]) -> int:
    """Runs the file as `python FILE` would; returns the exit status that it would have."""
    module = types.ModuleType("__main__")
    module.__dict__.update(__file__=script, __builtins__=builtins, __cached__=None, __annotations__={})
    sys.modules["__runmesh_shim__"] = sys.modules["__main__"]
    sys.modules["__main__"] = module
    sys.argv = [Path(script).name, *arguments]
    sys.path[0] = str(Path(script).parent)
    try:
        code = compile(Path(script).read_bytes(), script, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        return failed("syntax", error, script, getattr(error, "lineno", 0) or 0)
    try:
        exec(code, module.__dict__)  # noqa: S102  # it is what we are here for
    except SystemExit as left:
        status = left.code if isinstance(left.code, int) else int(left.code is not None)
        if isinstance(left.code, str):
            print(left.code, file=sys.stderr)
        told = f"the script ended with exit status {status} before it handed an app to uvicorn"
        handover.fail("no_app" if heard.last else "exited", heard.last or told)
        return status
    except BaseException as error:  # noqa: BLE001  # whatever a script can raise
        return failed("import", error, script, 0)
    handover.fail("no_app", "the script ended without handing an app to uvicorn (uvicorn.run, Server.run or .serve)")
    return 0


def failed(kind: str, error: BaseException, script: str, line: int) -> int:
    """Prints the traceback, as Python would, without our own frames, and reports it. Returns the exit status."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    step = frames
    while step is not None:
        if step.tb_frame.f_code.co_filename == script:
            line = step.tb_lineno
        step = step.tb_next
    text = "".join(traceback.format_exception(type(error), error, frames))
    sys.stderr.write(text)
    handover.fail(kind, one_line(error), text, line)
    return 1


class Handover:
    """Where the app changes hands: said once, ready or failed."""

    def __init__(self) -> None:
        self.control: Control
        self.taken = False  # some Server.serve has begun
        self.ended = False  # and has served
        self.is_template = False  # and no slot of one
        self.has_time = False  # to warm up: nobody waits for this slot yet
        self.is_asked = False  # whether it could be a template
        self.obstacle = OWN_LOOP
        self.serves_many = False  # one request after the other (isolation: instance)
        self._failed = False

    def fail(self, kind: str, error: str, trace: str = "", line: int = 0) -> None:
        """The script won't serve (unless it has already)."""
        if self.ended or self._failed:
            return
        self._failed = True
        content = {"kind": kind, "error": error[:2000], "traceback": trace[-MAX_TRACEBACK:], "line": line}
        self.control.send(b"X", content)

    def give(self, config: Any) -> socket.socket:
        """Says that the app is there, answers what is asked about it, returns the request's socket."""
        self.control.send(b"R", {"fork": self.obstacle} if self.is_asked else {})
        while True:
            kind, content, fds = self.control.receive()
            if kind == b"O":
                self.control.send(b"P", openapi_of(config.loaded_app))
            elif kind == b"V":
                request = socket.socket(fileno=fds[0])
                take_output(fds[1:])
                if content:
                    shim_replay.begin(content)
                return request

    def be_template(self, config: Any) -> None:
        """Loads the app and waits for forks; returns in each of them."""
        if not config.loaded:
            config.load()
        shim_warm.warm_up(config)

        def answer(kind: bytes) -> None:
            if kind == b"O":
                self.control.send(b"P", openapi_of(config.loaded_app))

        order = shim_template.Template(self.control).serve(lambda content: self.control.send(b"R", content), answer)
        self.has_time = order.get("warm", False)
        self.is_template = False
        refusal = no_rights()
        if refusal:
            self.fail("refused", refusal)
            os._exit(65)

    async def next(self) -> socket.socket:
        """The next request's socket, of a process that serves many; the app's own tasks go on meanwhile."""
        loop, there = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(CONTROL_FD, there.set)
        await there.wait()
        loop.remove_reader(CONTROL_FD)
        os.set_blocking(CONTROL_FD, True)  # uvloop's poll has changed that
        _, _, fds = self.control.receive()  # ends the process when the executor has closed
        take_output(fds[1:])
        return socket.socket(fileno=fds[0])


handover = Handover()


class Hook:
    """Changes some modules when, and only when, the script imports them."""

    def __init__(self, *, template: bool) -> None:
        self._changes: dict[str, Callable[[Any], None]] = {
            "uvicorn.server": change_server,
            "uvicorn.config": change_config,
        }
        if template:
            self._changes["numpy.random.bit_generator"] = shim_chance.watch_numpy

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        """A finder of sys.meta_path: leaves the finding to the others."""
        change = self._changes.get(name)
        if change is None:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader.exec_module = then(spec.loader.exec_module, change)  # type: ignore[method-assign,assignment]
                return spec
        return None


def then(load: Callable[[Any], None], change: Callable[[Any], None]) -> Callable[[Any], None]:
    """Loads a module, then changes it."""

    def exec_module(module: Any) -> None:
        load(module)
        change(module)

    return exec_module


def change_server(module: Any) -> None:
    """All ways of uvicorn lead to Server.serve, most by Server.run, which is where no event loop runs yet."""
    module.Server.serve = serve
    original = module.Server.run

    def run(server: Any, *args: Any, **kwargs: Any) -> Any:
        if handover.is_template and not handover.taken:
            handover.be_template(server.config)
        elif handover.is_asked and not handover.taken:
            handover.obstacle = shim_template.unforkable({CONTROL_FD})  # what came with the order is used up
        return original(server, *args, **kwargs)

    module.Server.run = run


def change_config(module: Any) -> None:
    """One process, which doesn't watch files; and we hear why it gives up."""
    original = module.Config.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.reload = False
        self.workers = 1
        logging.getLogger("uvicorn.error").addHandler(heard)  # `original` has just set up logging

    module.Config.__init__ = init


async def serve(server: Any, sockets: Any = None) -> None:  # noqa: ARG001  # uvicorn's signature; we listen nowhere
    """In the place of uvicorn.Server.serve: one request from the executor, then back to the script."""
    if handover.taken:  # a second server of the same script waits for the first
        while not handover.ended:  # noqa: ASYNC110  # it may live in another loop
            await asyncio.sleep(0.05)
        return
    handover.taken = True
    config = server.config
    if handover.is_template:
        handover.control.send(b"R", {"fork": OWN_LOOP})
        handover.control.receive()
        os._exit(0)
    if not config.loaded:
        config.load()
    if handover.has_time:
        await shim_warm.touch(config.loaded_app, times=1)
    server.lifespan = lifespan = config.lifespan_class(config)
    lifespan.logger = Quiet(logging.getLogger("uvicorn.error"))
    request = handover.give(config)
    await lifespan.startup()
    if lifespan.should_exit:
        handover.fail("lifespan", heard.last or "the app's startup failed", heard.text)
        raise SystemExit(STARTUP_FAILURE)
    server.started = True
    logging.getLogger("uvicorn.error").removeHandler(heard)
    while handover.serves_many:
        await answer_one(config, lifespan, request)
        request = await handover.next()
    await answer_one(config, lifespan, request, last=True)


async def answer_one(config: Any, lifespan: Any, request: socket.socket, *, last: bool = False) -> None:
    """One request; after the last one the app is shut down before the executor hears of the end."""
    exchange = Exchange(config, lifespan, request)
    error = await exchange.run()
    if last:
        await lifespan.shutdown()
        handover.ended = True
    else:
        let_go_of_output()
    await exchange.frame(b"Z", json.dumps({"ok": not error, "error": error}).encode())
    exchange.close()


class Heard(logging.Handler):
    """What uvicorn says about a failure, for our report."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = (self.text + record.getMessage() + "\n")[-MAX_TRACEBACK:]
        loggers = logging.getLogger("uvicorn.error"), logging.getLogger("uvicorn"), logging.root
        if logging.lastResort and not any(set(logger.handlers) - {self} for logger in loggers):
            logging.lastResort.handle(record)  # nobody else prints it, and without us it would have been printed

    @property
    def last(self) -> str:
        """The last line that tells a cause."""
        lines = [line for line in self.text.splitlines() if line.strip() and not line.startswith("Application ")]
        return lines[-1].strip() if lines else ""


heard = Heard()


class Quiet:
    """uvicorn's logger without "Waiting for application startup." and its like: a run's log is the workflow's."""

    def __init__(self, logger: logging.Logger) -> None:
        self.error = logger.error

    def info(self, *_: Any, **__: Any) -> None:
        """Says nothing."""


if __name__ == "__main__":
    main()
