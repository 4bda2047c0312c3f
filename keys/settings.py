"""What the keys service reads from the environment; its own key material is the files `pepper` and `kek`."""

from dataclasses import dataclass

from keys.money import MOST
from kit.settings import MeshSettings, env


def micro_credits(text: str) -> int:
    """An amount, zero or more."""
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= MOST):
        raise ValueError(f"{text[:100]!r} is not a number of micro-credits")
    return int(text)


@dataclass(frozen=True)
class Settings(MeshSettings):
    """`initial_credits`: what a new organization has; the first one has 1 000 credits."""

    initial_credits: int = env("RUNMESH_INITIAL_CREDITS", 0, micro_credits)
