"""/webhook-secret: what signs the records that an organization's receivers are sent."""

from typing import Protocol

from edge.delivery import WebhookSecret
from edge.http import Answer, Request, json_answer
from edge.model import Principal, iso


class Secrets(Protocol):
    """The keys service. Errors: Unavailable."""

    async def webhook_secret(self, organization_id: str) -> WebhookSecret: ...

    async def rotate(self, who: Principal) -> WebhookSecret: ...


class WebhookHandlers:
    """Handlers of mesh.edge.v1.Webhooks."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets

    async def secret(self, request: Request) -> Answer:
        """The first question makes it."""
        return _shown(await self._secrets.webhook_secret(request.who.organization_id))

    async def rotate(self, request: Request) -> Answer:
        """A new one; the one before signs besides until `previous_until`."""
        return _shown(await self._secrets.rotate(request.who))


def _shown(secret: WebhookSecret) -> Answer:
    fields = {
        "secret": secret.secret,
        "created_at": iso(secret.created_at),
        "previous_until": iso(secret.previous_until),
    }
    return json_answer(fields, headers=[("cache-control", "no-store")])
