"""In memory: the scheduler's deliveries, the keys' webhook secrets, a receiver; as the edge's sender uses them."""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edge.delivery import Attempt, Delivery, WebhookSecret
from edge.model import Principal
from edge.run_model import Asker
from kit.errors import NotFound, Unavailable
from kit.names import new_id
from tests.fakes.edge_runs import CALLER, NOW

SECRET = WebhookSecret("whsec_" + "bmV3" * 8, NOW)


def a_delivery(run_id: str, **changes: Any) -> Delivery:
    delivery = Delivery(
        id=new_id("dlv"),
        run_id=run_id,
        organization_id=CALLER,
        url="https://a.example/hook",
        host="a.example:443",
        state="pending",
        attempts=1,
        created_at=NOW,
    )
    return replace(delivery, **changes)


@dataclass
class FakeDeliveries:
    """`due`: what is claimed next. `settled`: (delivery, attempt) and how, in order. `away`: how many calls fail."""

    due: list[Delivery] = field(default_factory=list)
    settled: list[tuple[str, int, Attempt]] = field(default_factory=list)
    claims: list[tuple[int, tuple[str, ...], tuple[str, ...]]] = field(default_factory=list)
    listed: list[Delivery] = field(default_factory=list)
    away: int = 0

    async def claim(self, limit: int, hosts: Collection[str], organizations: Collection[str]) -> list[Delivery]:
        self._check()
        self.claims.append((limit, tuple(hosts), tuple(organizations)))
        found = [each for each in self.due if each.host not in hosts and each.organization_id not in organizations]
        for each in found[:limit]:
            self.due.remove(each)
        return found[:limit]

    async def settle(self, delivery_id: str, attempt: int, how: Attempt) -> None:
        self._check()
        self.settled.append((delivery_id, attempt, how))

    async def of_run(self, asker: Asker, run_id: str) -> list[Delivery]:
        return [each for each in self.listed if each.run_id == run_id]

    def _check(self) -> None:
        if self.away:
            self.away -= 1
            raise Unavailable("the scheduler is away")


@dataclass
class FakeWebhooks:
    """The keys service; knows CALLER only."""

    secret: WebhookSecret = SECRET
    away: bool = False

    async def webhook_secret(self, organization_id: str) -> WebhookSecret:
        if self.away:
            raise Unavailable("keys is away")
        if organization_id != CALLER:
            raise NotFound("no such organization")
        return self.secret

    async def rotate(self, who: Principal) -> WebhookSecret:
        self.secret = WebhookSecret("whsec_" + "bHVy" * 8, NOW, self.secret.secret, NOW)
        return self.secret


class FakePost:
    """`answer`: a status, what to raise, or None to keep the sender waiting until `gate` is set."""

    def __init__(self, answer: Callable[[str], int | Exception | None] = lambda _: 200) -> None:
        self.answer = answer
        self.sent: list[tuple[str, dict[str, str], bytes]] = []
        self.now: list[str] = []
        self.gate = asyncio.Event()

    async def __call__(self, url: str, headers: Mapping[str, str], body: bytes) -> int:
        self.sent.append((url, dict(headers), body))
        self.now.append(url)
        try:
            answer = self.answer(url)
            if answer is None:
                await self.gate.wait()
                return 200
            if isinstance(answer, Exception):
                raise answer
            return answer
        finally:
            self.now.remove(url)
