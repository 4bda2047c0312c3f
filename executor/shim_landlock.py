"""Landlock, from inside: what a sandbox may touch is said once more, independently of what it is shown.

Standard library only, beside shim.py in the sandbox. The kernel asks it about every path, whatever mounts, modes and
owners allow. A rule binds to a directory, not to its name, and what is mounted over that has none; so a slot, whose
/tmp, /workflow and /proc are mounted after it was forked, confines itself, and its template only as far as that is
right for both: no abstract sockets and no signals to anybody else, no device nodes, orders to devices only below /dev.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# From which version of Landlock on a right is known (linux/landlock.h).
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
REMOVE_DIR, REMOVE_FILE = 1 << 4, 1 << 5
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (1 << bit for bit in range(6, 13))
REFER, TRUNCATE, IOCTL_DEV = 1 << 13, 1 << 14, 1 << 15
_SINCE = ((1, (1 << 13) - 1), (2, REFER), (3, TRUNCATE), (5, IOCTL_DEV))
_SCOPES_SINCE, _QUIET_SINCE = 6, 7
_LACKING = ((3, "truncating files"), (5, "orders to devices"), (_SCOPES_SINCE, "abstract sockets and signals"))
_ABSTRACT_SOCKETS, _SIGNALS = 1, 2
# The kernel's audit log isn't a workflow's to fill: LANDLOCK_RESTRICT_SELF_LOG_SAME_EXEC_OFF, …_SUBDOMAINS_OFF.
_QUIET = 1 | 4

_READ = EXECUTE | READ_FILE | READ_DIR
_DEVICE = READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV
_OF_FILES = EXECUTE | READ_FILE | WRITE_FILE | TRUNCATE | IOCTL_DEV
_NODES = MAKE_CHAR | MAKE_BLOCK
_OWN = (1 << 15) - 1 & ~_NODES  # all but device nodes and orders to devices
_OF_TEMPLATES = _NODES | IOCTL_DEV | REFER

READ_ONLY = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/runmesh", "/dev")
DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/ptmx", "/dev/pts")
PROC = "/proc"
WRITABLE = ("/tmp", "/var/tmp", "/workflow", "/dev/shm")  # noqa: S108  # inside

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # on every machine
_VERSION, _PATH_BENEATH = 1, 1
_libc = ctypes.CDLL(None, use_errno=True)


def confine(*, template: bool = False) -> str:
    """Confines this thread, and all that it will start, for good; no privilege but `no_new_privs` is needed.

    Returns what this kernel can't do of it, as words; empty when all is in force. Errors: OSError when something that
    it can do fails: nothing may run then.
    """
    if VERSION < 2:  # the first forbids to move files between directories
        return f"no Landlock of a version that can be used ({VERSION})"
    known = sum(rights for since, rights in _SINCE if since <= VERSION)
    scopes = _ABSTRACT_SOCKETS | _SIGNALS if VERSION >= _SCOPES_SINCE else 0
    handled = known & (_OF_TEMPLATES if template else _OWN | _NODES | IOCTL_DEV)
    with _ruleset(handled, scopes) as ruleset:
        for path, rights in _TEMPLATE_RULES if template else _RULES:
            if rights & handled:
                _allow(ruleset, path, rights & handled)
        _call(_RESTRICT_SELF, ruleset, _QUIET if VERSION >= _QUIET_SINCE else 0)
    lacking = [name for since, name in _LACKING if since > VERSION]
    return f"Landlock (version {VERSION}) doesn't cover {', '.join(lacking)}" if lacking else ""


def _rules() -> list[tuple[str, int]]:
    """Path → rights below it. Links lead to what has a rule of its own."""
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    rules = dict.fromkeys((os.path.realpath(path) for path in prefixes), _READ)
    rules |= {path: _READ for path in READ_ONLY if not os.path.islink(path)}  # noqa: PTH114  # cheap in each start
    rules |= dict.fromkeys(DEVICES, _DEVICE | READ_DIR) | {PROC: _READ | WRITE_FILE | TRUNCATE}
    rules |= dict.fromkeys(WRITABLE, _OWN)
    return [
        (path, rights if os.path.isdir(path) else rights & _OF_FILES)  # noqa: PTH112  # as above
        for path, rights in rules.items()
        if os.path.exists(path)  # noqa: PTH110  # as above
    ]


def _version() -> int:
    """0: this kernel has none, or it is turned off."""
    try:
        return _call(_CREATE_RULESET, None, 0, _VERSION)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP):
            return 0
        raise


@contextmanager
def _ruleset(handled: int, scoped: int) -> Iterator[int]:
    attributes = struct.pack("=QQQ", handled, 0, scoped)
    if not scoped:  # which older versions don't know
        attributes = attributes[:8]
    ruleset = _call(_CREATE_RULESET, attributes, len(attributes), 0)
    try:
        yield ruleset
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    """Below this path; one that isn't there any more needs no rule."""
    with suppress(FileNotFoundError):
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", rights, place), 0)
        finally:
            os.close(place)


def _call(number: int, *arguments: int | bytes | None) -> int:
    """Errors: OSError."""
    passed = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = int(_libc.syscall(ctypes.c_long(number), *passed))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"Landlock: {os.strerror(code)}")
    return result


VERSION = _version()
_RULES = _rules()
_TEMPLATE_RULES = [("/", REFER), ("/dev", IOCTL_DEV)]  # every ruleset forbids moves that no rule allows
