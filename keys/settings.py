"""What the keys service reads from the environment; its own key material is the files `pepper` and `kek`."""

from dataclasses import dataclass

from kit.settings import MeshSettings, env

MOST_FEE = 1_000_000_000


def micro_credits(text: str) -> int:
    """A whole number from 0 to a thousand credits."""
    number = int(text)
    if not 0 <= number <= MOST_FEE:
        raise ValueError(f"{text!r} is not a number of micro-credits from 0 to {MOST_FEE}")
    return number


@dataclass(frozen=True)
class Settings(MeshSettings):
    """The rest is what every service has."""

    # For each run, in micro-credits. An operator's own price of the meter `run` counts before it.
    run_fee: int = env("RUNMESH_RUN_FEE", 100, micro_credits)
