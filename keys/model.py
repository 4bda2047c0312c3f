"""Organizations, API keys, scopes and secrets: the nouns and their rules."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Generic, TypeVar

from keys.limits import Binding, Budget, Rates
from kit.errors import Invalid

SYSTEM_ORGANIZATION = "org_system"
ALL_SCOPES = ("run", "files", "deploy", "admin")
DEFAULT_SCOPES = ("run", "files", "deploy")
MAX_SCOPES = 100
MAX_NAME = 200
MAX_PAGE = 1000
MAX_SECRET_BYTES = 64 * 1024
MAX_HOSTS = 50

# The environment variables that the platform sets itself in every sandbox (SPEC §4).
PLATFORM_NAMES = frozenset({"PORT", "LOGLEVEL", "CODEWORDS_API_KEY", "CODEWORDS_RUNTIME_URI", "RUNTIME_URI"})

_SERVICE_SCOPE = re.compile(r"run:([a-z]+_[0-9a-z]{1,40}\.)?[A-Za-z0-9][A-Za-z0-9_-]{0,99}")
_SECRET_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_HOST = re.compile(
    r"(?:https?://)?(?P<wild>\*\.)?(?P<name>[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*)(?::(?P<port>[0-9]{1,5}))?"
)
# What the egress proxy can put into a header: nothing that ends it, no space around.
_FILLED_IN = re.compile(r"[^\x00-\x20\x7f]([^\x00-\x08\x0a-\x1f\x7f]*[^\x00-\x20\x7f])?")


class KeyKind(StrEnum):
    """A one-time key starts exactly one run."""

    STANDARD = "standard"
    ONE_TIME = "one_time"


@dataclass(frozen=True)
class Organization:
    """`first`: made at the first start; only its admin keys make organizations. `rates`: of all its keys together."""

    id: str
    name: str
    first: bool
    created_at: datetime
    rates: Rates = Rates()


@dataclass(frozen=True)
class Key:
    """All that is known of a key but the key itself. `prefix`: its first characters, to recognise it by. `bind` is of
    one-time keys.
    """

    id: str
    organization_id: str
    name: str
    kind: KeyKind
    prefix: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    successor_id: str | None = None
    bind: Binding | None = None
    budget: Budget | None = None
    rates: Rates = Rates()
    # Of a successor without a budget: the lineage of the key that was rotated. Empty: its own.
    shared_id: str = ""

    @property
    def lineage_id(self) -> str:
        """`key:KEY_ID` of the first of the keys that were rotated into it: what they share is counted under that."""
        return self.budget.id if self.budget else self.shared_id or f"key:{self.id}"

    def alive(self, now: datetime) -> bool:
        """Neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True)
class KnownKey:
    """What a look-up tells. `credit`: what its organization may spend and has in purses, in micro-credits."""

    key: Key
    first_organization: bool
    credit: int = 0
    organization_rates: Rates = Rates()


@dataclass(frozen=True)
class Principal:
    """What a valid key stands for."""

    key_id: str
    organization_id: str
    kind: KeyKind
    scopes: tuple[str, ...]
    first_organization: bool
    bind: Binding | None = None
    budget: Budget | None = None
    rates: Rates = Rates()
    organization_rates: Rates = Rates()
    lineage_id: str = ""

    def has(self, scope: str) -> bool:
        """Whether it may do what `scope` allows: `run` covers `run:SERVICE`."""
        return scope in self.scopes or (scope.startswith("run:") and "run" in self.scopes)


@dataclass(frozen=True)
class Verified:
    """A valid key's principal, and the credit of its organization in micro-credits."""

    principal: Principal
    credit: int


@dataclass(frozen=True)
class SecretInfo:
    """A secret as lists show it. `hosts`: where the egress proxy fills it in; empty: it enters the sandbox."""

    name: str
    hosts: tuple[str, ...]
    updated_at: datetime


@dataclass(frozen=True)
class Resolved:
    """A secret as executors get it."""

    value: str = field(repr=False)
    hosts: tuple[str, ...] = ()


T = TypeVar("T")


@dataclass(frozen=True)
class Page(Generic[T]):
    """A piece of a list; `next` is what to pass as `after` for the following one, empty on the last."""

    items: Sequence[T]
    next: str


def page_size(limit: int) -> int:
    """0 means 100. Errors: Invalid outside of 1 to 1000."""
    if not 0 <= limit <= MAX_PAGE:
        raise Invalid(f"limit must be between 1 and {MAX_PAGE}")
    return limit or 100


def check_scopes(scopes: Iterable[str]) -> tuple[str, ...]:
    """Without repetitions, in their order. Errors: Invalid for one that there is not, or too many."""
    distinct = tuple(dict.fromkeys(scopes))
    if len(distinct) > MAX_SCOPES:
        raise Invalid(f"a key carries at most {MAX_SCOPES} scopes")
    for scope in distinct:
        if scope not in ALL_SCOPES and not _SERVICE_SCOPE.fullmatch(scope):
            raise Invalid(f"{scope[:100]!r} is no scope: there are {', '.join(ALL_SCOPES)} and run:SERVICE")
    return distinct


def check_name(name: str, what: str) -> str:
    """A label for people. Errors: Invalid when too long or with a control character."""
    if len(name) > MAX_NAME:
        raise Invalid(f"the name of {what} has at most {MAX_NAME} characters")
    if any(unicodedata.category(character) == "Cc" for character in name):
        raise Invalid(f"the name of {what} holds a control character")
    return name


def check_secret_name(name: str) -> str:
    """What an environment variable may be called and the platform doesn't set itself. Errors: Invalid."""
    if not _SECRET_NAME.fullmatch(name):
        raise Invalid(
            "a secret's name is made of letters, digits and _, doesn't begin with a digit and has at most 128"
        )
    if name in PLATFORM_NAMES:
        raise Invalid(f"{name} is set by the platform itself; choose another name")
    return name


def check_secret_value(value: str, hosts: Sequence[str] = ()) -> str:
    """Fit for an environment variable, or with `hosts` for a header. Errors: Invalid, also when over 64 KiB."""
    if len(value) > MAX_SECRET_BYTES or len(value.encode()) > MAX_SECRET_BYTES:
        raise Invalid(f"a secret has at most {MAX_SECRET_BYTES} bytes", code="too_large")
    if "\0" in value:
        raise Invalid("a secret can't hold a NUL character: it becomes an environment variable")
    if hosts and not _FILLED_IN.fullmatch(value):
        raise Invalid(
            "a secret with hosts is put into headers: it can't be empty, hold a line's end or another control "
            "character, or begin or end with a space"
        )
    return value


def check_hosts(hosts: Iterable[str]) -> tuple[str, ...]:
    """Host names, `*.` in front for all below a name of at least two parts, `:PORT` behind, `https://` (the same as
    nothing) or `http://` before all of it. Errors: Invalid.
    """
    distinct = tuple(dict.fromkeys(host.lower() for host in hosts))
    if len(distinct) > MAX_HOSTS:
        raise Invalid(f"a secret names at most {MAX_HOSTS} hosts")
    for host in distinct:
        found = _HOST.fullmatch(host)
        if found is None or len(found["name"]) > 253 or int(found["port"] or 1) not in range(1, 65536):
            example = "api.example.com, *.example.com, api.example.com:8443 or http://api.example.com"
            raise Invalid(f"{host[:100]!r} is no host such as {example}")
        # Nobody means everything below .com; and `*.0.0.1` would be addresses.
        if found["wild"] and ("." not in found["name"] or found["name"].rsplit(".", 1)[1].isdigit()):
            raise Invalid(f"{host[:100]!r} is too wide: *. stands before a name of at least two parts")
    return distinct
