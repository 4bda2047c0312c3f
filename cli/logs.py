"""`runmesh logs`: the lines of one run, or of all runs of a workflow."""

import _thread
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from threading import Event, Thread
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from cli.api import connect, segment
from cli.complete import workflow_names
from cli.hints import named
from cli.problem import UNREACHABLE, Misuse, Problem, Refused, clean
from cli.profiles import Profile
from cli.show import note

if TYPE_CHECKING:
    from cli.client import Api

# The server sends an empty line every 10 s.
_SILENCE_SECONDS = 45.0
_AGAIN_SECONDS = (0.5, 1, 2, 4, 8)
_LOOK_SECONDS = 0.5
_COLOURS = {"error": "red", "critical": "red", "warning": "yellow", "debug": "bright_black"}


def logs(
    target: Annotated[
        str, typer.Argument(metavar="ID|NAME", help="A request id, or a workflow.", autocompletion=workflow_names)
    ],
    *,
    live: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the run has ended.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the lines as they come: a JSON object each.")] = False,
    profile: Profile = None,
) -> None:
    """Print the log of a run. By the name of a workflow: that of its newest run, with -f those of all its runs from now
    on, until Ctrl-C.
    """
    with connect(profile) as api, named(api, target):
        if target.startswith("run_"):
            follow(api, target, as_json=as_json, live=live)
        elif live:
            tail = Tail(api, target, as_json=as_json)
            _refuse_unknown(api, target)
            note(f"waiting for runs of {target}; Ctrl-C ends it")
            tail.forever()
        else:
            newest = api.get("/requests", service_id=target, limit=1)["items"]
            if not newest:
                _refuse_unknown(api, target)
                raise Misuse(f"{target} has no runs yet")
            follow(api, newest[0]["id"], as_json=as_json, live=False)


def _refuse_unknown(api: "Api", service_id: str) -> None:
    """Errors: Refused where there is no such workflow; a key that may only run isn't told."""
    try:
        api.get(f"/workflows/{segment(service_id)}")
    except Refused as refused:
        if refused.http_status == 404:
            raise


def follow(
    api: "Api",
    request_id: str,
    *,
    as_json: bool = False,
    live: bool = True,
    out: TextIO | None = None,
    prefix: str = "",
) -> None:
    """Prints a run's lines: to its end, or without `live` those that there are. Errors: Refused, Problem."""
    for line in lines(api, request_id, live=live):
        print(json.dumps(line, ensure_ascii=False) if as_json else prefix + pretty(line), file=out, flush=True)


def lines(api: "Api", request_id: str, *, live: bool = True) -> Iterator[dict[str, Any]]:
    """A run's lines; a connection that breaks is made again where it broke. Errors: Refused, Problem."""
    path = f"/logs/{segment(request_id)}"
    after, waits = "", iter(_AGAIN_SECONDS)
    while True:
        try:
            for line in _connection(api, path, after, live=live):
                after, waits = line.get("createdAt", after), iter(_AGAIN_SECONDS)
                yield line
            return
        except Refused:
            raise
        except Problem:
            pause = next(waits, None)
            if pause is None:
                raise
            time.sleep(pause)


def _connection(api: "Api", path: str, after: str, *, live: bool) -> Iterator[dict[str, Any]]:
    """One answer's lines."""
    params = ({"after": after} if after else {}) | ({} if live else {"follow": "false"})
    headers = {"Accept": "application/x-ndjson"}
    with api.stream("GET", path, headers=headers, params=params, silence=_SILENCE_SECONDS) as answer:
        if answer.status_code != 200:
            answer.read()
            api.check(answer)
        for text in answer.iter_lines():
            if text.strip():
                try:
                    yield json.loads(text)
                except ValueError:
                    raise Problem("the log isn't what a Runmesh sends", UNREACHABLE) from None


def pretty(line: dict[str, Any]) -> str:
    """`12:00:01.123 message name=value`, in colour on a terminal."""
    time_of_day = datetime.fromisoformat(line["createdAt"]).astimezone().strftime("%H:%M:%S.%f")[:-3]
    told = [str(line.get("message", ""))]
    told += [f"{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in line["data"].items()]
    text = clean(" ".join(told))
    if line["stream"] == "system":
        text = f"[runmesh] {text}"
    level = str(line.get("level", ""))
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR"):
        return f"{time_of_day} {'' if level in {'info', ''} else clean(level.upper()) + ' '}{text}"
    colour = "cyan" if line["stream"] == "system" else _COLOURS.get(level.lower())
    return f"{typer.style(time_of_day, dim=True)} {typer.style(text, fg=colour) if colour else text}"


class Tail:
    """Prints the lines of all runs of a workflow that begin from now on."""

    def __init__(self, api: "Api", service_id: str, *, as_json: bool = False) -> None:
        self._api = api
        self._service_id = service_id
        self._as_json = as_json
        self._known = {item["id"] for item in self._newest()}

    def forever(self, stop: Event | None = None) -> None:
        """Until Ctrl-C, or `stop`. Errors: Refused when the key or the workflow has gone."""
        stop = stop or Event()
        while not stop.wait(_LOOK_SECONDS):
            try:
                self.look()
            except Refused:
                raise
            except Problem as problem:  # it may be back soon
                note(f"{problem}; trying again")
                stop.wait(2)

    def look(self) -> None:
        """Follows what has begun since the last look, each in a thread of its own."""
        for item in reversed(self._newest()):
            if item["id"] not in self._known:
                self._known.add(item["id"])
                Thread(target=self._follow, args=(item["id"],), daemon=True).start()

    def _newest(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self._api.get("/requests", service_id=self._service_id, limit=100)["items"]
        return items

    def _follow(self, request_id: str) -> None:
        prefix = "" if self._as_json else f"{request_id[-6:]} "
        _told(lambda: follow(self._api, request_id, as_json=self._as_json, prefix=prefix))


def _told(work: Callable[[], None]) -> None:
    try:
        work()
    except Problem as problem:
        note(str(problem))
    except BrokenPipeError:  # nobody reads on
        _thread.interrupt_main()
