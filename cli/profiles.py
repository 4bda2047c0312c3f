"""`runmesh profiles`: servers by name."""

from typing import Annotated

import typer

from cli.problem import Refused
from cli.servers import Profiles, Server, address, as_json, profile_name, read_profiles, write_profiles
from cli.show import AsJson, hidden, note, show_json, table

app = typer.Typer(help="Servers by name: list, add, choose and remove them.", no_args_is_help=True)


def profile_names(incomplete: str) -> list[str]:
    """For the shell's completion."""
    return [name for name in read_profiles().servers if name.startswith(incomplete)]


Profile = Annotated[
    str | None,
    typer.Option("--profile", help="The server to speak to: see `runmesh profiles`.", autocompletion=profile_names),
]
Name = Annotated[str, typer.Argument(help="The profile's name.", autocompletion=profile_names)]


@app.command("ls")
def ls(*, as_json_too: AsJson = False) -> None:
    """List the profiles; the one in use has a star. Keys aren't shown."""
    told = as_json(read_profiles())
    if as_json_too:
        show_json(told)
    elif told["items"]:
        table(["", "NAME", "URL"], [["*" if one["in_use"] else " ", one["name"], one["url"]] for one in told["items"]])
    else:
        note("no profiles; `runmesh profiles add NAME --url URL` makes one")


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="What to call it.")],
    url: Annotated[str, typer.Option(help="Its address, such as https://runmesh.example.com.")],
    *,
    check: Annotated[bool, typer.Option(help="Ask the server whether it knows the key.")] = True,
) -> None:
    """Remember a server and a key, or change them. The first one is in use at once.

    The key is asked for, or read from standard input.
    """
    profile_name(name)
    server = Server(address(url), hidden(f"API key for {url}").strip(), f"profile {name}")
    if check:
        _refuse_bad_key(server)
    profiles = read_profiles()
    profiles.servers[name] = {"url": server.url, "key": server.key}
    profiles.current = profiles.current or name
    write_profiles(profiles)
    note(f"profile {name}: {server.url}{_in_use(profiles, name)}")


@app.command("use")
def use(name: Name) -> None:
    """Use this profile from now on. RUNMESH_URL, RUNMESH_PROFILE and --profile go before."""
    profiles = read_profiles()
    profiles.current = name if profiles.server(name) else ""
    write_profiles(profiles)
    note(f"profile {name}: {profiles.servers[name]['url']}{_in_use(profiles, name)}")


@app.command("rm")
def rm(name: Name) -> None:
    """Forget a profile. Its key stays valid: `runmesh keys revoke` ends one."""
    profiles = read_profiles()
    profiles.server(name)
    del profiles.servers[name]
    profiles.current = "" if profiles.current == name else profiles.current
    write_profiles(profiles)
    note(f"profile {name} is forgotten")


def _in_use(profiles: Profiles, name: str) -> str:
    return ", in use" if profiles.current == name else f"; `runmesh profiles use {name}` makes it the one in use"


def _refuse_bad_key(server: Server) -> None:
    from cli.client import Api  # noqa: PLC0415  # takes a while

    try:
        with Api(server) as api:
            api.get("/prices", limit=1)  # any key may
    except Refused as refused:
        if refused.http_status != 403:  # a one-time key, say: known, but not for this
            raise
