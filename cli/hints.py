"""What to type next, below what a server says: it knows its API, not this command line."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from difflib import get_close_matches
from typing import TYPE_CHECKING

from cli.problem import Problem, Refused

if TYPE_CHECKING:
    from cli.client import Api

_LACKING = re.compile(r"(?:no secret is set for|secrets that don't exist:) ([A-Za-z_]\w*(?:, [A-Za-z_]\w*)*)")


_LISTED = {
    "no such key": "runmesh keys ls lists their ids",
    "no such request": "runmesh runs ls lists the newest",
    "no such schedule": "runmesh schedules ls lists yours",
    "no such secret": "runmesh secrets ls lists yours",
}


def next_steps(told: str) -> tuple[str, ...]:
    """For an error of the platform's."""
    where = next((step for beginning, step in _LISTED.items() if told.startswith(beginning)), "")
    return (where,) if where else secrets_to_set(told)


def of_paths(status: int, target: str) -> str:
    """For a workflow's own 404 or 405: it may serve other paths, or other methods, than were asked for."""
    name = re.split("[@/]", target, maxsplit=1)[0]
    if status == 404:
        return f"its paths: runmesh workflows show {name}"
    return f"this was a POST; others: runmesh call GET /run/{target}" if status == 405 else ""


def secrets_to_set(told: str) -> tuple[str, ...]:
    """A command for each secret that an answer misses."""
    lacking = _LACKING.search(told)
    return tuple(f"runmesh secrets set {name}" for name in lacking[1].split(", ")) if lacking else ()


@contextmanager
def named(api: "Api", target: str) -> Iterator[None]:
    """Where the block's workflow, `NAME[@VERSION][/PATH]`, isn't there, the error names one that is called alike."""
    try:
        yield
    except Refused as refused:
        if refused.http_status == 404 and str(refused).startswith("no such workflow"):
            close = alike(api, re.split("[@/]", target, maxsplit=1)[0])
            refused.notes += (f"did you mean {close}?",) if close else ("runmesh workflows ls lists yours",)
        raise


def alike(api: "Api", name: str) -> str:
    """The organization's workflow with the name that is most alike; empty where none is, or the key may not look."""
    with suppress(Problem):
        names = [item["service_id"] for item in api.get("/workflows", limit=1000)["items"]]
        return next(iter(get_close_matches(name, names, 1)), "")
    return ""
