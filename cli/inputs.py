"""What a call sends: `-d` with JSON, @FILE or fields, and fields by themselves."""

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.problem import Misuse

_FIELD = re.compile(r"([^=:\s{}\[\]\"']+)(:?=)(.*)", re.DOTALL)
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        "-d",
        metavar="DATA",
        help="JSON, @FILE (@- is standard input), or a field: name=text, name:=JSON. Fields can be repeated.",
    ),
]


def body(data: Sequence[str]) -> bytes:
    """The bytes of a request's body; without data an empty object. Errors: Misuse."""
    if len(data) == 1 and data[0].startswith("@"):
        return read(data[0][1:])
    if len(data) == 1 and _is_json(data[0]):
        return data[0].encode()
    fields: dict[str, Any] = {}
    for item in data:
        match = _FIELD.fullmatch(item)
        if match is None:
            mixed = " (only fields can be repeated)" if len(data) > 1 else ""
            raise Misuse(f"{item[:100]!r} is neither JSON nor @FILE nor name=text nor name:=JSON{mixed}")
        name, operator, value = match.groups()
        fields[name] = value if operator == "=" else _json(name, value)
    return json.dumps(fields, ensure_ascii=False).encode()


def json_value(data: Sequence[str]) -> Any:
    """The same where only JSON will do. Errors: Misuse."""
    try:
        return json.loads(body(data))
    except ValueError as error:
        raise Misuse(f"the data is no JSON: {error}") from error


def read(name: str) -> bytes:
    """A file's bytes; `-`: those of standard input. Errors: Misuse."""
    try:
        return sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise Misuse(f"can't read {name}: {error.strerror}") from error


def content_type(sent: bytes) -> str:
    """JSON, where it is."""
    try:
        json.loads(sent)
    except ValueError:
        return "application/octet-stream"
    return "application/json"


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        if text.lstrip()[:1] in {"{", "["}:  # meant to be: better refused here than sent as a field
            raise Misuse(f"{text[:100]!r} isn't valid JSON") from None
        return False
    return True


def _json(name: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise Misuse(f"{name}:={text[:100]} isn't valid JSON ({error}); name=text is for texts") from error
