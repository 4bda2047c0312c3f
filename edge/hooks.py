"""/hooks: addresses at which somebody's signed events start a workflow (SPEC §4)."""

import base64
import binascii
import hmac
import json
import secrets
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

from edge.anyone import SANDBOX
from edge.calls import DEALINGS
from edge.fields import Fields
from edge.http import Answer, Request, json_answer
from edge.model import Budget, Principal, iso
from edge.run_model import Trigger
from edge.signed import KINDS, verify
from edge.targets import Workflows
from kit.clock import Clock
from kit.errors import Denied, Invalid, NotFound

MOST_EVENT_BYTES = 10 * 1024 * 1024
MOST_SECRET = 500
_STANDARD = "whsec_"


@dataclass(frozen=True)
class Hook:
    """A hook as its organization sees it; `service_id` as it names it, `key_id` the key that made it."""

    id: str
    organization_id: str
    service_id: str
    kind: str
    created_at: datetime
    key_id: str = ""
    budget: Budget | None = None


@dataclass(frozen=True)
class Proof:
    """What events are signed with; and what WhatsApp shows when it asks whether we expect it."""

    secret: str = field(repr=False)
    verify_token: str = field(repr=False, default="")


class HookRegister(Protocol):
    """The keys service. Errors: Unavailable."""

    async def create(self, who: Principal, service_id: str, kind: str, proof: Proof) -> tuple[Hook, str]:
        """And its token. Errors: Exhausted."""
        ...

    async def list_hooks(self, organization_id: str, limit: int, after: str) -> tuple[list[Hook], str]:
        """A page, and the token of the next; empty on the last."""
        ...

    async def delete(self, who: Principal, hook_id: str) -> None:
        """Errors: NotFound."""
        ...

    async def open(self, token: str) -> tuple[Hook, Proof]:
        """Errors: NotFound."""
        ...


class Starting(Protocol):
    """edge.runs.RunHandlers.accepted."""

    def __call__(self, request: Request, trigger: Trigger) -> Awaitable[Answer]: ...


class HookHandlers:
    """Handlers of mesh.edge.v1.Hooks."""

    def __init__(
        self, register: HookRegister, workflows: Workflows, start: Starting, clock: Clock, public_url: str
    ) -> None:
        self._register = register
        self._workflows = workflows
        self._start = start
        self._clock = clock
        self._public_url = public_url

    async def create(self, request: Request) -> Answer:
        fields = Fields(await request.json())
        service_id = fields.needed("service_id", longest=300)
        kind = fields.choice("kind", KINDS) or KINDS[0]
        given, verify_token = (
            fields.text("secret", longest=MOST_SECRET),
            fields.text("verify_token", longest=MOST_SECRET),
        )
        fields.done()
        proof = _proof(kind, given, verify_token)
        await self._workflows.resolve(request.who.organization_id, service_id)
        hook, token = await self._register.create(request.who, service_id, kind, proof)
        shown = {"url": f"{self._public_url}/hooks/{token}"}
        shown |= {"secret": proof.secret} if not given else {}
        shown |= {"verify_token": proof.verify_token} if kind == "whatsapp" else {}
        return json_answer(_item(hook) | shown, headers=[("cache-control", "no-store")])

    async def list_hooks(self, request: Request) -> Answer:
        limit, after = request.page()
        found, following = await self._register.list_hooks(request.who.organization_id, limit, after)
        return json_answer({"items": [_item(each) for each in found], "next": following or None})

    async def delete(self, request: Request) -> Answer:
        hook_id = request.params["hook"]
        await self._register.delete(request.who, hook_id)
        return json_answer({"id": hook_id, "deleted": True})

    async def receive(self, request: Request) -> Answer:
        """Starts a run once the event is verified; the same event, sent again within a day, is the same run."""
        hook, proof = await self._register.open(request.params["hook"])
        if request.method in {"GET", "HEAD"}:
            return _expected(hook, proof, request)
        body = await request.read(MOST_EVENT_BYTES)
        event = verify(hook.kind, proof.secret, request, body, self._clock.now())
        if hook.kind == "slack" and (challenge := _challenge(body)) is not None:
            return json_answer({"challenge": challenge})
        return await self._start(_call(request, hook, body, event), Trigger.HOOK)


def _item(hook: Hook) -> dict[str, Any]:
    return {"id": hook.id, "service_id": hook.service_id, "kind": hook.kind, "created_at": iso(hook.created_at)}


def _proof(kind: str, secret: str, verify_token: str) -> Proof:
    """Errors: Invalid."""
    if kind == "standard":
        return Proof(_standard(secret) if secret else _STANDARD + base64.b64encode(secrets.token_bytes(32)).decode())
    if not secret:
        raise Invalid(f"secret is missing: what {kind} signs its events with (the app's signing secret)")
    # Nobody means it, and anybody could sign with it: to HMAC a NUL is the same as nothing.
    if secret != secret.strip() or not secret.isprintable():
        raise Invalid(
            "secret has white space around it, or holds what can't be printed: enter it as the sender shows it"
        )
    if kind != "whatsapp":
        return Proof(secret)
    return Proof(secret, verify_token or secrets.token_urlsafe(24))


def _standard(secret: str) -> str:
    """Errors: Invalid."""
    try:
        key = base64.b64decode(secret.removeprefix(_STANDARD), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(_STANDARD) or len(key) < 16:
        raise Invalid(
            "secret must be whsec_ and at least 16 bytes in base64, as Standard Webhooks has it; or leave it out"
        )
    return secret


def _expected(hook: Hook, proof: Proof, request: Request) -> Answer:
    """WhatsApp asks, before it sends anything, by what was agreed with whoever set it up."""
    shown = request.parameter("hub.verify_token") or ""
    if hook.kind != "whatsapp":
        raise NotFound("events are sent to this address by POST")
    if request.parameter("hub.mode") != "subscribe" or not hmac.compare_digest(
        shown.encode("utf-8", "replace"), proof.verify_token.encode()
    ):
        raise Denied("hub.verify_token isn't the verify_token of this hook")
    challenge = (request.parameter("hub.challenge") or "")[:1000]
    # Whoever made the hook can have this address say anything: no page, and no script, at the platform's origin.
    headers = [("content-type", "text/plain; charset=utf-8"), ("x-content-type-options", "nosniff"), SANDBOX]
    return Answer(200, headers, challenge.encode("utf-8", "replace"))


def _challenge(body: bytes) -> str | None:
    """What Slack wants back when it asks whether this address is ours; None for an event."""
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(asked, dict) or asked.get("type") != "url_verification":
        return None
    return str(asked.get("challenge"))


def _call(request: Request, hook: Hook, body: bytes, event: str) -> Request:
    """The event as a call by the hook's organization. Of its headers only the signature is vouched for: none of them
    means anything to the platform.
    """
    headers = [(name, value) for name, value in request.headers if name not in DEALINGS]
    who = Principal(hook.key_id, hook.organization_id, "hook", frozenset({"run"}), budget=hook.budget)

    async def whole() -> AsyncIterator[bytes]:
        yield body

    return replace(
        request,
        headers=[*headers, ("idempotency-key", f"{hook.id}:{event}"[:255])],
        body=whole(),
        principal=who,
        params={"service_id": hook.service_id, "path": "/"},
    )
