"""`runmesh`: the commands. Heavy imports wait until a command needs them."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(
    help="Runmesh: single-file Python workflows as authenticated HTTP APIs, each call in a fresh sandbox.",
    no_args_is_help=True,
    add_completion=False,
)


@app.command()
def up() -> None:
    """Run the whole mesh in the foreground until Ctrl-C or SIGTERM. Settings: RUNMESH_HOME, … (README)."""
    from cli.up import run  # noqa: PLC0415  # see above

    raise typer.Exit(run())


@app.command()
def down() -> None:
    """Stop the mesh that runs on RUNMESH_HOME and wait until it has ended."""
    from cli.down import stop  # noqa: PLC0415  # see above

    raise typer.Exit(stop())


@app.command()
def doctor(*, as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False) -> None:
    """Tell what this machine lacks to run user code safely, and how to get it. Exits 0 if user code can run."""
    from cli.doctor import examine  # noqa: PLC0415  # see above

    raise typer.Exit(examine(as_json=as_json))


@app.command("rotate-kek")
def rotate_kek(
    *, drop_old: Annotated[bool, typer.Option(help="Take away the old keys that nothing needs any more.")] = False
) -> None:
    """Make a new key that secrets are sealed under (docs/secrets.md). Exits 0 when done, 1 if it can't be done yet."""
    from cli.rotate_kek import run  # noqa: PLC0415  # see above

    raise typer.Exit(run(drop_old=drop_old))


@app.command("verify-receipt")
def verify_receipt(
    receipt: Annotated[Path, typer.Argument(help="What GET /request/ID/receipt answered; - for standard input.")],
    keys: Annotated[Path, typer.Option(help="What GET /.well-known/jwks.json answered.")],
) -> None:
    """Tell whether a receipt is genuine, offline. Exits 0 if it is, 1 if not, 2 if a file can't be read."""
    from cli.receipt import verify  # noqa: PLC0415  # see above

    raise typer.Exit(verify(receipt, keys))
