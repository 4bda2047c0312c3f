"""The nouns of a delivery as the edge sees them (mesh.runs.v1.Deliveries)."""

import enum
from dataclasses import dataclass, field
from datetime import datetime


class Verdict(enum.IntEnum):
    """How an attempt went; the numbers are those of mesh.runs.v1.SettleDeliveryRequest.Outcome."""

    DELIVERED = 1
    FAILED = 2
    # No attempt will do better.
    REFUSED = 3
    # Nothing was sent: it doesn't count.
    PUT_BACK = 4


@dataclass(frozen=True)
class Delivery:
    """A record on its way. `state` is pending, delivered or failed; `attempts`: begun so far."""

    id: str
    run_id: str
    # Who asked for it: it is told as this organization sees it, and signed with its secret.
    organization_id: str
    url: str
    host: str
    state: str
    attempts: int
    created_at: datetime
    next_attempt_at: datetime | None = None
    last_status: int = 0
    last_error: str = ""
    delivered_at: datetime | None = None


@dataclass(frozen=True)
class Attempt:
    """What is told of one. `status`: of the receiver's answer, 0 when there was none."""

    verdict: Verdict
    status: int = 0
    error: str = ""


@dataclass(frozen=True)
class WebhookSecret:
    """`whsec_…`, and the one before it while that is valid."""

    secret: str = field(repr=False)
    created_at: datetime
    previous: str = field(repr=False, default="")
    previous_until: datetime | None = None

    @property
    def valid(self) -> tuple[str, ...]:
        """All that sign, the newest first."""
        return (self.secret, self.previous) if self.previous else (self.secret,)
