"""The filter, run on a model of the kernel's machine for both processors."""

import errno
import re
import struct
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executor import seccomp
from executor.seccomp import ALLOW, ERRNO, KILL, MACHINES

STEP = struct.Struct("=HBBI")
DENIED, MISSING = ERRNO | errno.EPERM, ERRNO | errno.ENOSYS
LOOKED_AT = ("socket", "socketpair", "clone", "unshare", "personality", "ioctl")
# By what an attacker wants; every one a row of its own. Some exist on one processor only.
_NEVER = """
ptrace process_vm_readv process_vm_writev process_madvise pidfd_getfd kcmp
add_key request_key keyctl bpf perf_event_open userfaultfd memfd_secret
mount umount2 pivot_root chroot setns open_tree open_tree_attr move_mount fsopen fsconfig fsmount fspick mount_setattr
statmount listmount name_to_handle_at open_by_handle_at fanotify_init fanotify_mark
swapon swapoff reboot init_module finit_module delete_module kexec_load kexec_file_load acct quotactl quotactl_fd
syslog vmsplice vhangup sethostname setdomainname settimeofday clock_settime clock_adjtime adjtimex
move_pages migrate_pages mbind set_mempolicy set_mempolicy_home_node
modify_ldt iopl ioperm uselib ustat sysfs _sysctl capset
io_uring_setup io_uring_enter io_uring_register clone3 cachestat process_mrelease sync syncfs
mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr remap_file_pages
"""
NEVER = _NEVER.split()
# Not on our lists, so these numbers stand here, from the same tables of the kernel.
UNLISTED = {
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "clone3": (435, 435),
    "cachestat": (451, 451), "process_mrelease": (448, 448), "sync": (162, 81), "syncfs": (306, 267),
    "mq_open": (240, 180), "mq_unlink": (241, 181), "mq_timedsend": (242, 182), "mq_timedreceive": (243, 183),
    "mq_notify": (244, 184), "mq_getsetattr": (245, 185), "remap_file_pages": (216, 234),
}  # fmt: skip
HEADERS = {
    "x86_64": "/usr/include/x86_64-linux-gnu/asm/unistd_64.h",
    "aarch64": "/usr/include/asm-generic/unistd.h",
}
# The calls that a busy server makes all the time.
_HOT = "read write futex epoll_wait epoll_pwait epoll_ctl recvfrom sendto recvmsg sendmsg clock_gettime close mmap"
HOT = _HOT.split()


@cache
def steps_of(program: bytes) -> list[tuple[int, int, int, int]]:
    return [STEP.unpack_from(program, at) for at in range(0, len(program), STEP.size)]


def run(program: bytes, number: int, arguments: tuple[int, ...] = (), audit: int = 0) -> tuple[int, int]:
    """What the filter returns for a call, and in how many steps. Jumps only go forward, so it ends."""
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, audit, 0, *(tuple(arguments) + (0,) * 6)[:6])
    steps = steps_of(program)
    place = value = taken = 0
    while True:
        code, when, otherwise, operand = steps[place]
        place += 1
        taken += 1
        if code == seccomp.LOAD:
            (value,) = struct.unpack_from("=I", data, operand)
        elif code == seccomp.MASK:
            value &= operand
        elif code == seccomp.JUMP:
            place += operand
        elif code == seccomp.RETURN:
            return int(operand), taken
        else:
            met = {
                seccomp.JUMP_EQUAL: value == operand,
                seccomp.JUMP_ABOVE: value >= operand,
                seccomp.JUMP_ANY_BIT: bool(value & operand),
            }[code]
            place += when if met else otherwise


@pytest.fixture(params=list(MACHINES))
def machine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@cache
def program(machine: str, *, template: bool = False) -> bytes:
    return seccomp.program(machine, template=template)


def told(machine: str, call: int | str, *arguments: int, template: bool = False) -> int:
    known = MACHINES[machine]
    number = call if isinstance(call, int) else known.allowed.get(call, known.denied.get(call))
    if number is None:
        number = UNLISTED[str(call)][list(MACHINES).index(machine)]
    return run(program(machine, template=template), number, arguments, known.audit)[0]


def test_an_unknown_machine() -> None:
    with pytest.raises(ValueError, match="riscv64"):
        seccomp.program("riscv64")


@pytest.mark.parametrize("template", [False, True])
def test_it_fits_into_the_kernel(machine: str, template: bool) -> None:
    """And it passes the kernel's own check: every jump lands inside, the last step returns."""
    steps = steps_of(program(machine, template=template))
    assert len(steps) < 300
    for place, (code, when, otherwise, operand) in enumerate(steps):
        if code == seccomp.JUMP:
            assert place + 1 + operand < len(steps)
        elif code != seccomp.RETURN:
            assert place + 1 + max(when, otherwise) < len(steps)
    assert steps[-1][0] == seccomp.RETURN


@pytest.mark.parametrize("template", [False, True])
def test_how_soon_it_is_decided(machine: str, template: bool) -> None:
    known = MACHINES[machine]
    filter_ = program(machine, template=template)
    taken = {name: run(filter_, known.allowed[name], (), known.audit)[1] for name in HOT if name in known.allowed}
    assert max(taken.values()) <= 13, taken
    everything = [run(filter_, number, (2, 1, 0), known.audit)[1] for number in range(1000)]
    assert max(everything) <= 25


def test_foreign_abis_kill(machine: str) -> None:
    i386, arm = 0x40000003, 0x40000028
    for audit in {i386, arm, *(other.audit for other in MACHINES.values())} - {MACHINES[machine].audit}:
        for number in (1, 41, 102, 359):  # socketcall and socket of i386 among them
            assert run(program(machine), number, audit=audit)[0] == KILL
    if machine == "x86_64":
        assert {told(machine, 0x40000000 | number) for number in (0, 1, 41, 59, 512, 520, 0x3FFFFFFF)} == {KILL}
    else:
        assert told(machine, 0x40000000 | 41) == MISSING


@pytest.mark.parametrize("name", NEVER)
@pytest.mark.parametrize("template", [False, True])
def test_denied(machine: str, name: str, template: bool) -> None:
    known = MACHINES[machine]
    if name not in known.denied and name not in UNLISTED:
        assert machine == "aarch64"  # it doesn't exist there
        return
    expected = MISSING if name in UNLISTED else DENIED
    if template and name == "capset":
        expected = ALLOW
    for argument in (0, 1, 0xFFFFFFFFFFFFFFFF):
        assert told(machine, name, argument, argument, argument, template=template) == expected


def test_the_lists_share_nothing(machine: str) -> None:
    known = MACHINES[machine]
    assert not set(known.allowed) & set(known.denied)
    numbers = [*known.allowed.values(), *known.denied.values()]
    assert len(set(numbers)) == len(numbers)
    assert set(known.denied) <= {*NEVER, "lookup_dcookie", "nfsservctl", "create_module", "get_kernel_syms",
                                 "query_module", "get_mempolicy"}  # fmt: skip


def test_every_number_up_to_a_thousand(machine: str) -> None:
    known = MACHINES[machine]
    by_number = {number: name for name, number in known.allowed.items()}
    for number in range(1000):
        result = told(machine, number, 1, 1)
        if number not in by_number:
            assert result == (DENIED if number in known.denied.values() else MISSING), number
        elif by_number[number] not in LOOKED_AT:
            assert result == ALLOW, by_number[number]


@given(
    number=st.integers(0, 0xFFFFFFFF),
    arguments=st.tuples(*[st.integers(0, 0xFFFFFFFFFFFFFFFF)] * 6),
    audit=st.sampled_from([0xC000003E, 0xC00000B7, 0x40000003]) | st.integers(0, 0xFFFFFFFF),
    template=st.booleans(),
)
def test_nothing_that_is_not_listed_is_allowed(
    number: int, arguments: tuple[int, ...], audit: int, template: bool
) -> None:
    for name, known in MACHINES.items():
        result, _ = run(program(name, template=template), number, arguments, audit)
        if result == ALLOW:
            assert audit == known.audit
            assert number in known.allowed.values() or (template and number == known.denied["capset"])
        assert result in {ALLOW, KILL} or result & 0xFFFF0000 == ERRNO


@pytest.mark.parametrize("machine", list(HEADERS))
def test_the_numbers_are_the_kernels(machine: str) -> None:
    """Compared with the headers of this machine, which may be older than our tables."""
    header = Path(HEADERS[machine])
    if not header.exists():
        pytest.skip("there are no kernel headers on this machine to compare with")
    text = header.read_text()
    defined = dict(re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text))
    assert len(defined) > 250
    known = MACHINES[machine]
    generic = {"newfstatat": "fstatat"}  # what asm-generic calls it where it has two forms
    compared = 0
    for name, number in {**known.allowed, **known.denied}.items():
        theirs = defined.get(name) or defined.get(generic.get(name, ""))
        if theirs is None:
            assert number >= 451, name
        else:
            assert int(theirs) == number, name
            compared += 1
    assert compared > 250


@pytest.mark.parametrize("family", range(50))
def test_socket_families(machine: str, family: int) -> None:
    expected = ALLOW if family in (1, 2, 10) else ERRNO | errno.EAFNOSUPPORT
    assert told(machine, "socket", family, 1 | 0o2004000, 0) == expected
    assert told(machine, "socketpair", family, 1, 0) == expected
    assert told(machine, "socket", family, 1, 0, template=True) == expected


def test_socket_types_and_protocols(machine: str) -> None:
    kinds = [kind for kind in range(16) if told(machine, "socket", 2, kind, 0) == ALLOW]
    assert kinds == [1, 2, 5]
    allowed = [protocol for protocol in range(300) if told(machine, "socket", 2, 1, protocol) == ALLOW]
    assert allowed == [0, 6, 17]


NEW = {"NS": 0x20000, "CGROUP": 0x2000000, "UTS": 0x4000000, "IPC": 0x8000000, "USER": 0x10000000, "PID": 0x20000000,
       "NET": 0x40000000}  # fmt: skip


@pytest.mark.parametrize("flag", NEW.values(), ids=list(NEW))
@pytest.mark.parametrize("template", [False, True])
def test_new_namespaces(machine: str, flag: int, template: bool) -> None:
    assert told(machine, "clone", flag | 17, template=template) == DENIED
    assert told(machine, "clone", flag | 17 | 1 << 32, template=template) == DENIED
    assert told(machine, "unshare", flag, template=template) == DENIED
    assert told(machine, "unshare", seccomp.SLOT & ~0xFF, template=template) == DENIED


def test_what_clone_and_unshare_may(machine: str) -> None:
    for flags in (0x3D0F00, 0x1200011, 0x4111, 17):  # threads and forks, vfork, as glibc and musl make them
        assert told(machine, "clone", flags) == ALLOW
    assert told(machine, "unshare", 0x200) == ALLOW
    assert told(machine, "unshare", 0x80) == DENIED  # CLONE_NEWTIME


@given(flags=st.integers(0, 0xFFFFFFFFFFFFFFFF))
def test_a_template_clones_slots_and_nothing_like_them(flags: int) -> None:
    for machine in MACHINES:
        for each in (flags, seccomp.SLOT, seccomp.SLOT | 0x2000000, seccomp.SLOT & ~0x10000000, seccomp.SLOT | 0x100):
            result = told(machine, "clone", each, template=True)
            if (each & 0xFFFFFFFF) == seccomp.SLOT or not each & seccomp.NEW_NAMESPACES:
                assert result == ALLOW
            else:
                assert result == DENIED
        assert told(machine, "clone", seccomp.SLOT) == DENIED


def test_what_a_template_may_besides(machine: str) -> None:
    """To fork a slot and to take its rights; nothing else differs."""
    differing = {
        number
        for number in range(1000)
        if told(machine, number, seccomp.SLOT) != told(machine, number, seccomp.SLOT, template=True)
    }
    known = MACHINES[machine]
    assert differing == {known.allowed["clone"], known.denied["capset"]}
    assert {told(machine, name, template=True) for name in ("prctl", "seccomp", "landlock_restrict_self")} == {ALLOW}


def test_personality_and_terminals(machine: str) -> None:
    allowed = [value for value in (0, 0xFFFFFFFF, 8, 0x40000, 0x20000) if told(machine, "personality", value) == ALLOW]
    assert allowed == [0, 0xFFFFFFFF]
    assert [told(machine, "ioctl", 0, request) for request in (0x5412, 0x541C, 0x5401)] == [DENIED] * 2 + [ALLOW]
    # The upper half of an argument is none of the kernel's business, so it mustn't fool us either.
    assert told(machine, "ioctl", 0, 0x1_0000_5412) == DENIED
