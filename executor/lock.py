"""A lock: the resolved requirements as text, one a line, the same on every host. Pure.

`name==1.2 --hash=sha256:…` is installed from wheels with one of these hashes. `name==1.2 --hash=sha256:…  # sdist` has
no usable wheel: the hash is the source distribution's, and each host builds its own wheel from it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from packaging.utils import canonicalize_name

MAX_LOCK = 4 << 20

_LINE = re.compile(
    r"(?P<name>[a-z0-9](?:[a-z0-9-]*[a-z0-9])?)==(?P<version>[A-Za-z0-9.!+_-]+)"
    r"(?P<hashes>(?: --hash=sha256:[0-9a-f]{64})+)(?P<sdist>  # sdist)?"
)
_SDIST = "  # sdist"


@dataclass(frozen=True)
class Pin:
    """One resolved requirement. `hashes` are SHA-256 in hex; of an sdist it is just the one of its archive."""

    name: str
    version: str
    hashes: tuple[str, ...]
    is_sdist: bool = False


def dump(pins: list[Pin]) -> str:
    """The lock of these pins, in order of their names."""
    return "".join(_line(pin) + "\n" for pin in sorted(pins, key=lambda pin: pin.name))


def load(text: str) -> list[Pin]:
    """Errors: ValueError for a line that isn't a pin: uv never sees a line that could be an option."""
    if len(text) > MAX_LOCK:
        raise ValueError(f"the lock is longer than {MAX_LOCK} characters")
    pins = []
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        if found is None:
            raise ValueError(f"not a line of a lock: {line[:200]!r}")
        hashes = tuple(part.removeprefix("--hash=sha256:") for part in found["hashes"].split())
        pins.append(Pin(found["name"], found["version"], hashes, is_sdist=found["sdist"] is not None))
    return pins


def from_uv(output: str, sdists: Mapping[tuple[str, str], str]) -> list[Pin]:
    """The pins in what `uv pip compile --generate-hashes` wrote. `sdists` gives the archive's hash of those pins, by
    (name, version), that are built here. Errors: ValueError.
    """
    joined = re.sub(r"\s*\\\n\s*", " ", output)
    pins = []
    for line in joined.splitlines():
        row = line.split(" #")[0].strip()
        if not row or row.startswith("#"):
            continue
        first, *options = row.split()
        name, _, version = first.partition("==")
        pin = Pin(
            canonicalize_name(name), version, tuple(sorted(option[len("--hash=sha256:") :] for option in options))
        )
        archive = sdists.get((pin.name, pin.version))
        pins.append(pin if archive is None else Pin(pin.name, pin.version, (archive,), is_sdist=True))
    load(dump(pins))
    return pins


def requirements(pins: list[Pin], wheels: Mapping[str, str]) -> str:
    """What uv installs: `wheels` gives the hash of the wheel that was built, by the pin's name."""
    return dump([Pin(pin.name, pin.version, (wheels[pin.name],)) if pin.is_sdist else pin for pin in pins])


def _line(pin: Pin) -> str:
    hashes = "".join(f" --hash=sha256:{digest}" for digest in pin.hashes)
    return f"{pin.name}=={pin.version}{hashes}{_SDIST if pin.is_sdist else ''}"
