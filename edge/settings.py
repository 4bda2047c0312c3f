"""Settings of the edge: those that every service has. Envoy's own are the supervisor's (cli/envoy.py)."""

from dataclasses import dataclass

from kit.settings import MeshSettings


@dataclass(frozen=True)
class Settings(MeshSettings):
    """Nothing of its own."""
