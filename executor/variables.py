"""A run's environment variables: what its header declares, filled from secrets and defaults, and the platform's own."""

import os
import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import MappingProxyType
from typing import Protocol
from urllib.parse import urlsplit

from executor.bubblewrap import CERTIFICATES
from executor.egress.authority import BUNDLE
from executor.egress.fill import FillIn, fill_in
from executor.egress.fixed import NEAR, is_near, plain_host
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
_PORTS = {"http": 80, "https": 443, "smtp": 587, "smtps": 465, "redis": 6379, "rediss": 6379, "nats": 4222}
_CREDENTIAL = re.compile("KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL")
_PASSWORD = re.compile(r"\w://[^/@\s]*?:([^/@\s]+)@")
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
    # What no text that others read may show: the secrets' values, and the operator's.
    hidden: tuple[str, ...] = field(default=(), repr=False)
    # (host, port) of the only places that it may connect to, wherever they are; none: as its egress list says.
    reach: tuple[tuple[str, int], ...] = ()


class Variables:
    """What runs are given. `settings`: the operator's environment."""

    def __init__(self, secrets: SecretValues, settings: Mapping[str, str] = MappingProxyType({})) -> None:
        self._secrets = secrets
        self._settings = settings

    async def of(
        self, version: Version, organization_id: str, *, intercepted: bool = False, library: str = ""
    ) -> Given:
        """For a run that uses this organization's secrets; `intercepted`, whatever these are. `library`: it is a
        run of that service, for which RUNMESH_<SERVICE>_… are the operator's settings, not secrets; where those that
        end in _URL lead it may go, and nowhere else.

        Errors: Precondition missing_secret, Unavailable.
        """
        declared = {name: value for name, value in version.env_vars.items() if name not in PLATFORM_NAMES}
        settings = self._of_operator(declared, library) if library else {}
        declared = {name: default for name, default in declared.items() if name not in settings}
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
        reach = []
        for name in [name for name, value in settings.items() if name.endswith("_URL") and value]:
            target, settings[name] = _target(name, settings[name])
            reach.append(target)
        env = environment(inside | settings, intercepted=intercepted or bool(fill_ins))
        hidden = (*(value for _, value in secrets), *_credentials(settings))
        return Given(env, fill_ins, secrets, hidden, tuple(reach))

    def _of_operator(self, declared: Mapping[str, str | None], service_id: str) -> dict[str, str]:
        """Errors: Precondition missing_secret."""
        prefix = f"RUNMESH_{re.sub('[^A-Z0-9]', '_', service_id.upper())}_"
        ours = {name: default for name, default in declared.items() if name.startswith(prefix)}
        found = {name: self._settings.get(name) or default for name, default in ours.items()}
        missing = [name for name, value in found.items() if value is None]
        if missing:
            raise Precondition(
                f"the operator of this platform hasn't configured {service_id}: set {', '.join(missing)} in the "
                "environment of `runmesh up`, and start it again",
                code="missing_secret",
            )
        return {name: value for name, value in found.items() if value is not None}


def _credentials(settings: Mapping[str, str]) -> list[str]:
    """Those among the operator's settings, also the passwords in addresses."""
    named = [value for name, value in settings.items() if _CREDENTIAL.search(name)]
    return named + [found[1] for value in settings.values() if (found := _PASSWORD.search(value))]


def _target(name: str, url: str) -> tuple[tuple[str, int], str]:
    """Where this address leads, and how the sandbox is told. Errors: Precondition missing_secret."""
    try:
        parts = urlsplit(url)
        host, port = plain_host(parts.hostname or ""), parts.port or _PORTS[parts.scheme]
    except (ValueError, KeyError):
        told = f"the operator's setting {name} is no address such as https://api.example.com/v1"
        raise Precondition(told, code="missing_secret") from None
    who, at, _ = parts.netloc.rpartition("@")
    return (host, port), parts._replace(netloc=f"{who}{at}{NEAR}:{port}").geturl() if is_near(host) else url


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
