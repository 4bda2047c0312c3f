"""Settings of the edge. Envoy's own are the supervisor's (cli/envoy.py)."""

from dataclasses import dataclass

from kit.addresses import Network, networks
from kit.settings import MeshSettings, env

MOST_CALLS = 1_000_000


def calls(text: str) -> int:
    """How many calls are let through."""
    number = int(text)
    if not 1 <= number <= MOST_CALLS:
        raise ValueError(f"{text!r} is not a number of calls from 1 to {MOST_CALLS}")
    return number


@dataclass(frozen=True)
class Settings(MeshSettings):
    """The rest is what every service has."""

    # Private addresses and networks that records may be delivered to, as workflows may reach them
    # (executor/settings.py reads the same variable): "10.1.0.0/16,192.168.7.7".
    egress_allow_private: tuple[Network, ...] = env("RUNMESH_EGRESS_ALLOW_PRIVATE", (), networks)
    # Of each key that has no limits of its own: calls under /api/v1, and the others.
    key_api_rate_per_minute: int = env("RUNMESH_KEY_API_RATE_PER_MINUTE", 100, calls)
    key_rate_per_second: int = env("RUNMESH_KEY_RATE_PER_SECOND", 1000, calls)
    # Of one open workflow by all who have no key.
    open_rate_per_second: int = env("RUNMESH_OPEN_RATE_PER_SECOND", 10, calls)
    # Of all open workflows, by them; of one half as many.
    open_calls_at_once: int = env("RUNMESH_OPEN_CALLS_AT_ONCE", 40, calls)
