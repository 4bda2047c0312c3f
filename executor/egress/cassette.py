"""A recording that is played: which answer belongs to which request. Pure."""

import base64
import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from executor.egress.fill import Headers

Place = tuple[str, str, int, str, str]  # scheme, host, port, method, target


@dataclass(frozen=True)
class Recorded:
    """An answer. `failed`: why it isn't whole; `body` None: it was too long to be kept."""

    digest: str
    status: int
    headers: Headers
    body: bytes | None
    failed: str


class Cassette:
    """One replay's: each answer is given once."""

    def __init__(self, document: bytes) -> None:
        """Errors: ValueError for what is no recording."""
        try:
            content = json.loads(document)
            self.seed = str(content["seed"])
            self.clock = float(content["clock"])
            self._answers: dict[Place, list[Recorded]] = defaultdict(list)
            for each in content["exchanges"]:
                place = (each["scheme"], each["host"], int(each["port"]), each["method"], each["target"])
                self._answers[place].append(_recorded(each))
            self.unreachable = {(one["host"], int(one["port"])): str(one["reason"]) for one in content["unreachable"]}
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError("it isn't a recording") from error
        self.hosts = {place[1] for place in self._answers} | {host for host, port in self.unreachable if port}

    def answers_at(self, host: str, port: int) -> bool:
        """Whether there is any answer of this host and port, used or not."""
        return any(place[1:3] == (host, port) for place in self._answers)

    def take(self, place: Place, digest: str) -> Recorded | None:
        """The first that hasn't been used: to a request with the same body, else to any. None: there is none."""
        left = self._answers.get(place)
        if not left:
            return None
        found = next((one for one in left if one.digest == digest), left[0])
        left.remove(found)
        return found


def _recorded(each: Mapping[str, Any]) -> Recorded:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in each["headers"]]
    body = None if each["body"] is None else base64.b64decode(each["body"])
    return Recorded(each["requestDigest"], each["status"] or 0, headers, body, each["failed"])
