"""Who speaks: the key of a call, verified by keys at most 0.7 s ago; open calls end when their key does.

A verification counts from when it was asked for, so that a revocation is felt everywhere within a second even if its
event is lost. At most `LIMIT` keys are remembered, and a tenth of that of refused ones.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Protocol

from edge.http import Request
from edge.model import FOR_KEYS, SYSTEM, Access, Principal, RunIdentity
from kit.clock import Clock
from kit.errors import Problem, Unauthenticated, Unavailable
from kit.telemetry import log, span

FRESH_SECONDS = 0.7
BROKE_SECONDS = 0.05
REFUSED_SECONDS = 0.5
RECHECK_SECONDS = 0.5
SWEEP_SECONDS = 0.1
LIMIT = 10_000
MAX_KEY_LENGTH = 256
KEY_HEADERS = ("authorization", "x-api-key", "x-goog-api-key")
RUN_SCOPES = frozenset({"run", "files"})
LIBRARY_SCOPES = {
    "schedule_runs": frozenset({"schedules"}),
    "devx_mcp": frozenset({"deploy"}),
    "slack_trigger": frozenset({"hooks"}),
    "whatsapp_trigger": frozenset({"hooks"}),
}


class Openness(Protocol):
    """edge.anyone.Anyone."""

    async def principal(self, request: Request) -> Principal | None:
        """Of a call without a key; None: it needs one. Errors: Unauthenticated; Unavailable."""
        ...


class Verifier(Protocol):
    """The keys service."""

    async def verify(self, key: str) -> Principal:
        """Errors: Unauthenticated; Unavailable."""
        ...


@dataclass(frozen=True)
class _Known:
    """What was found out about a key at the time `at` (monotonic seconds)."""

    at: float
    principal: Principal | None
    refusal: str = ""

    def answer(self) -> Principal:
        if self.principal is None:
            raise Unauthenticated(self.refusal)
        return self.principal


class Auth:
    """Admits calls. `sweep` must run beside it; `revoked` is told of events."""

    def __init__(
        self,
        keys: Verifier,
        identify: Callable[[str], RunIdentity | None],
        anyone: Openness,
        *,
        clock: Clock,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._identify = identify
        self._anyone = anyone
        self._clock = clock
        self._now = now
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._refused: OrderedDict[str, _Known] = OrderedDict()
        self._asked: dict[str, asyncio.Task[_Known | Problem]] = {}
        self._revoked: OrderedDict[str, float] = OrderedDict()
        self._open: dict[str, dict[object, Callable[[], None]]] = {}

    def identity(self, token: str) -> RunIdentity | None:
        """The run behind a token of the internal listener; None when it isn't valid (any more)."""
        return self._identify(token)

    async def admit(
        self,
        request: Request,
        access: Access,
        run: RunIdentity | None,
        expect: Callable[[Request, Principal], None] = lambda _request, _principal: None,
    ) -> Principal | None:
        """The principal of a call; None where none is asked for. Where keys has to be asked, `expect` gets the one that
        the key stood for before, for what can be begun meanwhile. Errors: Unauthenticated, Denied, Unavailable.
        """
        if access is Access.OPEN:
            return None
        if run:
            principal = of_run(run)
        elif access is Access.CALL and not has_key(request) and (anyone := await self._anyone.principal(request)):
            principal = anyone
        else:
            key = key_of(request)
            known = self._known.get(key)
            if known and known.principal and not self._fresh(known):
                expect(request, known.principal)
            principal = await self.principal(key)
        access.check(principal)
        return principal

    async def principal(self, key: str) -> Principal:
        """Errors: Unauthenticated; Unavailable."""
        known = self._known.get(key)
        if known and self._fresh(known):
            return known.answer()
        refused = self._refused.get(key)
        if refused and self._now() - refused.at < REFUSED_SECONDS:
            return refused.answer()
        return (await self._ask(key)).answer()

    @contextmanager
    def watching(self, request: Request, on_end: Callable[[], None]) -> Iterator[None]:
        """Calls `on_end` once the key of `request` is no longer valid, while the context lasts."""
        principal = request.principal
        if principal is None or principal.identity is not None or not principal.key_id:
            yield
            return
        key, mine = key_of(request), object()
        self._open.setdefault(key, {})[mine] = on_end
        try:
            yield
        finally:
            watchers = self._open[key]
            del watchers[mine]
            if not watchers:
                del self._open[key]

    async def sweep(self) -> None:
        """Verifies the keys of open calls again, for ever."""
        while True:
            await self._clock.sleep(SWEEP_SECONDS)
            now = self._now()
            due = [key for key in self._open if now - self._checked_at(key) >= RECHECK_SECONDS]
            for key in due:
                self._end_if_refused(key)

    async def revoked(self, key_id: str) -> None:
        """Forgets a key, and looks at once whether calls that it opened have to end."""
        self._revoked[key_id] = self._now()
        _bound(self._revoked, LIMIT)
        for key in [key for key, known in self._known.items() if known.principal and known.principal.key_id == key_id]:
            del self._known[key]
            if key in self._open:
                self._end_if_refused(key)

    def _fresh(self, known: _Known) -> bool:
        """Of who can't pay it is asked again almost at once: credits may have been granted."""
        who = known.principal
        broke = who is not None and any(left is not None and left <= 0 for left in (who.credit, who.budget_left))
        return self._now() - known.at < (BROKE_SECONDS if broke else FRESH_SECONDS)

    def _checked_at(self, key: str) -> float:
        known = self._known.get(key)
        return known.at if known else 0.0

    def _end_if_refused(self, key: str) -> None:
        if key in self._asked:
            return

        def done(task: asyncio.Task[_Known | Problem]) -> None:
            if task.cancelled():
                return
            found = task.result()
            if isinstance(found, _Known) and found.principal is None:
                for on_end in list(self._open.get(key, {}).values()):
                    on_end()

        self._asking(key).add_done_callback(done)

    async def _ask(self, key: str) -> _Known:
        """Asks keys, once for all who want to know now; a caller that goes away doesn't stop it."""
        found = await asyncio.shield(self._asking(key))
        if isinstance(found, Problem):
            raise found
        return found

    def _asking(self, key: str) -> "asyncio.Task[_Known | Problem]":
        task = self._asked.get(key)
        if task is None:
            task = self._asked[key] = asyncio.create_task(self._verify(key))
        return task

    async def _verify(self, key: str) -> _Known | Problem:
        at = self._now()
        try:
            with span("keys.verify"):
                found = _Known(at, await self._keys.verify(key))
        except Unauthenticated as refusal:
            found = _Known(at, None, refusal.message)
        except Problem as problem:
            return problem
        except Exception as error:  # noqa: BLE001  # a bug of keys; each who waits is told, and it is logged
            log().error("keys.verify_failed", exc_info=error)
            return Unavailable("the key couldn't be checked")
        finally:
            del self._asked[key]
        self._remember(key, found)
        return found

    def _remember(self, key: str, found: _Known) -> None:
        if found.principal is None:
            self._known.pop(key, None)
            self._refused[key] = found
            _bound(self._refused, LIMIT // 10)
        elif found.at > self._revoked.get(found.principal.key_id, 0.0):
            self._refused.pop(key, None)
            self._known[key] = found
            self._known.move_to_end(key)
            _bound(self._known, LIMIT)


def has_key(request: Request) -> bool:
    """Whether it bears one, valid or not."""
    return any(request.header(name) for name in KEY_HEADERS)


def key_of(request: Request) -> str:
    """The key that a call bears. Errors: Unauthenticated when there is none, or nothing of a key's shape."""
    for name in KEY_HEADERS:
        value = request.header(name)
        if name == "authorization" and value[:7].lower() == "bearer ":
            value = value[7:].strip()
        if value:
            break
    else:
        raise Unauthenticated("this call needs an API key: send `Authorization: Bearer KEY`")
    if value.startswith("cwk-run-"):
        raise Unauthenticated("a run's own token means nothing outside of its sandbox")
    if not value.startswith(("cwk-", "cwotk-")) or len(value) > MAX_KEY_LENGTH or not value.isascii():
        raise Unauthenticated(
            "this isn't a valid API key: one begins with cwk- or cwotk-, and was shown when it was made"
        )
    return value


def without_key(request: Request) -> Request:
    """The call without its own key where that doesn't belong, such as `?key=`: it would go on to a workflow, which may
    be somebody else's, and be kept with the run's input. The headers that bear keys never go on.
    """
    key = key_of(request)
    others = [value for name, value in request.headers if name not in KEY_HEADERS]
    if key not in request.query and not any(key in value for value in others):
        return request
    kind = key.partition("-")[0]
    headers = [
        (name, value if name in KEY_HEADERS else value.replace(key, f"{kind}-***")) for name, value in request.headers
    ]
    return replace(request, query=request.query.replace(key, f"{kind}-***"), headers=headers)


def of_run(run: RunIdentity) -> Principal:
    """A run acts as the organization whose secrets it uses, with scopes `run` and `files` only; a library service as
    who asked for it, with what this service needs besides, where that one's key may do as much itself. Of FOR_KEYS only
    what a key calls, and no run: code in between, be it the organization's own, would have that, too.
    """
    if run.owner_id != SYSTEM:
        return Principal("", run.acting_id, "run", RUN_SCOPES, identity=run)
    trusted = run.may_deploy and (run.depth == 0 or run.service_id not in FOR_KEYS)
    more = LIBRARY_SCOPES.get(run.service_id, frozenset()) if trusted else frozenset()
    return Principal("", run.requester_id, "run", RUN_SCOPES | more, identity=run)


def _bound(cache: "OrderedDict[str, _Known] | OrderedDict[str, float]", limit: int) -> None:
    with suppress(KeyError):
        while len(cache) > limit:
            cache.popitem(last=False)
