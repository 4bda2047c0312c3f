"""`runmesh runs`: the history, one run, cancelling, replaying."""

from typing import Annotated

import typer

from cli.api import connect, segment
from cli.complete import workflow_names
from cli.hints import alike
from cli.profiles import Profile
from cli.show import After, AsJson, Limit, ago, credit, lasted, listing, pairs, show_json, status_of

app = typer.Typer(help="Runs: list, look at, cancel and replay them.", no_args_is_help=True)
Id = Annotated[str, typer.Argument(metavar="ID", help="The run's request id.")]


@app.command("ls")
def ls(
    *,
    workflow: Annotated[
        str | None, typer.Option("--workflow", "-w", help="Of this workflow only.", autocompletion=workflow_names)
    ] = None,
    status: Annotated[
        str | None,
        typer.Option(help="provisioned, queued, running, succeeded, failed, timed_out, cancelled or dead only."),
    ] = None,
    limit: Limit = 20,
    after: After = None,
    as_json: AsJson = False,
    profile: Profile = None,
) -> None:
    """List runs, the newest first. A key for one workflow needs --workflow."""
    with connect(profile) as api:
        items, following = api.pages("/requests", limit, service_id=workflow, status=status, after=after)
        close = alike(api, workflow) if workflow and not items else ""
    columns = {
        "ID": lambda run: run["id"],
        "WORKFLOW": lambda run: run["serviceId"],
        "STATUS": status_of,
        "ANSWER": lambda run: run["responseStatus"],
        "TRIGGER": lambda run: run["trigger"],
        "BEGAN": lambda run: ago(run["startedAt"] or run["createdAt"]),
        "TOOK": lasted,
        "CREDITS": lambda run: credit(run["cost"]["total"]),
    }
    meant = f"; did you mean {close}?" if close and close != workflow else ""
    listing(items, following, columns, as_json=as_json, nothing=f"no runs{meant}")


@app.command("show")
def show(request_id: Id, *, as_json: AsJson = False, profile: Profile = None) -> None:
    """Show the record of a run: what became of it, when, what it used and cost."""
    with connect(profile) as api:
        run = api.get(f"/request/{segment(request_id)}")
    if as_json:
        show_json(run)
        return
    named = {name: value for name, value in run.items() if name not in {"responseContent", "responseJson"}}
    named["cost"] = f"{credit(run['cost']['total'])} credits, {credit(run['cost']['nested'])} of them nested"
    pairs(named | {"took": lasted(run)})


@app.command("cancel")
def cancel(
    request_ids: Annotated[list[str], typer.Argument(metavar="ID…", help="The runs' request ids.")],
    *,
    profile: Profile = None,
) -> None:
    """Cancel runs, queued or under way, and whatever they have called. What is over stays as it is."""
    with connect(profile) as api:
        for request_id in request_ids:
            status = api.get(f"/request/{segment(request_id)}")["status"]
            api.ask("DELETE", f"/request/{segment(request_id)}")
            over = status not in {"provisioned", "queued", "running"}
            print(f"{request_id} was over: {status}" if over else f"{request_id} cancelled")


@app.command("replay")
def replay(
    request_id: Id,
    *,
    version: Annotated[int | None, typer.Option(min=1, help="Of this version; else of the one of then.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="From its recording; nobody is reached.")] = False,
    profile: Profile = None,
) -> None:
    """Give a run's input to a new, asynchronous run, and print its request id.

    `runmesh call GET /request/ID/diff` compares the two.
    """
    wish = ({"version": version} if version else {}) | ({"mode": "offline"} if offline else {})
    with connect(profile) as api:
        print(api.ask("POST", f"/request/{segment(request_id)}/replay", wish)["request_id"])
