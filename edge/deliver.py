"""Sends the records of runs that have ended to whoever was named by `X-Callback-Url`.

The scheduler has the deliveries, and says when; every edge claims what is due and sends it, since edges are who renders
records. Where one dies in the middle its claim runs out, and another one sends the same again, under the same id.
"""

import asyncio
from collections import Counter
from collections.abc import Collection, Coroutine, Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, Protocol

from edge.delivery import Attempt, Delivery, Verdict, WebhookSecret
from edge.patience import within
from edge.post import Failed, Refused
from edge.run_model import INLINE_BYTES, Asker, RunRecord
from edge.sign import signed
from kit.clock import Clock
from kit.errors import NotFound, Problem, Unavailable
from kit.telemetry import log

# At once, by one edge: in all, for one organization, to one host; of records with an answer over 64 KiB.
MOST, MOST_OF_ORGANIZATION, MOST_TO_HOST, MOST_LARGE = 64, 8, 4, 4
POLL_SECONDS = 1.0
AWAY_SECONDS = 5.0
LAST_SECONDS = 2.0
# The scheduler's lease (scheduler/delivery.py) is longer than twice the one and the other together.
READY = timedelta(seconds=3)
ANSWER = timedelta(seconds=10)
_SETTLING = (0.0, 0.5, 2.0)


class Deliveries(Protocol):
    """The scheduler's."""

    async def claim(self, limit: int, hosts: Collection[str], organizations: Collection[str]) -> list[Delivery]:
        """What is due, but for these hosts and organizations. Errors: Unavailable."""
        ...

    async def settle(self, delivery_id: str, attempt: int, how: Attempt) -> None:
        """Idempotent. Errors: Unavailable."""
        ...


class Runs(Protocol):
    """The scheduler's records."""

    def get(
        self, asker: Asker, request_id: str, *, exact: bool = False, summary: bool = False
    ) -> Coroutine[Any, Any, RunRecord]:
        """Errors: NotFound, Unavailable."""


class Secrets(Protocol):
    """The keys service."""

    async def webhook_secret(self, organization_id: str) -> WebhookSecret:
        """Errors: NotFound, Unavailable."""
        ...


class Telling(Protocol):
    """edge.telling.Telling."""

    async def __call__(self, record: RunRecord, *, sees_logs: bool) -> bytes: ...


class Post(Protocol):
    """edge.post.Post."""

    def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> Coroutine[Any, Any, int]:
        """The answer's status. Errors: Refused, Failed."""


class Deliver:
    """One edge's sender. A slow receiver keeps some of its places busy, never all."""

    def __init__(
        self, deliveries: Deliveries, runs: Runs, secrets: Secrets, telling: Telling, post: Post, clock: Clock
    ) -> None:
        self._deliveries = deliveries
        self._runs = runs
        self._secrets = secrets
        self._telling = telling
        self._post = post
        self._clock = clock
        self._woken = asyncio.Event()
        self._sending: dict[asyncio.Task[None], Delivery] = {}
        self._large: set[str] = set()  # hosts

    def wake(self) -> None:
        """Something may be due."""
        self._woken.set()

    async def run(self) -> None:
        """For ever: a look after each wake, after each that was sent, and every second."""
        try:
            while True:
                self._woken.clear()
                wait = POLL_SECONDS
                try:
                    await self.once()
                except Exception as error:  # noqa: BLE001  # an old or absent scheduler mustn't end the edge
                    log().warning("delivery.no_claim", reason=str(error)[:200])
                    wait = AWAY_SECONDS
                    self._woken.clear()
                await self._waited(wait)
        finally:
            if self._sending:  # most receivers need no longer; what is cut off is sent again by others
                await asyncio.wait(self._sending, timeout=LAST_SECONDS)
            for task in self._sending:
                task.cancel()
            await asyncio.gather(*self._sending, return_exceptions=True)

    async def once(self) -> None:
        """Claims all that there is room for, and begins to send it."""
        while room := MOST - len(self._sending):
            hosts, hosts_room = _busy((each.host for each in self._sending.values()), MOST_TO_HOST)
            organizations, organizations_room = _busy(
                (each.organization_id for each in self._sending.values()), MOST_OF_ORGANIZATION
            )
            # However alike those are that come, no limit is passed.
            limit = min(room, hosts_room, organizations_room)
            claimed = await self._deliveries.claim(limit, hosts, organizations)
            for delivery in claimed:
                task = asyncio.create_task(self._deliver(delivery))
                self._sending[task] = delivery
                task.add_done_callback(self._sent)
            if len(claimed) < limit:
                return

    def _sent(self, task: "asyncio.Task[None]") -> None:
        del self._sending[task]
        self._woken.set()

    async def _waited(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await within(self._clock, timedelta(seconds=seconds), _until(self._woken))

    async def _deliver(self, delivery: Delivery) -> None:
        try:
            how = await self._attempted(delivery)
        except Exception:  # noqa: BLE001  # a bug, or a row that nobody foresaw: it counts, so that it ends
            log().exception("delivery.broken", delivery_id=delivery.id, run_id=delivery.run_id)
            how = Attempt(Verdict.FAILED, error="the platform failed to send it")
        log().info(
            "delivery.attempt",
            delivery_id=delivery.id,
            run_id=delivery.run_id,
            attempt=delivery.attempts,
            outcome=how.verdict.name.lower(),
            status=how.status,
        )
        for wait in _SETTLING:
            if wait:
                await self._clock.sleep(wait)
            try:
                await self._deliveries.settle(delivery.id, delivery.attempts, how)
                return
            except Problem as problem:
                reason = problem.message
        log().warning("delivery.unsettled", delivery_id=delivery.id, reason=reason)  # it will be sent once more

    async def _attempted(self, delivery: Delivery) -> Attempt:
        """Errors: none that were foreseen."""
        asker = Asker(delivery.organization_id)
        try:
            record = await within(self._clock, READY, self._runs.get(asker, delivery.run_id, exact=True))
            if record.answer is None or record.answer.size <= INLINE_BYTES:
                return await self._told(delivery, record)
            if delivery.host in self._large or len(self._large) >= MOST_LARGE:
                return Attempt(Verdict.PUT_BACK)
            self._large.add(delivery.host)
            try:
                return await self._told(delivery, record)
            finally:
                self._large.discard(delivery.host)
        except NotFound:
            return Attempt(Verdict.REFUSED, error="the run is kept no longer")
        except (Unavailable, TimeoutError) as error:
            log().warning("delivery.put_back", delivery_id=delivery.id, reason=str(error))
            return Attempt(Verdict.PUT_BACK)

    async def _told(self, delivery: Delivery, record: RunRecord) -> Attempt:
        """Errors: NotFound, Unavailable, TimeoutError before anything was sent."""
        headers, body = await within(self._clock, READY, self._message(delivery, record))
        try:
            status = await within(self._clock, ANSWER, self._post(delivery.url, headers, body))
        except Refused as refused:
            return Attempt(Verdict.REFUSED, error=str(refused))
        except Failed as failed:
            return Attempt(Verdict.FAILED, error=str(failed))
        except TimeoutError:
            return Attempt(Verdict.FAILED, error=f"no answer within {ANSWER.total_seconds():g} s")
        return judged(status)

    async def _message(self, delivery: Delivery, record: RunRecord) -> tuple[dict[str, str], bytes]:
        """The record as the organization that asked sees it, signed."""
        secret = await self._secrets.webhook_secret(delivery.organization_id)
        body = await self._telling(record, sees_logs=record.acting_id == delivery.organization_id)
        now = self._clock.now()
        signatures = await asyncio.to_thread(signed, secret.valid, delivery.id, now, body)
        return {"content-type": "application/json", "user-agent": "Runmesh", **signatures}, body


def judged(status: int) -> Attempt:
    """What a receiver's answer means. Redirects aren't followed: where they lead nobody has signed for."""
    if 200 <= status < 300:
        return Attempt(Verdict.DELIVERED, status)
    if status == 410:
        return Attempt(Verdict.REFUSED, status, "the receiver is gone (410)")
    more = ", a redirect, which isn't followed" if 300 <= status < 400 else ""
    return Attempt(Verdict.FAILED, status, f"the receiver answered {status}{more}")


def _busy(places: Iterable[str], most: int) -> tuple[list[str], int]:
    """Those that have `most` places, and how many any other may get."""
    counts = Counter(places)
    full = [name for name, count in counts.items() if count >= most]
    return full, most - max((count for count in counts.values() if count < most), default=0)


async def _until(event: asyncio.Event) -> None:
    await event.wait()
