"""Who is let in, how often, and what the workflows' names mean, wired: main.py's part that comes before any handler."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from edge.anyone import Anyone
from edge.auth import Auth
from edge.clients import KeysClient
from edge.events import heard
from edge.identity import identifier
from edge.permits import Stocks
from edge.rate_clients import PermitsClient
from edge.rates import Defaults, RateLimits
from edge.run_clients import WorkflowsClient
from edge.settings import Settings
from edge.targets import Targets
from kit.bus import Bus
from kit.clock import Clock
from kit.lifecycle import background
from kit.settings import read_key


class Admission(NamedTuple):
    """What every call meets."""

    auth: Auth
    rates: RateLimits
    targets: Targets


@asynccontextmanager
async def admitting(
    settings: Settings, channels: Mapping[str, Any], bus: Bus, clock: Clock
) -> AsyncIterator[Admission]:
    """Caches forget what they are told to, and keys of open calls are checked, while it is entered. `channels` by the
    service's name.
    """
    targets = Targets(WorkflowsClient(channels["scheduler"]))
    anyone = Anyone(targets, settings.open_rate_per_second)
    identify = identifier(read_key(settings.key_file("mesh")), clock)
    auth = Auth(KeysClient(channels["keys"]), identify, anyone, clock=clock)
    defaults = Defaults(settings.key_rate_per_second, settings.key_api_rate_per_minute, settings.open_calls_at_once)
    rates = RateLimits(Stocks(PermitsClient(channels["keys"])), defaults)
    async with heard(bus, auth, targets), background(auth.sweep()):
        yield Admission(auth, rates, targets)
