"""Settings of the edge. Envoy's own are the supervisor's (cli/envoy.py)."""

from dataclasses import dataclass

from kit.addresses import Network, networks
from kit.settings import MeshSettings, env


@dataclass(frozen=True)
class Settings(MeshSettings):
    """The rest is what every service has."""

    # Private addresses and networks that records may be delivered to, as workflows may reach them
    # (executor/settings.py reads the same variable): "10.1.0.0/16,192.168.7.7".
    egress_allow_private: tuple[Network, ...] = env("RUNMESH_EGRESS_ALLOW_PRIVATE", (), networks)
