"""Deliveries: the record of a run that has ended, on its way to the address that its caller named. Standard library.

A delivery is pending until a receiver has taken it or nobody will. A claim counts an attempt and puts `next_attempt_at`
off by the lease, so that one sender has it at a time; where that one dies, it is due again by itself.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from kit.errors import Invalid
from kit.names import new_id
from scheduler.model import Run

MOST_URL = 2048
MOST_ERROR = 300
# Seconds between an attempt that failed and the next one: the first attempt and as many more as there are numbers.
RETRIES = (5.0, 30.0, 120.0, 600.0, 3600.0, 21600.0)
# Longer than a sender gives an attempt: 6 s to be made ready and 10 s to be sent (edge/deliver.py).
LEASE = timedelta(seconds=20)
PUT_BACK = timedelta(seconds=5)


class State(enum.IntEnum):
    """The numbers are those of mesh.runs.v1.DeliveryState."""

    PENDING = 1
    DELIVERED = 2
    FAILED = 3


class Verdict(enum.IntEnum):
    """How an attempt went; the numbers are those of mesh.runs.v1.SettleDeliveryRequest.Outcome."""

    DELIVERED = 1
    FAILED = 2
    REFUSED = 3
    PUT_BACK = 4


@dataclass(frozen=True)
class Settlement:
    """What a sender says of an attempt. `status`: of the receiver's answer, 0 when there was none."""

    delivery_id: str
    attempt: int
    verdict: Verdict
    status: int = 0
    error: str = ""


@dataclass(frozen=True)
class Delivery:
    """One delivery, as its row says. `organization_id`: who asked for it, and whose secret signs it."""

    id: str
    run_id: str
    organization_id: str
    url: str
    # Host and port: what senders count by.
    host: str
    created_at: datetime
    # While it is pending.
    next_attempt_at: datetime | None
    state: State = State.PENDING
    attempts: int = 0
    last_status: int = 0
    last_error: str = ""
    delivered_at: datetime | None = None

    def is_due(self, now: datetime) -> bool:
        return self.state is State.PENDING and self.next_attempt_at is not None and self.next_attempt_at <= now

    def claimed(self, now: datetime, retries: Sequence[float]) -> "Delivery":
        """In a sender's hands; failed when its attempts are used up, since the last ones' senders never said how."""
        if self.attempts > len(retries):
            return self._over(State.FAILED, self.last_status, "its sender was lost in the last attempt")
        return replace(self, attempts=self.attempts + 1, next_attempt_at=now + LEASE)

    def settled(self, said: Settlement, now: datetime, retries: Sequence[float]) -> "Delivery":
        """After an attempt; the same object where that is no news. What was taken was taken, whoever's attempt it was;
        else only the sender that has it now is believed.
        """
        if self.state is not State.PENDING:
            return self
        if said.verdict is Verdict.DELIVERED:
            return replace(self._over(State.DELIVERED, said.status, ""), delivered_at=now)
        if said.attempt != self.attempts:
            return self
        if said.verdict is Verdict.PUT_BACK:
            return replace(self, attempts=self.attempts - 1, next_attempt_at=now + PUT_BACK)
        error = said.error[:MOST_ERROR]
        if said.verdict is Verdict.REFUSED or self.attempts > len(retries):
            return self._over(State.FAILED, said.status, error)
        wait = timedelta(seconds=retries[self.attempts - 1])
        return replace(self, last_status=said.status, last_error=error, next_attempt_at=now + wait)

    def shown_to(self, organization_id: str) -> "Delivery":
        """Its address may hold a secret of who asked for it: others see where it leads, no more."""
        if organization_id == self.organization_id:
            return self
        parts = urlsplit(self.url)
        return replace(self, url=f"{parts.scheme}://{parts.netloc}")

    def _over(self, state: State, status: int, error: str) -> "Delivery":
        return replace(self, state=state, last_status=status, last_error=error, next_attempt_at=None)


def due(run: Run) -> Delivery | None:
    """What the end of a run begins; None when nobody asked for it."""
    if not run.callback_url or run.completed_at is None:
        return None
    return Delivery(
        id=new_id("dlv"),
        run_id=run.id,
        organization_id=run.requester_id,
        url=run.callback_url,
        host=host_of(run.callback_url),
        created_at=run.completed_at,
        next_attempt_at=run.completed_at,
    )


def check_url(url: str) -> str:
    """Empty, or what an edge may let through. Errors: Invalid."""
    if url and (len(url) > MOST_URL or not url.startswith(("http://", "https://"))):
        raise Invalid(f"a callback's address is http:// or https://, of at most {MOST_URL} characters")
    return url


def host_of(url: str) -> str:
    """`host:port`, lower-case."""
    parts = urlsplit(url)
    return f"{parts.hostname or ''}:{parts.port or (443 if parts.scheme == 'https' else 80)}"[:300]
