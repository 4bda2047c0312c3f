"""`runmesh secrets`: what workflows find in their environment. A value is never an argument: those others can see."""

from typing import Annotated

import typer

from cli.api import connect, segment
from cli.profiles import Profile
from cli.show import After, AsJson, Limit, Yes, ago, hidden, listing, sure

app = typer.Typer(help="Secrets: list, set and remove them. Values are never shown.", no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="As the workflow declares it in env_vars.")]


@app.command("ls")
def ls(*, limit: Limit = 100, after: After = None, as_json: AsJson = False, profile: Profile = None) -> None:
    """List the names of the organization's secrets."""
    with connect(profile) as api:
        items, following = api.pages("/secrets", limit, after=after)
    columns = {
        "NAME": lambda secret: secret["name"],
        "SET": lambda secret: ago(secret["updated_at"]),
        "FILLED IN FOR": lambda secret: " ".join(secret["hosts"]),
    }
    listing(items, following, columns, as_json=as_json, nothing="no secrets")


@app.command("set")
def set_(
    name: Name,
    *,
    host: Annotated[
        list[str] | None,
        typer.Option(help="Keep it outside the sandbox: fill it in on requests to this host. Repeatable."),
    ] = None,
    profile: Profile = None,
) -> None:
    """Set a secret. Its value is asked for, or read from standard input: runmesh secrets set NAME < file.

    Workflows that declare it have the new value from their next run on. A line break at the end isn't part of it.
    """
    value = hidden(f"Value of {name}")
    with connect(profile) as api:
        api.ask("PUT", f"/secrets/{segment(name)}", {"value": value} | ({"hosts": host} if host else {}))
    print(f"{name} is set" + (f", filled in for {' '.join(host)}" if host else ""))


@app.command("rm")
def rm(name: Name, *, yes: Yes = False, profile: Profile = None) -> None:
    """Remove a secret. Workflows that need it fail from then on (missing_secret)."""
    sure(f"Remove {name}? Its value can't be had back.", yes=yes)
    with connect(profile) as api:
        api.ask("DELETE", f"/secrets/{segment(name)}")
    print(f"{name} is removed")
