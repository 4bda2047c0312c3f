"""A run's environment variables: what its header declares, filled from secrets and defaults, and the platform's own."""

import os
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from executor.bubblewrap import CERTIFICATES
from executor.egress.authority import BUNDLE
from executor.egress.fill import FillIn, fill_in
from executor.model import Secret, Version
from kit.clock import Clock
from kit.errors import Precondition

RUNTIME_HOST = "runtime.runmesh"
RUNTIME_URI = f"http://{RUNTIME_HOST}"
# It means something only on the sandbox's own way out, where the proxy puts the run's identity in its place.
RUN_TOKEN = "cwk-run-placeholder"  # noqa: S105  # no secret: see above
PLATFORM_NAMES = frozenset({"PORT", "LOGLEVEL", "CODEWORDS_API_KEY", "CODEWORDS_RUNTIME_URI", "RUNTIME_URI"})
# What OpenSSL, requests, curl and Node.js read the authorities from that they trust.
TRUST_NAMES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS")
FRESH = timedelta(seconds=1)
REMEMBERED = 1024
_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


class SecretValues(Protocol):
    """The keys service's secrets."""

    async def values(self, organization_id: str, names: Sequence[str]) -> dict[str, Secret]:
        """Those that exist. Errors: Unavailable."""


class FreshSecrets:
    """Secrets, remembered for a second at most, and not past a change that we hear of."""

    def __init__(self, source: SecretValues, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._known: OrderedDict[tuple[str, tuple[str, ...]], tuple[datetime, dict[str, Secret]]] = OrderedDict()
        self._changes: dict[str, int] = {}

    async def values(self, organization_id: str, names: Sequence[str]) -> dict[str, Secret]:
        """Those of `names` that exist. Errors: Unavailable."""
        key = (organization_id, tuple(names))
        found = self._known.get(key)
        if found and found[0] > self._clock.now():
            return found[1]
        asked, changes = self._clock.now(), self._changes.get(organization_id, 0)
        values = await self._source.values(organization_id, names)
        if self._changes.get(organization_id, 0) == changes:  # else it changed while we asked
            self._known[key] = (asked + FRESH, values)
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return values

    def forget(self, organization_id: str) -> None:
        """A secret of this organization has changed."""
        self._changes[organization_id] = self._changes.get(organization_id, 0) + 1
        for key in [key for key in self._known if key[0] == organization_id]:
            del self._known[key]


@dataclass(frozen=True)
class Given:
    """What a run is given: the environment of its sandbox, and the secrets that stay outside of it."""

    env: Mapping[str, str] = field(repr=False)
    fill_ins: tuple[FillIn, ...] = ()
    # (name, value) of all secrets among them, inside or outside.
    secrets: tuple[tuple[str, str], ...] = field(default=(), repr=False)


class Variables:
    """What runs are given."""

    def __init__(self, secrets: SecretValues) -> None:
        self._secrets = secrets

    async def of(self, version: Version, organization_id: str, *, intercepted: bool = False) -> Given:
        """For a run that uses this organization's secrets; `intercepted`, whatever these are.

        Errors: Precondition missing_secret, Unavailable.
        """
        declared = {name: value for name, value in version.env_vars.items() if name not in PLATFORM_NAMES}
        found = await self._secrets.values(organization_id, sorted(declared)) if declared else {}
        missing = [name for name, default in declared.items() if default is None and name not in found]
        if missing:
            names = ", ".join(missing)
            raise Precondition(
                f"the workflow needs secrets that don't exist: {names}; set each by PUT /secrets/NAME",
                code="missing_secret",
            )
        inside = {
            name: found[name].inside(name) if name in found else default or "" for name, default in declared.items()
        }
        outside = {name: found[name] for name in declared if name in found and found[name].hosts}
        fill_ins = tuple(fill_in(name, secret.value, secret.hosts) for name, secret in outside.items())
        secrets = tuple((name, found[name].value) for name in declared if name in found)
        return Given(environment(inside, intercepted=intercepted or bool(fill_ins)), fill_ins, secrets)


def environment(declared: Mapping[str, str], *, intercepted: bool = False) -> dict[str, str]:
    """The declared variables among the platform's, which win where they are ours by name (SPEC §4). `intercepted`: its
    clients are to trust the authority of this executor's egress, too.
    """
    defaults = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "HOME": "/tmp",  # noqa: S108  # the run's own directory inside the sandbox
        "LANG": "C.UTF-8",
        "PYTHONUNBUFFERED": "1",
        # A numeric library would start a thread per processor of the host.
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
    }
    if intercepted:
        defaults |= dict.fromkeys(TRUST_NAMES, f"{CERTIFICATES}/{BUNDLE}")
    elif _BUNDLE.exists():
        defaults["SSL_CERT_FILE"] = os.fspath(_BUNDLE)
    ours = {
        "PORT": "8000",
        "LOGLEVEL": "INFO",
        "CODEWORDS_API_KEY": RUN_TOKEN,
        "CODEWORDS_RUNTIME_URI": RUNTIME_URI,
        "RUNTIME_URI": RUNTIME_URI,
    }
    return {**defaults, **declared, **ours}
