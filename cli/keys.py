"""`runmesh keys`: API keys."""

import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.api import connect, segment
from cli.complete import workflow_names
from cli.problem import Misuse, Problem, Refused
from cli.profiles import Profile
from cli.show import After, AsJson, Limit, Yes, ago, credit, listing, note, show_json, sure

if TYPE_CHECKING:
    from cli.client import Api

app = typer.Typer(help="API keys: list, create, rotate and revoke them. Needs the scope admin.", no_args_is_help=True)
Id = Annotated[str, typer.Argument(metavar="ID", help="The key's id, key_…; never the key itself.")]
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


@app.command("ls")
def ls(*, limit: Limit = 100, after: After = None, as_json: AsJson = False, profile: Profile = None) -> None:
    """List the organization's keys, those that have ended too. The keys themselves are shown nowhere."""
    with connect(profile) as api:
        items, following = api.pages("/keys", limit, after=after)
    columns = {
        "ID": lambda key: key["id"],
        "NAME": lambda key: key["name"],
        "PREFIX": lambda key: key["prefix"],
        "SCOPES": lambda key: " ".join(key["scopes"]),
        "STATE": state,
        "CREATED": lambda key: ago(key["created_at"]),
        "BUDGET": lambda key: credit(key["budget"]),
    }
    listing(items, following, columns, as_json=as_json, nothing="no keys")


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Whose it is, or what for.")] = "",
    *,
    scope: Annotated[
        list[str] | None,
        typer.Option(
            "--scope", "-s", help="run, run:WORKFLOW, files, deploy or admin; repeatable. Else run files deploy."
        ),
    ] = None,
    workflow: Annotated[
        str | None,
        typer.Option("--workflow", "-w", help="May run this workflow, nothing else.", autocompletion=workflow_names),
    ] = None,
    one_time: Annotated[bool, typer.Option("--one-time", help="Starts exactly one run.")] = False,
    expires: Annotated[str | None, typer.Option(help="After 30m, 12h, 7d or 4w; or at 2030-01-31T12:00:00Z.")] = None,
    budget: Annotated[int | None, typer.Option(min=0, help="All its runs may cost so many micro-credits.")] = None,
    as_json: AsJson = False,
    profile: Profile = None,
) -> None:
    """Create a key. It goes to stdout, this once, and what it may do to stderr: KEY=$(runmesh keys create bob)."""
    if workflow and scope:
        raise Misuse("--workflow and --scope don't go together: --scope run:WORKFLOW says the same")
    scopes = [f"run:{workflow}"] if workflow else scope
    wish: dict[str, Any] = {"kind": "one_time" if one_time else "standard", "name": name or None, "scopes": scopes}
    wish |= {"expires_at": moment(expires) if expires else None, "budget": budget}
    with connect(profile) as api:
        made = api.ask("POST", "/keys", {name: value for name, value in wish.items() if value is not None})
        unknown = workflow and _is_unknown(api, workflow)
    if as_json:
        show_json(made)
        return
    until = f", until {made['expires_at']}" if made["expires_at"] else ""
    note(f"{made['id']}: {' '.join(made['scopes'])}{until}. It isn't shown again")
    print(made["key"])
    if unknown:
        note(f"there is no workflow {workflow} yet: the key may run it once there is")


@app.command("revoke")
def revoke(key_id: Id, *, yes: Yes = False, profile: Profile = None) -> None:
    """Revoke a key: within a second it works nowhere any more, and streams that it opened end."""
    with connect(profile) as api:
        own = f" It is the key of {api.server.source}, by which you ask." if not yes and _in_use(api, key_id) else ""
        sure(f"Revoke {key_id}?{own} This can't be undone.", yes=yes)
        api.ask("DELETE", f"/keys/{segment(key_id)}")
    print(f"{key_id} revoked")


@app.command("rotate")
def rotate(
    key_id: Id,
    *,
    overlap: Annotated[str, typer.Option(help="The old key works so long besides: 30m, 12h, 7d.")] = "0m",
    as_json: AsJson = False,
    profile: Profile = None,
) -> None:
    """Replace a key by a new one with the same rights, and print that, this once."""
    seconds = int(duration(overlap).total_seconds())
    with connect(profile) as api:
        own = _in_use(api, key_id)
        made = api.ask("POST", f"/keys/{segment(key_id)}/rotate", {"overlap_seconds": seconds})
    if as_json:
        show_json(made)
        return
    note(f"{made['id']} takes the place of {key_id}, which ends {f'in {overlap}' if seconds else 'now'}")
    print(made["key"])
    if own:
        note(f"it was the key of {api.server.source}: put the new one in its place")


def _is_unknown(api: "Api", workflow: str) -> bool:
    try:
        api.get(f"/workflows/{segment(workflow)}")
    except Problem as problem:  # a key without the scope deploy isn't told
        return isinstance(problem, Refused) and problem.http_status == 404
    return False


def _in_use(api: "Api", key_id: str) -> bool:
    """Whether it seems to be the key that we have."""
    keys, _ = api.pages("/keys", 10_000)
    return any(key["id"] == key_id and api.server.key.startswith(key["prefix"]) for key in keys)


def state(key: dict[str, Any]) -> str:
    """Whether a key works."""
    if key["revoked_at"]:
        return "revoked"
    if not key["expires_at"]:
        return "active"
    ended = datetime.fromisoformat(key["expires_at"]) <= datetime.now(UTC)
    return f"{'expired' if ended else 'expires'} {ago(key['expires_at'])}"


def duration(text: str) -> timedelta:
    """`30m`, `12h`, `7d`, `4w`. Errors: Misuse."""
    match = re.fullmatch(r"(\d{1,5})([mhdw])", text)
    if match is None:
        raise Misuse(f"{text!r} is no time such as 30m, 12h, 7d or 4w")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def moment(text: str) -> str:
    """A duration from now, or a point in time as it is. Errors: Misuse."""
    if not re.fullmatch(r"\d+[a-z]+", text):
        with suppress(ValueError):
            datetime.fromisoformat(text)
            return text
        raise Misuse(f"--expires is {text!r}; it must be 30m, 12h, 7d or 4w from now, or a time: 2030-01-31T12:00:00Z")
    return (datetime.now(UTC) + duration(text)).strftime("%Y-%m-%dT%H:%M:%SZ")
