"""A run that is recorded, or answered from a recording: what is different for it, from its launch to what is kept.

An offline run is recorded, too: what it asked for is what its replay is compared by.
"""

import hashlib
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from typing import Any, Protocol

from executor.egress.authority import Authority
from executor.egress.cassette import Cassette
from executor.egress.gate import Gate, Internet
from executor.egress.intercept import Interception
from executor.egress.log import EgressLog
from executor.egress.offline import Offline, OfflineGate
from executor.egress.recorded import RecordedInterception, RecordedNested
from executor.egress.recorder import MOST_BYTES, Mask, Recorder
from executor.egress.relay import Notes
from executor.model import Spec, Version, sha256_hex
from executor.sandbox import Head, Launch
from executor.variables import Given
from executor.wayout import Nested
from kit.clock import Clock
from kit.errors import NotFound, Precondition

# Twice what is kept of bodies, as base64 has it, and the rest.
MOST_DOCUMENT = 4 * MOST_BYTES
SEED_BYTES = 16


class Recordings(Protocol):
    """The filestore, by digest."""

    def get(self, digest: str) -> AsyncIterator[bytes]:
        """Errors: NotFound, Unavailable."""


class Recording:
    """Of one attempt. `cassette`: what answers it, offline."""

    def __init__(self, version: Version, given: Given, authority: Authority, clock: Clock, cassette: Cassette | None):
        self._version = version
        self._given = given
        self._authority = authority
        self._clock = clock
        self._cassette = cassette
        self._began: datetime = clock.now()
        self._input = hashlib.sha256()
        self._input_bytes = 0
        self._seed = cassette.seed if cassette else secrets.token_hex(SEED_BYTES)
        self._recorder = Recorder(Mask(given.secrets))
        outside = {one.name for one in given.fill_ins}
        inside = [(name, value) for name, value in given.secrets if name not in outside]
        self._offline = Offline(cassette, authority, self._recorder, self._now, inside) if cassette else None

    def launch(self, launch: Launch) -> Launch:
        """Its own sandbox, which trusts us; without a network while it is imported, where it is to have none later."""
        isolation = "run" if launch.isolation == "instance" else launch.isolation
        egress = () if self._cassette else launch.egress
        return replace(launch, isolation=isolation, egress=egress, certificates=self._authority.directory)

    @property
    def nested(self) -> Nested:
        """For its calls of the runtime."""
        return self._offline or RecordedNested(self._recorder, self._now)

    @property
    def offline(self) -> Offline | None:
        """None for a run that goes out."""
        return self._offline

    def interception(self) -> Interception:
        """For its connections to anywhere else."""
        notes = Notes(self._recorder, self._now)
        return RecordedInterception(self._authority, self._given.fill_ins, notes)

    def gate(self, internet: Internet) -> Gate | None:
        """None for the one that its rules make."""
        return OfflineGate(internet, self._cassette) if self._cassette else None

    def begin(self, request: Head) -> Head:
        """The clock starts: what the sandbox has to repeat goes with the request."""
        self._began = self._clock.now()
        repeat: dict[str, Any] = {"seed": self._seed}
        if self._cassette:
            repeat["clock"] = self._cassette.clock
        return replace(request, repeat=repeat)

    async def heard(self, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The input's body, as it goes by."""
        async for chunk in body:
            self._input.update(chunk)
            self._input_bytes += len(chunk)
            yield chunk

    def document(self, contacts: EgressLog) -> bytes:
        """The recording, JSON."""
        for host, port, reason in contacts.failures:
            self._recorder.unreachable(host, port, reason)
        version = self._version
        return self._recorder.document({
            "versionId": version.id,
            "code": version.source_digest,
            "lock": sha256_hex(version.lock.encode()),
            "python": version.python,
            "input": {"sha256": self._input.hexdigest(), "bytes": self._input_bytes},
            "seed": self._seed,
            "clock": self._cassette.clock if self._cassette else self._began.timestamp(),
        })  # fmt: skip

    def close(self) -> None:
        """Once."""
        self._recorder.close()

    def _now(self) -> float:
        return (self._clock.now() - self._began).total_seconds()


async def recording_for(
    spec: Spec, version: Version, given: Given, authority: Authority, clock: Clock, blobs: Recordings
) -> Recording | None:
    """None for a run like any other. Errors: Precondition when the recording that it needs is gone; Unavailable."""
    if not (spec.record or spec.offline_digest):
        return None
    cassette = await _cassette(spec.offline_digest, blobs) if spec.offline_digest else None
    return Recording(version, given, authority, clock, cassette)


async def _cassette(digest: str, blobs: Recordings) -> Cassette:
    parts, size = [], 0
    try:
        async for chunk in blobs.get(digest):
            parts.append(chunk)
            size += len(chunk)
            if size > MOST_DOCUMENT:
                raise Precondition("the recording is too long", code="too_large")
        return Cassette(b"".join(parts))
    except NotFound:
        raise Precondition("the recording is kept no longer", code="not_supported") from None
    except ValueError:
        raise Precondition("the recording can't be read", code="not_supported") from None
