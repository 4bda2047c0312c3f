"""The sender of records and the list of what was sent, wired: main.py's part that is about deliveries."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from edge.deliver import Deliver
from edge.deliveries import DeliveryHandlers
from edge.delivery_clients import DeliveriesClient, WebhooksClient
from edge.events import due_heard
from edge.post import Post
from edge.reading import Reading
from edge.run_clients import BlobsClient, RunsClient
from edge.settings import Settings
from edge.telling import Telling
from kit.bus import Bus
from kit.clock import Clock
from kit.lifecycle import background


@asynccontextmanager
async def delivering(
    settings: Settings, channels: Mapping[str, Any], bus: Bus, clock: Clock
) -> AsyncIterator[DeliveryHandlers]:
    """Records are sent while it is entered. `channels` by the service's name."""
    deliveries, runs = DeliveriesClient(channels["scheduler"]), RunsClient(channels["scheduler"])
    telling = Telling(BlobsClient(channels["filestore"]))
    post = Post(settings.egress_allow_private)
    deliver = Deliver(deliveries, runs, WebhooksClient(channels["keys"]), telling, post, clock)
    try:
        async with due_heard(bus, deliver.wake), background(deliver.run()):
            yield DeliveryHandlers(Reading(runs, clock), deliveries)
    finally:
        post.close()
