"""`runmesh trace`: a run, what it called, how long each took and what it cost."""

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.api import connect, segment
from cli.problem import clean
from cli.profiles import Profile
from cli.show import AsJson, credit, lasted, note, show_json, status_of

if TYPE_CHECKING:
    from rich.tree import Tree

    from cli.client import Api

Calls = dict[str, list[dict[str, Any]]]  # by the run that made them
# A trace that a caller began may have any number of runs.
MOST = 20_000


def trace(
    request_id: Annotated[str, typer.Argument(metavar="ID", help="The request id of any run of the trace.")],
    *,
    as_json: AsJson = False,
    profile: Profile = None,
) -> None:
    """Show the trace of a run: the run that began it, and all that was called below, with times and costs.

    The spans themselves go to an OpenTelemetry backend where the mesh was started with OTEL_EXPORTER_OTLP_ENDPOINT.
    """
    with connect(profile) as api:
        root, complete = root_of(api, request_id)
        runs, whole = below(api, root)
    calls: Calls = {}
    for run in runs:
        calls.setdefault(run["parentId"], []).append(run)
    if as_json:
        show_json({"traceId": root["traceId"], "root": nested(root, calls), "complete": complete and whole})
        return
    print(f"trace {root['traceId']}")
    _print(root, calls, request_id)
    if not complete:
        note("the run that began it isn't visible to this key")
    if not whole:
        note(f"there are more: only its newest {MOST:,} runs are shown")
    note("spans: where `runmesh up` has OTEL_EXPORTER_OTLP_ENDPOINT, look for this trace id in that backend")


def root_of(api: "Api", request_id: str) -> tuple[dict[str, Any], bool]:
    """The highest run above one that the key may see, and whether nothing is above that."""
    from cli.problem import Refused  # noqa: PLC0415

    run: dict[str, Any] = api.get(f"/request/{segment(request_id)}")
    while run["parentId"]:
        try:
            run = api.get(f"/request/{segment(run['parentId'])}")
        except Refused:
            return run, False
    return run, True


def below(api: "Api", root: dict[str, Any]) -> tuple[list[dict[str, Any]], bool]:
    """The other runs of the same trace, the oldest first, and whether these are all."""
    found, following = api.pages("/requests", MOST, trace_id=root["traceId"])
    return [run for run in reversed(found) if run["id"] != root["id"]], not following


def nested(run: dict[str, Any], calls: Calls) -> dict[str, Any]:
    """A run's record with those that it called in `calls`."""
    shown = {name: value for name, value in run.items() if name not in {"responseContent", "responseJson"}}
    return shown | {"calls": [nested(each, calls) for each in calls.get(run["id"], [])]}


def _print(root: dict[str, Any], calls: Calls, asked: str) -> None:
    from rich.console import Console  # noqa: PLC0415  # takes a while
    from rich.tree import Tree  # noqa: PLC0415

    def grow(tree: "Tree", run: dict[str, Any]) -> None:
        for each in calls.get(run["id"], []):
            grow(tree.add(_line(each, root, asked)), each)

    tree = Tree(_line(root, root, asked))
    grow(tree, root)
    Console(width=10_000, highlight=False, markup=False, emoji=False).print(tree)


def _line(run: dict[str, Any], root: dict[str, Any], asked: str) -> str:
    """Name, id, status, when after the root it was asked for, how long it took, what it cost itself."""
    later = datetime.fromisoformat(run["createdAt"]) - datetime.fromisoformat(root["createdAt"])
    parts = [run["serviceId"], run["id"], status_of(run), f"+{later.total_seconds():.3f} s", lasted(run)]
    parts.append(f"{credit(run['cost']['own'])} credits")
    return clean("  ".join(part for part in parts if part) + ("  ←" if run["id"] == asked and run is not root else ""))
