"""What a run contacted, or tried to: bounded, and a JSON object a line when the run is over. Pure."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime

from executor.redact import HIDDEN, LEAST_HIDDEN

MAX_TOLD = 20
MAX_ENTRIES = 999  # with the one for the rest a list of the API's


@dataclass
class Contact:
    """A connection, or a refused try. `verdict`: allowed, denied, failed. Sizes in bytes, as the workflow sees them."""

    at: datetime
    host: str
    # 0: it came no further than asking for the name.
    port: int
    address: str = ""
    verdict: str = "allowed"
    reason: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    seconds: float = 0.0
    # The names of those that were filled in on it.
    secrets: list[str] = field(default_factory=list)

    @property
    def target(self) -> str:
        """Whom it was for, such as `api.example.com:443`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port else host


class EgressLog:
    """Of one run."""

    def __init__(self) -> None:
        self._contacts: list[Contact] = []
        self._refused: set[tuple[str, int]] = set()
        self._rest = 0
        self._rest_in = 0
        self._rest_out = 0
        self._hidden: re.Pattern[str] | None = None

    def hide(self, values: Iterable[str]) -> None:
        """From now on these stand nowhere in it: somebody may ask for `VALUE.example.com`."""
        long = [re.escape(value) for value in values if len(value) >= LEAST_HIDDEN]
        self._hidden = re.compile("|".join(long), re.IGNORECASE) if long else None

    def add(self, contact: Contact) -> None:
        """Once it is over. The same refusal, and the same look-up in vain, is written down once."""
        if self._hidden:
            contact.host = self._hidden.sub(HIDDEN, contact.host)
            contact.reason = self._hidden.sub(HIDDEN, contact.reason)
        if contact.verdict == "denied" or not contact.port:
            refusal = (contact.host, contact.port)
            if refusal in self._refused:
                return
            if len(self._refused) < MAX_ENTRIES:
                self._refused.add(refusal)
        if len(self._contacts) < MAX_ENTRIES:
            self._contacts.append(contact)
            return
        self._rest += 1
        self._rest_in += contact.bytes_in
        self._rest_out += contact.bytes_out

    @property
    def bytes_carried(self) -> int:
        """Both ways, in all."""
        return self._rest_in + self._rest_out + sum(each.bytes_in + each.bytes_out for each in self._contacts)

    @property
    def refusals(self) -> list[str]:
        """The first ones, for the run's own log."""
        denied = [each for each in self._contacts if each.verdict == "denied"]
        return [f"a connection to {each.target} was refused: {each.reason}" for each in denied[:MAX_TOLD]]

    @property
    def failures(self) -> list[tuple[str, int, str]]:
        """(host, port, why) of what wasn't reached."""
        return [(each.host, each.port, each.reason) for each in self._contacts if each.verdict != "allowed"]

    def lines(self) -> bytes:
        """NDJSON in order of time; empty when there was nothing. Beyond 999 contacts the last line sums up the rest."""
        items = [_item(contact) for contact in sorted(self._contacts, key=lambda contact: contact.at)]
        if self._rest:
            reason = f"{self._rest} more are not listed"
            more = Contact(self._contacts[-1].at, "", 0, "", "omitted", reason, self._rest_in, self._rest_out)
            items.append(_item(more))
        return b"".join(json.dumps(item).encode() + b"\n" for item in items)


def _item(contact: Contact) -> dict[str, object]:
    milliseconds = contact.at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return vars(contact) | {"at": milliseconds, "seconds": round(contact.seconds, 3)}
