"""How answers are shown: tables and JSON on stdout, everything else on stderr."""

import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from cli.problem import Misuse, clean

_NO_END = 10_000  # columns: a terminal wraps what is longer, nothing is cut
AsJson = Annotated[bool, typer.Option("--json", help="Print the server's answer as JSON.")]
Limit = Annotated[int, typer.Option("--limit", min=1, help="How many at most.")]
After = Annotated[str | None, typer.Option("--after", help="Go on after this token, the `next` of an earlier list.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")]


def note(text: str) -> None:
    """A line on stderr, after what is on stdout already."""
    sys.stdout.flush()
    print(clean(text), file=sys.stderr, flush=True)


def show_json(value: Any) -> None:
    """Two spaces a level."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def listing(
    items: Sequence[dict[str, Any]],
    following: str | None,
    columns: dict[str, Callable[[dict[str, Any]], Any]],
    *,
    as_json: bool,
    nothing: str,
) -> None:
    """A list of the API's. `columns`: their titles, and what stands there; `nothing` is said of an empty one."""
    if as_json:
        show_json({"items": list(items), "next": following})
        return
    if not items:
        note(nothing)
        return
    table(list(columns), [[cell(item) for cell in columns.values()] for item in items])
    if following:
        note(f"there are more: --after {following}")


def table(titles: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Columns as wide as they need."""
    from rich.console import Console  # noqa: PLC0415  # takes a while
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    grid = Table(*titles, box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for row in rows:
        grid.add_row(*(Text(clean("-" if cell is None or cell == "" else str(cell))) for cell in row))
    console = Console(width=_NO_END, highlight=False)
    with console.capture() as shown:
        console.print(grid)
    for line in shown.get().splitlines():
        print(line.rstrip())


def pairs(values: dict[str, Any]) -> None:
    """A name and a value a line; what is None or empty is left out."""
    width = max(len(name) for name in values)
    for name, value in values.items():
        if value not in (None, "", [], {}):
            text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list | bool) else str(value)
            print(clean(f"{name:{width}}  {text}"))


@contextmanager
def progress(text: str) -> Iterator[Callable[[str], None]]:
    """A spinner with the seconds that have passed, while the block runs, and what the block tells of its steps; plain
    lines where nobody watches.
    """
    if not sys.stderr.isatty():
        note(f"{text} …")
        yield lambda step: note(f"{step} …")
        return
    from rich.console import Console  # noqa: PLC0415  # takes a while
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(clean(text), total=None)
        yield lambda step: shown.update(task, description=clean(f"{text}: {step}"))


def sure(question: str, *, yes: bool) -> None:
    """Asks, unless it was told `--yes`. Errors: Misuse where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Misuse(f"{question} Nobody can be asked here: add --yes")
    if not typer.confirm(question, err=True):
        raise typer.Abort


def hidden(prompt: str) -> str:
    """A secret: typed unseen, or from standard input; one line break at its end isn't part of it. Errors: Misuse."""
    if sys.stdin.isatty():
        value = str(typer.prompt(prompt, hide_input=True, err=True))
    else:
        try:
            value = sys.stdin.buffer.read().decode()
        except UnicodeDecodeError:
            raise Misuse("standard input isn't UTF-8; encode it, as base64 for example") from None
        value = value.removesuffix("\n").removesuffix("\r")
    if not value:
        raise Misuse("nothing was given on standard input")
    return value


def ago(time: str | None, now: datetime | None = None) -> str:
    """How long since a time of the API's, or until it."""
    if not time:
        return ""
    seconds = ((now or datetime.now(UTC)) - datetime.fromisoformat(time)).total_seconds()
    tense = " ago" if seconds >= 0 else ""
    count = math.floor if tense else round  # a key for 7 d isn't one for 6
    seconds = abs(seconds)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{'' if tense else 'in '}{count(seconds / size)} {unit}{tense}"
    return f"{'' if tense else 'in '}{seconds:.0f} s{tense}"


def status_of(record: dict[str, Any]) -> str:
    """A run's status, with the code where that says more: `failed (out_of_memory)`."""
    status, code = record["status"], record["code"]
    return f"{status} ({code})" if code and code not in {status, "timeout"} else str(status)


def lasted(record: dict[str, Any]) -> str:
    """A run's time from its start to its end."""
    if not record.get("startedAt") or not record.get("completedAt"):
        return ""
    begin, end = (datetime.fromisoformat(record[name]) for name in ("startedAt", "completedAt"))
    return f"{(end - begin).total_seconds():.3f} s"


def credit(amount: int | None) -> str:
    """Micro-credits as credits."""
    return "" if amount is None else f"{amount / 1_000_000:,.6f}"
