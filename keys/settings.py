"""What the keys service reads from the environment; its own key material is the files `pepper` and `kek`, or what is
named here in place of `kek`.
"""

from dataclasses import dataclass
from pathlib import Path

from keys.keks import Keks, parse_keks
from keys.money import MOST
from kit.settings import BadSettings, MeshSettings, absolute, env

MOST_FEE = 1_000_000_000


def micro_credits(text: str) -> int:
    """An amount, zero or more."""
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) <= MOST):
        raise ValueError(f"{text[:100]!r} is not a number of micro-credits")
    return int(text)


def fee(text: str) -> int:
    """Up to a thousand credits."""
    if micro_credits(text) > MOST_FEE:
        raise ValueError(f"{text!r} is more than {MOST_FEE} micro-credits")
    return int(text)


@dataclass(frozen=True)
class Settings(MeshSettings):
    """`initial_credits`: what a new organization has; the first one has 1 000 credits. `run_fee`: for each run; an
    operator's own price of the meter `run` counts before it. Both in micro-credits. `kek`, `kek_file`: keys/keks.py.
    """

    initial_credits: int = env("RUNMESH_INITIAL_CREDITS", 0, micro_credits)
    run_fee: int = env("RUNMESH_RUN_FEE", 100, fee)
    kek: tuple[bytes, ...] = env("RUNMESH_KEK", (), parse_keks, shown=False)
    kek_file: Path | None = env("RUNMESH_KEK_FILE", None, absolute)

    @property
    def keks(self) -> Keks:
        """Errors: BadSettings."""
        if self.kek and self.kek_file:
            raise BadSettings(["RUNMESH_KEK and RUNMESH_KEK_FILE are two places for the same keys: set one"])
        return Keks(self.key_file("kek"), self.kek_file, self.kek)
