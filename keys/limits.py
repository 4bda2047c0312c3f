"""What a key is for and how much of it: bindings, budgets, rates."""

import re
from dataclasses import dataclass

from kit.errors import Invalid

MOST_MONEY = 2**53 - 1
MOST_PER_SECOND = 1_000_000
MOST_PATH = 2000
_SERVICE = re.compile(r"([a-z]+_[0-9a-z]{1,40}\.)?[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
# As it stands in a request's first line, percent-encoded.
_PATH = re.compile(r"/[!$-;=@-Z\[\]_a-z|~%^`{}]*")
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Binding:
    """What a one-time key may be used for; an empty field binds nothing. `body_sha256` in hex."""

    service_id: str = ""
    path: str = ""
    body_sha256: str = ""


@dataclass(frozen=True)
class Budget:
    """A hard limit in micro-credits on what is spent under `id`, which a rotated key shares with its successor."""

    id: str
    limit: int


@dataclass(frozen=True)
class Rates:
    """How often one may call; None: as the settings of the platform say. `api_per_minute` is under /api/v1."""

    per_second: int | None = None
    api_per_minute: int | None = None


def check_binding(bind: Binding) -> Binding:
    """Errors: Invalid."""
    if bind == Binding():
        raise Invalid("bind names neither service_id, path nor body_sha256; leave it out, or name what it binds to")
    if bind.service_id and not _SERVICE.fullmatch(bind.service_id):
        raise Invalid(f"bind.service_id is {bind.service_id[:100]!r}; it must be NAME or ORGANIZATION.NAME")
    if bind.path and (len(bind.path) > MOST_PATH or not _PATH.fullmatch(bind.path)):
        raise Invalid(
            f"bind.path is {bind.path[:100]!r}; it must be what follows the service in the address: percent-encoded, "
            f'beginning with "/", without a query, at most {MOST_PATH} characters'
        )
    if bind.body_sha256 and not _DIGEST.fullmatch(bind.body_sha256):
        raise Invalid("bind.body_sha256 must be a SHA-256: 64 characters of lower-case hexadecimal")
    return bind


def check_money(amount: int, what: str) -> int:
    """Errors: Invalid when negative, or more than JSON numbers hold exactly."""
    if not 0 <= amount <= MOST_MONEY:
        raise Invalid(f"{what} must be a whole number of micro-credits from 0 to {MOST_MONEY}")
    return amount


def check_rates(rates: Rates) -> Rates:
    """Errors: Invalid for less than one call."""
    for name, value in vars(rates).items():
        if value is not None and not 1 <= value <= MOST_PER_SECOND:
            raise Invalid(f"{name} must be from 1 to {MOST_PER_SECOND}; leave it out for the platform's own limit")
    return rates
