"""`runmesh workflows`: what is deployed, which version is served, who may call it."""

import json
import re
from typing import Annotated, Any

import typer

from cli.api import connect, segment
from cli.complete import Workflow
from cli.problem import Misuse
from cli.profiles import Profile
from cli.show import After, AsJson, Limit, Yes, ago, listing, pairs, show_json, sure

_UNITS = {
    "_bytes": {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30},
    "_ms": {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000},
}
app = typer.Typer(
    help="Workflows: list, look at, publish, roll back, share out, change and remove.", no_args_is_help=True
)


@app.command("ls")
def ls(
    *,
    visibility: Annotated[
        str | None, typer.Option(help="public or template: everybody's, the library's too. private: one's own.")
    ] = None,
    limit: Limit = 100,
    after: After = None,
    as_json: AsJson = False,
    profile: Profile = None,
) -> None:
    """List the organization's workflows."""
    with connect(profile) as api:
        items, following = api.pages("/workflows", limit, visibility=visibility, after=after)
    columns = {
        "ID": lambda each: each["service_id"],
        "NAME": lambda each: each["name"],
        "KIND": lambda each: each["kind"],
        "VERSION": lambda each: each["version"],
        "VISIBILITY": lambda each: each["visibility"],
        "URL": lambda each: each["url"],
    }
    listing(items, following, columns, as_json=as_json, nothing="no workflows; `runmesh init` writes a first one")


@app.command("show")
def show(name: Workflow, *, as_json: AsJson = False, profile: Profile = None) -> None:
    """Show a workflow: what is served, its limits, its paths. With --json its whole OpenAPI schema, too."""
    with connect(profile) as api:
        told = api.get(f"/workflows/{segment(name)}")
    if as_json:
        show_json(told)
        return
    limits = {limit: value for limit, value in told.pop("limits").items() if value}
    schema = told.pop("schema") or {}
    told["traffic"] = _shares(told["traffic"])
    pairs(told | {"limits": limits, "paths": ", ".join(_paths(schema))})


@app.command("versions")
def versions(
    name: Workflow, *, limit: Limit = 20, after: After = None, as_json: AsJson = False, profile: Profile = None
) -> None:
    """List the versions of a workflow, the newest first, and their shares of the calls."""
    with connect(profile) as api:
        items, following = api.pages(f"/workflows/{segment(name)}/versions", limit, after=after)
    columns = {
        "VERSION": lambda each: each["version"],
        "TRAFFIC": lambda each: f"{each['traffic']} %" if each["traffic"] else "",
        "DEPLOYED": lambda each: ago(each["created_at"]),
        "PYTHON": lambda each: each["python"],
        "CODE": lambda each: (each["code_sha256"] or "")[:12],
        "ID": lambda each: each["id"],
    }
    listing(items, following, columns, as_json=as_json, nothing="no versions")


@app.command("rollback")
def rollback(
    name: Workflow,
    version: Annotated[int | None, typer.Argument(min=1, help="To this one; else to what was served before.")] = None,
    *,
    as_json: AsJson = False,
    profile: Profile = None,
) -> None:
    """Send all calls to an earlier version, at once. Calls under way end on theirs."""
    with connect(profile) as api:
        told = api.ask("POST", f"/workflows/{segment(name)}/rollback", {"version": version} if version else {})
    _served(told, as_json=as_json)


@app.command("traffic")
def traffic(
    name: Workflow,
    shares: Annotated[list[str], typer.Argument(metavar="VERSION=PERCENT…", help="100 together: 1=90 2=10.")],
    *,
    as_json: AsJson = False,
    profile: Profile = None,
) -> None:
    """Split a workflow's calls between versions, in per cent."""
    wish = {}
    for share in shares:
        match = re.fullmatch(r"(\d{1,9})=(\d{1,3})%?", share)
        if match is None:
            raise Misuse(f"{share!r} is no share such as 2=10: version 2 gets 10 per cent")
        wish[match[1]] = int(match[2])
    with connect(profile) as api:
        told = api.ask("PUT", f"/workflows/{segment(name)}/traffic", wish)
    _served(told, as_json=as_json)


@app.command("publish")
def publish(name: Workflow, *, as_json: AsJson = False, profile: Profile = None) -> None:
    """Publish a workflow, so that /api/v1/run runs it."""
    _publish(name, "publish", as_json=as_json, profile=profile)


@app.command("unpublish")
def unpublish(name: Workflow, *, as_json: AsJson = False, profile: Profile = None) -> None:
    """Take a workflow off /api/v1/run. /run goes on."""
    _publish(name, "unpublish", as_json=as_json, profile=profile)


@app.command("set")
def set_(
    name: Workflow,
    *,
    new_name: Annotated[str | None, typer.Option("--name", help="What to call it; its id stays.")] = None,
    visibility: Annotated[str | None, typer.Option(help="Who may call it: private, public or template.")] = None,
    limits: Annotated[
        list[str] | None,
        typer.Option("--limit", help="concurrency=3, memory_bytes=512MiB, …; NAME=default takes one back. Repeatable."),
    ] = None,
    as_json: AsJson = False,
    profile: Profile = None,
) -> None:
    """Change a workflow's name, visibility and limits (the README lists those). They hold for all its versions."""
    wish: dict[str, Any] = {"name": new_name, "visibility": visibility}
    wish = {field: value for field, value in wish.items() if value is not None}
    if limits:
        wish["limits"] = dict(_limit(item) for item in limits)
    if not wish:
        raise Misuse("nothing to change: give --name, --visibility or --limit")
    with connect(profile) as api:
        told = api.ask("PATCH", f"/workflows/{segment(name)}", wish)
    if as_json:
        show_json(told)
        return
    print(f"{told['service_id']} is changed: {', '.join(f'{field} {json.dumps(wish[field])}' for field in wish)}")


@app.command("rm")
def rm(name: Workflow, *, yes: Yes = False, profile: Profile = None) -> None:
    """Delete a workflow with its versions and schedules. Records of its runs stay."""
    sure(f"Delete {name} with all its versions and schedules? This can't be undone.", yes=yes)
    with connect(profile) as api:
        api.ask("DELETE", f"/workflows/{segment(name)}")
    print(f"{name} is deleted")


def _publish(name: str, act: str, *, as_json: bool, profile: str | None) -> None:
    with connect(profile) as api:
        told = api.ask("POST", f"/workflows/{segment(name)}/{act}")
    if as_json:
        show_json(told)
    else:
        print(f"{told['service_id']} is {'published' if told['published'] else 'unpublished'}")


def _served(told: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        show_json(told)
    else:
        print(f"{told['service_id']} serves {_shares(told['traffic'])}")


def _shares(traffic: dict[str, int]) -> str:
    if len(traffic) == 1:
        return f"version {next(iter(traffic))}"
    return ", ".join(f"version {version} {percent} %" for version, percent in traffic.items()) or "no version"


def _paths(schema: dict[str, Any]) -> list[str]:
    return [f"{method.upper()} {path}" for path, methods in schema.get("paths", {}).items() for method in methods]


def _limit(text: str) -> tuple[str, int | None]:
    name, _, value = text.partition("=")
    if value == "default":
        return name, None
    match = re.fullmatch(r"(\d{1,18})([A-Za-z]*)", value)
    units = next((units for end, units in _UNITS.items() if name.endswith(end)), {})
    if match is None or match[2] not in {"", *units}:
        raise Misuse(
            f"{text!r} is no limit such as concurrency=3, memory_bytes=512MiB, async_timeout_ms=1h, retries=default"
        )
    return name, int(match[1]) * units.get(match[2], 1)
