"""`runmesh dev`: a script in its sandbox, deployed anew at each save, with its logs.

It is deployed to the mesh under a name of its own, NAME-dev, which nobody else may call, so that it runs just as it
will later: dependencies, limits, secrets, egress. What fails its checks isn't served; the last good version goes on.
"""

import re
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Annotated

import typer

from cli.api import connect, segment
from cli.deploying import File, deployed, report_line, source
from cli.logs import Tail
from cli.problem import Misuse, Problem, Refused, clean
from cli.profiles import Profile
from cli.show import note

if TYPE_CHECKING:
    from cli.client import Api

LOOK_SECONDS = 0.3
_LONGEST = 96  # and `-dev`


def dev(
    file: File,
    *,
    name: Annotated[str | None, typer.Option(help="Deploy as NAME-dev; else by the file's name.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Serve it on 127.0.0.1 without a key, too; 0 takes a free one.")
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave NAME-dev there at the end.")] = False,
    profile: Profile = None,
) -> None:
    """Run a workflow while you write it: sandboxed, deployed anew at each save, its logs here. Ctrl-C ends it.

    It needs a mesh: `runmesh up` starts one here. Exits 4 if there is none.
    """
    service_id = dev_name(name or file.stem)
    source(file)  # before anything is done
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # it cleans up then, too
    with ExitStack() as ending:
        api = ending.enter_context(connect(profile))
        if not keep and not _exists(api, service_id):
            ending.callback(_remove, api, service_id)
        stop = Event()
        ending.callback(stop.set)
        tail = Thread(target=_tail, args=(Tail(api, service_id), stop), daemon=True)
        tail.start()
        if port is not None:
            from cli.relay import relaying  # noqa: PLC0415  # takes a while

            url = ending.enter_context(relaying(api.server, service_id, port))
            note(f"{url} serves it, without a key, on this machine only")
        _deploy_at_each_save(api, file, service_id)


def dev_name(name: str) -> str:
    """`greet-dev`."""
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:_LONGEST]
    if not slug:
        raise Misuse(f"{name!r} can't be a workflow's name; give one with --name")
    return f"{slug}-dev"


def _deploy_at_each_save(api: "Api", file: Path, service_id: str) -> None:
    """For ever."""
    before = None
    while True:
        now = _state(file)
        if now is not None and now != before:  # an editor may take it away for a moment
            _deploy(api, file, service_id)
            if before is None:
                note(f"runmesh run {service_id} calls it; {file} is deployed again when it is saved; Ctrl-C ends this")
            before = now
        time.sleep(LOOK_SECONDS)


def _deploy(api: "Api", file: Path, service_id: str) -> None:
    try:
        told = deployed(api, file, source(file), service_id, service_id)
    except Refused as refused:
        if refused.http_status in {401, 403}:
            raise
        _tell(refused)
    except Problem as problem:
        _tell(problem)
    else:
        for check in told["report"]:
            if not check["passed"]:
                note(report_line(file, check))
        print(clean(f"version {told['version']} is served: {told['url']}"), flush=True)


def _tell(problem: Problem) -> None:
    for line in problem.lines():
        note(line)


def _tail(tail: Tail, stop: Event) -> None:
    try:
        tail.forever(stop)
    except Problem as problem:
        note(f"the logs broke off: {problem}")


def _state(file: Path) -> tuple[int, int, int] | None:
    """Something that a save changes; None while there is no such file."""
    try:
        told = file.stat()
    except OSError:
        return None
    return told.st_mtime_ns, told.st_size, told.st_ino


def _exists(api: "Api", service_id: str) -> bool:
    try:
        api.get(f"/workflows/{segment(service_id)}")
    except Refused as refused:
        if refused.http_status == 404:
            return False
        raise
    return True


def _remove(api: "Api", service_id: str) -> None:
    """At the end, however it came. What was never deployed isn't there."""
    try:
        api.ask("DELETE", f"/workflows/{segment(service_id)}")
        note(f"{service_id} is removed; --keep leaves it")
    except Problem as problem:
        if not isinstance(problem, Refused) or problem.http_status != 404:
            note(f"{service_id} is still there: {problem}")
