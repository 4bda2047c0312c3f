"""The packets of DNS, as far as a resolver in a sandbox needs them (RFC 1035). Pure; what comes in is hostile."""

import ipaddress
import struct
from dataclasses import dataclass

TYPE_A, CLASS_INTERNET = 1, 1
OK, MALFORMED, FAILED, NO_SUCH_NAME, NOT_IMPLEMENTED = 0, 1, 2, 3, 4
MAX_PACKET = 4096
TTL_SECONDS = 60
_RESPONSE, _OPERATION, _RECURSION_DESIRED, _RECURSION_AVAILABLE = 0x8000, 0x7800, 0x0100, 0x0080
_HEADER = struct.Struct("!6H")
_TO_THE_QUESTION = 0xC000 | _HEADER.size  # a compressed name


@dataclass(frozen=True)
class Question:
    """What somebody asks. `name` without its last dot, as it was spelled."""

    number: int
    flags: int
    name: str
    kind: int
    class_: int
    raw: bytes  # the question section

    @property
    def wants_address(self) -> bool:
        """Of IPv4: the only thing that there ever is to say."""
        return self.kind == TYPE_A and self.class_ == CLASS_INTERNET


class Unanswerable(Exception):
    """No question. `reply` is what to say to it; empty: nothing."""

    def __init__(self, reply: bytes = b"") -> None:
        super().__init__("not a question")
        self.reply = reply


def parse(packet: bytes) -> Question:
    """Errors: Unanswerable."""
    if len(packet) < _HEADER.size or len(packet) > MAX_PACKET:
        raise Unanswerable
    number, flags, questions, *_ = _HEADER.unpack_from(packet)
    if flags & _RESPONSE:
        raise Unanswerable
    if flags & _OPERATION:
        raise Unanswerable(_header(number, flags, NOT_IMPLEMENTED, 0, 0))
    malformed = Unanswerable(_header(number, flags, MALFORMED, 0, 0))
    if questions != 1:
        raise malformed
    labels: list[str] = []
    place = _HEADER.size
    while place < len(packet) and (length := packet[place]):
        label = packet[place + 1 : place + 1 + length]
        place += 1 + length
        # A pointer (0xC0) makes no sense in the first name of a packet.
        if length > 63 or len(label) < length or place > _HEADER.size + 254 or b"." in label or not label.isascii():
            raise malformed
        labels.append(label.decode())
    end = place + 5
    if end > len(packet):
        raise malformed
    kind, class_ = struct.unpack_from("!HH", packet, place + 1)
    return Question(number, flags, ".".join(labels), kind, class_, packet[_HEADER.size : end])


def reply(question: Question, code: int, address: ipaddress.IPv4Address | None = None) -> bytes:
    """With the address, where one is given and was asked for."""
    answer = b""
    if address is not None and code == OK and question.wants_address:
        answer = struct.pack("!HHHIH", _TO_THE_QUESTION, TYPE_A, CLASS_INTERNET, TTL_SECONDS, 4) + address.packed
    return _header(question.number, question.flags, code, 1, 1 if answer else 0) + question.raw + answer


def _header(number: int, flags: int, code: int, questions: int, answers: int) -> bytes:
    kept = flags & (_OPERATION | _RECURSION_DESIRED)
    return _HEADER.pack(number, _RESPONSE | kept | _RECURSION_AVAILABLE | code, questions, answers, 0, 0)
