"""What prompts are given: read and judged before anything runs (SPEC §2, bad_request)."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

from edge.run_model import INLINE_BYTES
from kit.errors import Invalid

MOST_NAMED = 20


async def read_inputs(body: AsyncIterator[bytes], variables: Sequence[str] | None) -> bytes:
    """The body, a JSON object; `{}` where there is none. With `variables` it has exactly these. Errors: Invalid, and
    those of `body`.
    """
    raw = b"".join([chunk async for chunk in body])
    inputs = _object(raw) if len(raw) <= INLINE_BYTES else await asyncio.to_thread(_object, raw)
    if variables is not None and (told := mismatch(of_prompt(inputs), variables)):
        raise Invalid(told)
    return raw if raw.strip() not in {b"", b"null"} else b"{}"


def of_prompt(body: dict[str, Any]) -> dict[str, Any]:
    """The inputs are under `inputs`, if that is all there is, or at the top."""
    inner = body.get("inputs")
    return inner if isinstance(inner, dict) and len(body) == 1 else body


def mismatch(inputs: Iterable[str], variables: Iterable[str]) -> str:
    """How inputs differ from the variables; empty when they don't."""
    given, wanted = set(inputs), list(variables)
    missing, unknown = [name for name in wanted if name not in given], sorted(given - set(wanted))
    faults = {"missing": missing, "unknown": unknown}
    told = [f"{fault}: {_listed(names)}" for fault, names in faults.items() if names]
    return f"the inputs don't match the prompt's variables; {'; '.join(told)}" if told else ""


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name[:100]) for name in names[:MOST_NAMED])


def _object(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw) if raw.strip() else {}
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # refuses lone surrogates and NaN
    except (ValueError, RecursionError):
        raise Invalid("the body isn't JSON") from None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Invalid('the body must be a JSON object: {"inputs": {…}}, or the inputs themselves')
    return value
