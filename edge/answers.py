"""What a caller gets of a run: the workflow's own answer as it comes, or why there is none."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from urllib.parse import quote, urljoin, urlsplit

from edge.http import Aborted, Answer
from edge.problems import failure
from edge.run_model import INLINE_BYTES, AnswerHead, BodyComplete, Outcome, RunEvent, Status
from kit.errors import Problem

LOG_LINES = 20
LOG_CHARACTERS = 8_000
LOST = Outcome(
    Status.FAILED,
    "workflow_crashed",
    "the executor that ran it was lost; whether the workflow did its work is unknown",
)
# Hop-by-hop headers, the framing that Envoy does itself, what every answer of ours bears, our internal ones.
_DROPPED = frozenset({
    "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
    "transfer-encoding", "upgrade", "content-length",
    "x-request-id", "x-correlation-id", "traceparent", "error-origin", "x-http-code",
    # What a browser takes for the words of a whole origin, which is the platform's and other workflows' as well: where
    # else it is, who is told of all that is loaded from it, what of it is forgotten, which scripts stand before it.
    "alt-svc", "clear-site-data", "nel", "report-to", "strict-transport-security", "public-key-pins", "expect-ct",
    "service-worker-allowed",
})  # fmt: skip
# A detail of these may quote the workflow's own code or output, which only some may see.
_QUOTING = {
    "workflow_failed_to_start": "the workflow did not start; its owner finds the reason in the run's log",
    "workflow_crashed": "the workflow crashed, or its executor was lost; its owner finds the reason in the run's log",
    "runtime_error": "the runtime failed to run the workflow",
    "out_of_memory": "the workflow used more memory than it may",
    "disk_full": "the workflow wrote more to its disk than it may",
}


@dataclass(frozen=True)
class Frame:
    """What an answer needs to know of its call. `path` is the workflow's own, `host` the Host that the caller sent."""

    run_id: str
    correlation_id: str
    reference: str
    path: str
    host: str
    public_url: str
    sees_logs: bool

    def ids(self) -> list[tuple[str, str]]:
        """The headers that tell the caller which run this was."""
        return [("x-request-id", self.run_id), ("x-correlation-id", self.correlation_id)]

    def headers(self, head: AnswerHead) -> list[tuple[str, str]]:
        """The workflow's headers, without those that are ours to say, and ours."""
        kept = [(name, self._told(name.lower(), value)) for name, value in head.headers if not _is_ours(name.lower())]
        origin = [("error-origin", "service")] if head.status >= 400 else []
        return [*kept, *self.ids(), *origin]

    def _told(self, name: str, value: str) -> str:
        if name in {"location", "content-location"}:
            return self.location(value)
        return self.cookie(value) if name == "set-cookie" else value

    def cookie(self, given: str) -> str:
        """A `Set-Cookie` for the workflow's own paths: with the usual `Path=/` a browser shows it to all others."""
        home = urlsplit(self.public_url).path + self._home()
        kept: list[str] = []
        path = ""
        for part in given.split(";"):
            name, _, value = part.partition("=")
            match name.strip().lower() if kept else "":
                case "path":
                    path = value.strip()
                case "domain":
                    pass
                case _:
                    kept.append(part)
        if path != home and not path.startswith(f"{home}/"):
            path = home + path.rstrip("/") if path.startswith("/") else home
        return ";".join([*kept, f" Path={path}"])

    def _home(self) -> str:
        return "/run/" + quote(self.reference, safe="@")

    def location(self, target: str) -> str:
        """The public address of a `Location` that points at the workflow itself; any other as it is."""
        try:
            parts = urlsplit(target)
        except ValueError:
            return target
        home = self._home()
        if parts.netloc:
            ours = parts.scheme in {"http", "https", ""} and parts.netloc.lower() == self.host.lower()
            # With our own host it may also mean what the platform itself serves there: another run, a file.
            if not ours or parts.path.startswith(("/run/", "/files/")):
                return target
            path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
            return self.public_url + home + path + (f"#{parts.fragment}" if parts.fragment else "")
        if parts.scheme or parts.path == home or parts.path.startswith(home + "/"):
            return target
        # A `..` too many would climb out of the workflow's own paths: urljoin leaves no slash in front then.
        return self.public_url + home + "/" + urljoin(self.path, target).lstrip("/")

    def failed(self, outcome: Outcome) -> Answer:
        """The answer of a run without one of its own."""
        code = outcome.code or "workflow_crashed"
        detail = outcome.detail or code.replace("_", " ")
        if not self.sees_logs:
            detail = _QUOTING.get(code, detail)
        elif outcome.log_tail:
            detail += "\n\nIts last log lines:\n" + "\n".join(outcome.log_tail[-LOG_LINES:])[-LOG_CHARACTERS:]
        if code == "timeout":
            detail = f"{outcome.detail or 'the run passed its time limit'}; {self.patience()}"
        return self.failure(code, detail)

    def failure(self, code: str, detail: str, retry_after: float | None = None) -> Answer:
        """An error of ours about this run."""
        answer = failure(code, detail, request_id=self.run_id, retry_after=retry_after)
        answer.headers += self.ids()
        return answer

    def patience(self) -> str:
        """What to do about a run that takes long."""
        return f"start long runs with POST /run_async/{self.reference} and wait with GET /result/REQUEST_ID?timeout=110"


async def first(events: AsyncIterator[RunEvent]) -> AnswerHead | Outcome:
    """The head of a run's answer, or its end without one. Errors: those of `events`."""
    async for event in events:
        if isinstance(event, AnswerHead | Outcome):
            return event
    return LOST


async def relay(
    frame: Frame,
    head: AnswerHead,
    events: AsyncGenerator[RunEvent, None],
    leave: Callable[[AsyncGenerator[RunEvent, None], bool], None],
) -> Answer:
    """The workflow's answer. `leave` is given the events when the caller is done with them, and whether it got
    everything; a small answer of known length is read at once, so that one that breaks becomes an honest error.
    """
    body = _body(events, leave)
    length = head.header("content-length")
    if length.isascii() and length.isdigit() and len(length) < 10 and int(length) <= INLINE_BYTES:
        try:
            whole = b"".join([chunk async for chunk in body])
        except Broken as broken:
            return frame.failed(broken.outcome)
        return Answer(head.status, frame.headers(head), whole)
    return Answer(head.status, frame.headers(head), body)


class Broken(Aborted):
    """The answer ended before it was whole, with this outcome."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.code)
        self.outcome = outcome


async def _body(
    events: AsyncGenerator[RunEvent, None], leave: Callable[[AsyncGenerator[RunEvent, None], bool], None]
) -> AsyncGenerator[bytes, None]:
    complete = False
    try:
        async for event in events:
            if isinstance(event, bytes):
                yield event
            elif isinstance(event, BodyComplete) or (isinstance(event, Outcome) and not event.code):
                complete = True
                return
            elif isinstance(event, Outcome):
                raise Broken(event)
        raise Broken(LOST)
    except Problem as problem:
        raise Broken(LOST) from problem
    finally:
        leave(events, complete)


def _is_ours(name: str) -> bool:
    return name in _DROPPED or name.startswith(("x-envoy-", "grpc-", "x-runmesh-")) or name.endswith("-bin")
