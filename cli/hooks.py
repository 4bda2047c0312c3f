"""`runmesh hooks`: addresses at which signed events of others start a workflow."""

from typing import Annotated, Any

import typer

from cli.api import connect, segment
from cli.complete import Workflow
from cli.hints import named
from cli.profiles import Profile
from cli.show import After, AsJson, Limit, ago, hidden, listing, note, pairs, show_json

app = typer.Typer(help="Hooks: addresses at which signed events of others start a workflow.", no_args_is_help=True)


@app.command("ls")
def ls(*, limit: Limit = 100, after: After = None, as_json: AsJson = False, profile: Profile = None) -> None:
    """List the hooks. Their addresses and secrets are shown nowhere."""
    with connect(profile) as api:
        items, following = api.pages("/hooks", limit, after=after)
    columns = {
        "ID": lambda each: each["id"],
        "WORKFLOW": lambda each: each["service_id"],
        "KIND": lambda each: each["kind"],
        "CREATED": lambda each: ago(each["created_at"]),
    }
    listing(items, following, columns, as_json=as_json, nothing="no hooks")


@app.command("create")
def create(
    workflow: Workflow,
    *,
    kind: Annotated[
        str, typer.Option("--kind", "-k", help="Who signs its events: standard, slack, whatsapp or github.")
    ] = "standard",
    own_secret: Annotated[
        bool, typer.Option("--own-secret", help="Ask for the secret of a standard sender, too; else one is made.")
    ] = False,
    as_json: AsJson = False,
    profile: Profile = None,
) -> None:
    """Make an address for one sender, and print it, this once, with the secret if one was made.

    What the sender signs with is asked for, or read from standard input. See docs/hooks.md for the kinds.
    """
    wish: dict[str, Any] = {"service_id": workflow, "kind": kind}
    if own_secret or kind != "standard":
        wish["secret"] = hidden(f"Signing secret of the {kind} sender")
    with connect(profile) as api, named(api, workflow):
        made = api.ask("POST", "/hooks", wish)
    if as_json:
        show_json(made)
        return
    note(f"{made['id']}: its events start {workflow}. This isn't shown again")
    pairs({name: made[name] for name in ("url", "secret", "verify_token") if made.get(name)})


@app.command("rm")
def rm(
    hook_id: Annotated[str, typer.Argument(metavar="ID", help="The hook's id, hook_….")], *, profile: Profile = None
) -> None:
    """End a hook: its sender gets 404 at once. Runs that it has started go on."""
    with connect(profile) as api:
        api.ask("DELETE", f"/hooks/{segment(hook_id)}")
    print(f"{hook_id} is removed")
