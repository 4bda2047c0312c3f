"""The system-call filter of every sandbox, as the bytes that `bwrap --seccomp FD` takes. Pure.

A list of what is allowed (syscalls.py), loaded last, when capabilities are gone already. What isn't listed doesn't
exist for a workflow (ENOSYS): libraries then fall back, to clone, whose flags a filter can read, and to epoll. Foreign
ABIs kill. The list is searched by halves, so that every call is decided within a dozen steps; a kernel since 5.11
remembers which calls are always allowed and runs no step at all for them.
"""

import errno
import platform
import struct
from collections.abc import Mapping
from dataclasses import dataclass

from executor import syscalls

LOAD, JUMP, JUMP_EQUAL, JUMP_ABOVE, JUMP_ANY_BIT, MASK, RETURN = 0x20, 0x05, 0x15, 0x35, 0x45, 0x54, 0x06
ALLOW, KILL, ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
NUMBER, ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
X32_BIT = 0x40000000
FARTHEST = 255  # of a conditional jump
# CLONE_NEWNS NEWCGROUP NEWUTS NEWIPC NEWUSER NEWPID NEWNET; in clone's lowest byte, where CLONE_NEWTIME would be, lies
# the signal.
NEW_NAMESPACES = 0x7E020000
NEW_TIME = 0x80
# How a template clones a slot: SIGCHLD, CLONE_NEWNS NEWUTS NEWIPC NEWUSER NEWPID NEWNET (shim_template.py).
SLOT = 17 | 0x00020000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
# And how it takes a slot's capabilities.
OF_TEMPLATES = "capset"
FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6
SOCKET_TYPES = (1, 2, 5)  # SOCK_STREAM, SOCK_DGRAM, SOCK_SEQPACKET: the last only AF_UNIX has without SCTP
TYPE_BITS = 0xF
PROTOCOLS = (0, 6, 17)  # the family's own, TCP, UDP
TERMINAL_INJECTIONS = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX

Steps = list[bytes]


@dataclass(frozen=True)
class Machine:
    """A processor architecture: its audit number, and name → number of the calls that are allowed and denied on it."""

    audit: int
    allowed: Mapping[str, int]
    denied: Mapping[str, int]
    has_x32: bool


MACHINES = {
    "x86_64": Machine(0xC000003E, syscalls.ALLOWED_X86_64, syscalls.DENIED_X86_64, has_x32=True),
    "aarch64": Machine(0xC00000B7, syscalls.ALLOWED_AARCH64, syscalls.DENIED_AARCH64, has_x32=False),
}


def program(machine: str = platform.machine(), *, template: bool = False) -> bytes:
    """The filter for a machine as `uname -m` names it; a `template` may also clone slots, with exactly their flags.

    Errors: ValueError for a machine that we don't know.
    """
    if machine not in MACHINES:
        raise ValueError(f"there is no system-call filter for {machine}; known are {', '.join(MACHINES)}")
    known = MACHINES[machine]
    code = [_load(ARCHITECTURE), _jump(JUMP_EQUAL, known.audit, 1, 0), _return(KILL), _load(NUMBER)]
    if known.has_x32:
        code += [_jump(JUMP_ABOVE, X32_BIT, 0, 1), _return(KILL)]
    return b"".join(code + _search(_stretches(_verdicts(known, template=template))))


def _verdicts(known: Machine, *, template: bool) -> dict[int, Steps]:
    """Number → what is done with the call."""
    verdicts = {number: [_return(ALLOW)] for number in known.allowed.values()}
    verdicts |= {number: [_fail(errno.EPERM)] for number in known.denied.values()}
    slots = []
    if template:
        slots = [_jump(JUMP_EQUAL, SLOT, 0, 1), _return(ALLOW)]
        verdicts[known.denied[OF_TEMPLATES]] = [_return(ALLOW)]
    bad_flags = [_jump(JUMP_ANY_BIT, NEW_NAMESPACES, 0, 1), _fail(errno.EPERM)]
    bad_parts = [_jump(JUMP_ANY_BIT, NEW_NAMESPACES | NEW_TIME, 0, 1), _fail(errno.EPERM)]
    injections = [step for it in TERMINAL_INJECTIONS for step in (_jump(JUMP_EQUAL, it, 0, 1), _fail(errno.EPERM))]
    looked_at = {
        "socket": _sockets(),
        "socketpair": _sockets(),
        "clone": [_argument(0), *slots, *bad_flags],
        "unshare": [_argument(0), *bad_parts],
        "personality": [_argument(0), *_unless((0, 0xFFFFFFFF), errno.EPERM)],
        "ioctl": [_argument(1), *injections],
    }
    return verdicts | {known.allowed[name]: [*steps, _return(ALLOW)] for name, steps in looked_at.items()}


def _stretches(verdicts: Mapping[int, Steps]) -> list[tuple[int, Steps]]:
    """(first number, verdict) in order, each up to the next one; what isn't listed doesn't exist."""
    unknown = [_fail(errno.ENOSYS)]
    found: list[tuple[int, Steps]] = [(0, verdicts.get(0, unknown))]
    for number in range(1, max(verdicts) + 2):
        verdict = verdicts.get(number, unknown)
        if verdict != found[-1][1]:
            found.append((number, verdict))
    return found


def _search(stretches: list[tuple[int, Steps]]) -> Steps:
    """Finds the stretch of the loaded number by halves, and runs its verdict."""
    if len(stretches) == 1:
        return stretches[0][1]
    middle = len(stretches) // 2
    below, above = _search(stretches[:middle]), _search(stretches[middle:])
    first = stretches[middle][0]
    if len(below) <= FARTHEST:
        return [_jump(JUMP_ABOVE, first, len(below), 0), *below, *above]
    return [_jump(JUMP_ABOVE, first, 0, 1), _step(JUMP, len(below)), *below, *above]


def _sockets() -> Steps:
    """Streams and datagrams of three families; raw sockets and rarer protocols stay out."""
    return [
        _argument(0),
        *_unless(FAMILIES, errno.EAFNOSUPPORT),
        _argument(1),
        _step(MASK, TYPE_BITS),
        *_unless(SOCKET_TYPES, errno.ESOCKTNOSUPPORT),
        _argument(2),
        *_unless(PROTOCOLS, errno.EPROTONOSUPPORT),
    ]


def _unless(allowed: tuple[int, ...], error: int) -> Steps:
    """Fails when what was loaded is none of `allowed`."""
    last = len(allowed)
    return [*(_jump(JUMP_EQUAL, value, last - place, 0) for place, value in enumerate(allowed)), _fail(error)]


def _argument(index: int) -> bytes:
    """The lower half of an argument, on little-endian machines: all that is looked at here are ints."""
    return _load(16 + 8 * index)


def _load(offset: int) -> bytes:
    return _step(LOAD, offset)


def _jump(kind: int, value: int, when: int, otherwise: int) -> bytes:
    return struct.pack("=HBBI", kind, when, otherwise, value)


def _return(action: int) -> bytes:
    return _step(RETURN, action)


def _fail(error: int) -> bytes:
    return _return(ERRNO | error)


def _step(code: int, operand: int) -> bytes:
    return struct.pack("=HBBI", code, 0, 0, operand)
