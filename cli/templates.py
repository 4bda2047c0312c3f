"""`runmesh templates`: workflows to begin with, which come with the server or are others'."""

from typing import Annotated

import typer

from cli.api import DEPLOY_SECONDS, connect, segment
from cli.deploying import show_deployed
from cli.profiles import Profile
from cli.show import After, AsJson, Limit, listing, progress, show_json

app = typer.Typer(help="Templates: list ready-made workflows, read and deploy them.", no_args_is_help=True)
Id = Annotated[str, typer.Argument(metavar="ID", help="As `runmesh templates ls` lists it, or ORGANIZATION.WORKFLOW.")]


@app.command("ls")
def ls(*, limit: Limit = 100, after: After = None, as_json: AsJson = False, profile: Profile = None) -> None:
    """List those that come with the server. `runmesh workflows ls --visibility template` lists those of others."""
    with connect(profile) as api:
        items, following = api.pages("/templates", limit, after=after)
    columns = {
        "ID": lambda each: each["id"],
        "SECRETS": lambda each: " ".join(each["secrets"]),
        "WHAT IT DOES": lambda each: each["description"],
    }
    listing(items, following, columns, as_json=as_json, nothing="no templates")


@app.command("show")
def show(template: Id, *, as_json: AsJson = False, profile: Profile = None) -> None:
    """Print a template's code, to be changed and deployed as yours: runmesh templates show ID > FILE.py."""
    with connect(profile) as api:
        told = api.get(f"/templates/{segment(template)}")
    if as_json or told["kind"] != "code":
        show_json(told)
    else:
        print(told["code"], end="")


@app.command("deploy")
def deploy(
    template: Id,
    *,
    name: Annotated[str | None, typer.Option(help="What yours is called; else as the template.")] = None,
    as_json: AsJson = False,
    profile: Profile = None,
) -> None:
    """Deploy a template as a workflow of your own, as it comes."""
    wish = {"template_id": template} | ({"name": name} if name else {})
    with connect(profile) as api, progress(f"deploying {template}; new dependencies are installed first"):
        told = api.ask("POST", "/deploy", wish, seconds=DEPLOY_SECONDS)
    if as_json:
        show_json(told)
    else:
        show_deployed(template, told)
