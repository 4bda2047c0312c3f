"""`runmesh files`: bytes that workflows take and give by address."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from cli.api import CONNECT_SECONDS, connect, is_loopback
from cli.problem import FAILED, UNREACHABLE, Misuse, Problem, clean
from cli.profiles import Profile
from cli.show import AsJson, note, progress, show_json

app = typer.Typer(help="Files: put one up, get one down.", no_args_is_help=True)
_PIECE = 1 << 20
_SILENCE_SECONDS = 120.0


@app.command("put")
def put(
    file: Annotated[Path, typer.Argument(help="What to put up, of any type, 5 GiB at most.")],
    *,
    name: Annotated[str | None, typer.Option(help="What it is called when it is got; else as here.")] = None,
    as_json: AsJson = False,
    profile: Profile = None,
) -> None:
    """Put a file up and print its address. Whoever has that can get it, for 7 days: treat it as a secret."""
    import httpx  # noqa: PLC0415  # takes a while

    try:
        opened = file.open("rb")
    except OSError as error:
        raise Misuse(f"can't read {file}: {error.strerror}") from error
    with opened, connect(profile) as api:
        size = os.fstat(opened.fileno()).st_size
        made = api.ask("POST", "/file", params={"filename": name or file.name})
        headers = {**made["upload_headers"], "Content-Length": str(size)}
        local = is_loopback(made["upload_uri"])
        try:
            with progress(f"putting {file.name} up, {size:,} bytes"):
                content: Iterator[bytes] = iter(lambda: opened.read(_PIECE), b"")
                answer = httpx.put(  # signed by itself: the key doesn't go there
                    made["upload_uri"],
                    content=content,
                    headers=headers,
                    timeout=httpx.Timeout(_SILENCE_SECONDS, connect=CONNECT_SECONDS),
                    trust_env=not local,
                )
        except httpx.HTTPError as error:
            raise Problem(f"the upload broke off: {error!r}; nothing is kept of it", UNREACHABLE) from error
        api.check(answer)
    if as_json:
        show_json({"download_uri": made["download_uri"], "size": size})
    else:
        print(made["download_uri"])


@app.command("get")
def get(
    uri: Annotated[str, typer.Argument(help="The download_uri.")],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to; else under its own name, here; - is stdout.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Overwrite what is there.")] = False,
) -> None:
    """Get a file by its address. It needs no key."""
    import httpx  # noqa: PLC0415  # takes a while

    from cli.client import refusal  # noqa: PLC0415

    if urlsplit(uri).scheme not in {"http", "https"}:
        raise Misuse(f"{uri[:100]!r} is no address of a file")
    try:
        timeout = httpx.Timeout(_SILENCE_SECONDS, connect=CONNECT_SECONDS)
        with httpx.stream("GET", uri, follow_redirects=True, timeout=timeout, trust_env=not is_loopback(uri)) as answer:
            if answer.status_code != 200:
                answer.read()
                raise refusal(answer)
            target = output or Path(_name(answer.headers.get("content-disposition", "")))
            if str(target) == "-":
                for piece in answer.iter_bytes():
                    sys.stdout.buffer.write(piece)
                return
            _keep(target, answer.iter_bytes(), force=force)
    except httpx.ConnectError as error:
        raise Problem(f"can't reach {uri[:100]}: {error}", UNREACHABLE) from error
    except httpx.HTTPError as error:
        raise Problem(f"the download broke off: {error!r}", UNREACHABLE) from error
    note(f"{target}: {target.stat().st_size:,} bytes")


def _keep(target: Path, pieces: Iterator[bytes], *, force: bool) -> None:
    """Whole or not at all."""
    if target.exists() and not force:
        raise Misuse(f"{target} is there already; --force overwrites it, --output NAME puts it elsewhere")
    partial = target.with_name(f".{target.name}.part")
    try:
        with partial.open("wb") as file:
            for piece in pieces:
                file.write(piece)
        partial.replace(target)
    except OSError as error:
        raise Problem(f"can't write {target}: {error.strerror}", FAILED) from error
    finally:
        partial.unlink(missing_ok=True)


def _name(disposition: str) -> str:
    """A file's own name, which somebody else gave it: never a path."""
    from email.message import Message  # noqa: PLC0415

    message = Message()
    message["content-disposition"] = disposition
    name = clean(Path((message.get_filename() or "").replace("\\", "/")).name)
    return "download" if name in {"", "-"} or name.startswith(".") else name
