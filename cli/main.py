"""`runmesh`: the commands. Heavy imports wait until a command needs them."""

import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from cli import files, hooks, keys, profiles, runs, schedules, secrets, templates, workflows
from cli.deploying import deploy, validate
from cli.dev import dev
from cli.group import Group
from cli.init import init
from cli.logs import logs
from cli.money import credits_, usage
from cli.problem import FAILED, USAGE, Misuse, Problem
from cli.running import call, result, run
from cli.show import note
from cli.trace import trace


class Commands(TyperGroup):
    """The root: what went wrong below is told on stderr, and as an exit status."""

    def main(self, *args: Any, **options: Any) -> Any:
        for name in ("stdout", "stderr"):
            if getattr(sys, name) is None:  # closed: `>&-`
                setattr(sys, name, Path(os.devnull).open("w"))  # noqa: SIM115  # until the end
        try:
            try:
                return super().main(*args, **options)
            finally:
                sys.stdout.flush()
        except OSError as error:
            with suppress(OSError):
                sys.stdout.close()  # what is left in its buffer would be told at the end, too
            sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115
            if isinstance(error, BrokenPipeError):  # `| head` has enough
                raise SystemExit(FAILED) from None
            note(f"error: can't write the output, or read the input: {error.strerror or error}")
            raise SystemExit(USAGE) from None

    def invoke(self, ctx: Any) -> Any:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # what a server says may be beyond its encoding
        try:
            return super().invoke(ctx)
        except UnicodeEncodeError as error:
            problem: Problem = Misuse(f"what was given isn't UTF-8: {error.object[:80]!r}")
        except Problem as told:
            problem = told
        note("\n".join(problem.lines()))
        raise typer.Exit(problem.status)


app = typer.Typer(
    cls=Commands,
    help="Runmesh: single-file Python workflows as authenticated HTTP APIs, each call in a fresh sandbox.",
    epilog="Exit status: 0 done, 1 the workflow or a check failed, 2 used wrongly, 3 refused by the server, "
    "4 no server, 5 not ended yet, 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # there are keys in them
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(*, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415  # takes a while

        print(f"runmesh {version('runmesh')}")
        raise typer.Exit


@app.callback()
def root(
    *,
    _wanted: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=lambda wanted: _version(wanted=wanted)
        ),
    ] = False,
) -> None:
    """Runmesh: single-file Python workflows as authenticated HTTP APIs, each call in a fresh sandbox."""


WRITE, RUN, MANAGE, MESH = "Write and deploy", "Run", "Look after", "A mesh of one's own"

for name, command, panel in (
    ("init", init, WRITE),
    ("validate", validate, WRITE),
    ("dev", dev, WRITE),
    ("deploy", deploy, WRITE),
    ("run", run, RUN),
    ("call", call, RUN),
    ("result", result, RUN),
    ("logs", logs, RUN),
    ("trace", trace, RUN),
):
    app.command(name, rich_help_panel=panel)(command)

app.add_typer(templates.app, name="templates", cls=Group, rich_help_panel=WRITE)

for group, title in (
    (runs.app, "runs"),
    (workflows.app, "workflows"),
    (secrets.app, "secrets"),
    (schedules.app, "schedules"),
    (hooks.app, "hooks"),
    (files.app, "files"),
    (keys.app, "keys"),
    (profiles.app, "profiles"),
):
    app.add_typer(group, name=title, cls=Group, rich_help_panel=RUN if title == "runs" else MANAGE)

app.command("usage", rich_help_panel=MANAGE)(usage)
app.command("credits", rich_help_panel=MANAGE)(credits_)


@app.command(rich_help_panel=MESH)
def up() -> None:
    """Run the whole mesh in the foreground until Ctrl-C or SIGTERM. Settings: docs/settings.md."""
    from cli.up import run  # noqa: PLC0415  # see above

    raise typer.Exit(run())


@app.command(rich_help_panel=MESH)
def down() -> None:
    """Stop the mesh that runs on RUNMESH_HOME and wait until it has ended."""
    from cli.down import stop  # noqa: PLC0415  # see above

    raise typer.Exit(stop())


@app.command(rich_help_panel=MESH)
def doctor(*, as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False) -> None:
    """Tell what this machine lacks to run user code safely, and how to get it. Exits 0 if user code can run."""
    from cli.doctor import examine  # noqa: PLC0415  # see above

    raise typer.Exit(examine(as_json=as_json))


@app.command("rotate-kek", rich_help_panel=MANAGE)
def rotate_kek(
    *, drop_old: Annotated[bool, typer.Option(help="Take away the old keys that nothing needs any more.")] = False
) -> None:
    """Make a new key that secrets are sealed under (docs/secrets.md). Exits 0 when done, 1 if it can't be done yet."""
    from cli.rotate_kek import run  # noqa: PLC0415  # see above

    raise typer.Exit(run(drop_old=drop_old))


@app.command("verify-receipt", rich_help_panel=MANAGE)
def verify_receipt(
    receipt: Annotated[Path, typer.Argument(help="What GET /request/ID/receipt answered; - for standard input.")],
    keys: Annotated[Path, typer.Option(help="What GET /.well-known/jwks.json answered.")],
) -> None:
    """Tell whether a receipt is genuine, offline. Exits 0 if it is, 1 if not, 2 if a file can't be read."""
    from cli.receipt import verify  # noqa: PLC0415  # see above

    raise typer.Exit(verify(receipt, keys))
