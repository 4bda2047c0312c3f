"""Calls without a key: of workflows whose visibility is `open`, by their full name; their owner pays (SPEC §4)."""

from edge.calls import DEALINGS, REFERENCE
from edge.http import Request
from edge.model import Principal, Rates
from edge.targets import Workflows
from kit.errors import NotFound, Unauthenticated

OPEN = "open"
# A page that a browser is led to, without a key, is an origin of its own: else it could read, on the platform's, what
# somebody enters at /docs, and speak for it. Other headers of this name hold besides.
SANDBOX = (
    "content-security-policy",
    "sandbox allow-downloads allow-forms allow-modals allow-popups allow-popups-to-escape-sandbox allow-scripts",
)


class Anyone:
    """Lets callers without a key in. `per_second`: calls of one workflow by all of them, where it sets no limit."""

    def __init__(self, workflows: Workflows, per_second: int) -> None:
        self._workflows = workflows
        self._per_second = per_second

    async def principal(self, request: Request) -> Principal | None:
        """None when what is called isn't open, or isn't there: which of the two isn't told. Errors: Unauthenticated for
        what needs a key besides; Unavailable.
        """
        reference = request.params["service_id"]
        if "." not in reference or not REFERENCE.fullmatch(reference):
            return None
        try:
            target = await self._workflows.resolve("", reference)
        except NotFound:
            return None
        if target.visibility != OPEN:
            return None
        for name, _ in request.headers:
            if name in DEALINGS:
                raise Unauthenticated(f"{name.title()} needs an API key, although this workflow can be called without")
        return Principal(
            key_id="",
            organization_id="",
            kind=OPEN,
            scopes=frozenset({f"run:{reference.partition('@')[0]}"}),
            rates=Rates(per_second=target.limits.calls_per_second or self._per_second),
            lineage_id=f"{OPEN}:{target.owner_id}.{target.service_id}",
            payer_id=target.owner_id,
        )
