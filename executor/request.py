"""The request as the workflow gets it: the caller's, with what the platform adds (SPEC §3)."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from datetime import UTC

from executor.model import HUNG_UP, Outcome, Spec
from executor.sandbox import Head
from kit.errors import Problem
from kit.telemetry import log


def head_for(spec: Spec, traceparent: str) -> Head:
    """The platform's own headers replace whatever the caller sent under their names. A library service is told for whom
    it acts, which needn't be the one who pays; nobody is told that it is called by its owner, because that one pays.
    """
    ours = {
        "x-request-id": spec.run_id,
        "x-attempt": str(max(1, spec.attempt)),
        "x-correlation-id": spec.correlation_id or spec.run_id,
        "codewords-caller-id": "" if spec.anonymous else spec.caller_id,
        "traceparent": traceparent,
        "x-deadline": spec.deadline.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    ours |= {"x-runmesh-organization-id": spec.requester_id} if spec.library else {}
    headers = [(name.encode("latin-1"), value) for name, value in spec.request.headers if name not in ours]
    headers += [(name.encode(), value.encode()) for name, value in ours.items()]
    request = spec.request
    return Head(headers, method=request.method, path=request.path, query=request.query, metered=bool(spec.library))


class Digest:
    """SHA-256 of a body as it passes."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    @property
    def hex(self) -> str:
        """Of what has passed so far."""
        return self._hash.hexdigest()

    async def of(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same body."""
        async for chunk in body:
            self._hash.update(chunk)
            yield chunk


async def unfinished(body: AsyncIterator[bytes], limit: int, stop: Callable[[Outcome], None]) -> AsyncIterator[bytes]:
    """The request's body, which ends only when it is whole: one that is too large or breaks off stops the run, and
    the app never takes what it has for the end.
    """
    size = 0
    try:
        async for chunk in body:
            size += len(chunk)
            if size > limit:
                stop(Outcome.failed("too_large", f"the body passes {limit} bytes; send large inputs through /file"))
                break
            if chunk:
                yield chunk
        else:
            return
    except Problem as problem:
        stop(Outcome.failed("runtime_error", f"the body can't be had: {problem.message}"))
    except Exception as error:  # noqa: BLE001  # however gRPC says that the other side is gone
        log().info("run.body_broke", reason=str(error))
        stop(HUNG_UP)
    await asyncio.Event().wait()
