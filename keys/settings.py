"""What the keys service reads from the environment; its own key material is the files `pepper` and `kek`."""

from dataclasses import dataclass

from kit.settings import MeshSettings


@dataclass(frozen=True)
class Settings(MeshSettings):
    """Nothing beyond what every service needs."""
