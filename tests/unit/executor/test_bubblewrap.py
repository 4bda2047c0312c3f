"""The arguments of bubblewrap, line by line: this is what a sandbox is."""

from dataclasses import replace

import pytest

from executor import bubblewrap
from executor.bubblewrap import Bind, Plan, System, arguments, encoded, etc_files

SYSTEM = System(
    links={"/bin": "usr/bin", "/lib": "usr/lib"},
    directories=("/usr", "/lib64"),
    etc=("/etc/ssl",),
    hidden_files=("/proc/kallsyms",),
    hidden_directories=("/proc/acpi",),
)
PLAN = Plan(
    binds=[
        Bind("/stage/0/env", "/tmp/home/envs/abc"),
        Bind("/stage/1/run/tmp", "/tmp", writable=True),
        Bind("/stage/1/run/work", "/workflow", writable=True),
    ],
    files={"/etc/hosts": b"", "/workflow/app.py": b""},
    environment={"HOME": "/tmp"},
    directory="/workflow",
)
EXPECTED = """
--unshare-user --unshare-pid --unshare-ipc --unshare-uts --unshare-cgroup-try
--unshare-net --disable-userns --uid 1000 --gid 1000 --hostname runmesh
--cap-drop ALL --die-with-parent --new-session
--json-status-fd 4 --seccomp 6
--ro-bind /usr /usr
--ro-bind /lib64 /lib64
--symlink usr/bin /bin
--symlink usr/lib /lib
--ro-bind /etc/ssl /etc/ssl
--dir /run --dir /var
--proc /proc --ro-bind /proc/sys /proc/sys
--ro-bind /dev/null /proc/kallsyms
--size 4096 --tmpfs /proc/acpi --remount-ro /proc/acpi
--dev /dev --size 67108864 --perms 1777 --tmpfs /dev/shm --remount-ro /dev
--bind /stage/1/run/tmp /tmp
--bind /stage/1/run/work /workflow
--ro-bind /stage/0/env /tmp/home/envs/abc
--perms 0444 --file 8 /etc/hosts
--perms 0644 --file 9 /workflow/app.py
--remount-ro / --chdir /workflow
--setenv HOME /tmp
"""


def test_every_argument() -> None:
    assert arguments(SYSTEM, PLAN) == EXPECTED.split()


@pytest.mark.parametrize(
    "never",
    ["--share-net", "--dev-bind", "--bind-try", "--cap-add", "--overlay", "--userns", "--pidns", "--as-pid-1", "/sys"],
)
def test_what_is_never_given(never: str) -> None:
    assert never not in arguments(System.here(), PLAN)


def test_what_forks_differs_in_its_namespaces_and_a_proc() -> None:
    def namespaces(plan: Plan) -> list[str]:
        options = arguments(SYSTEM, plan)
        return options[: options.index("--ro-bind")]

    rest, proc = namespaces(PLAN), ["--proc", bubblewrap.UNMASKED_PROC]
    opened = ["--perms", "0755", "--dir", "/etc"]  # what is above a file, to templates of other uids
    for plan, options in (
        (replace(PLAN, template=True), ["--as-pid-1"]),
        (replace(PLAN, base=True), opened),
        (replace(PLAN, base=True, maps=True), [*opened, "--userns-block-fd", "7", "--info-fd", "4"]),
    ):
        assert {*namespaces(plan)} - {*rest} == {*options} - {"4"}
        assert {*rest} - {*namespaces(plan)} == {"--disable-userns"} | ({"--json-status-fd"} if plan.maps else set())
        given = arguments(SYSTEM, plan)
        assert given[given.index(proc[1]) - 1 :][:2] == proc


def test_only_what_is_asked_for_is_writable() -> None:
    options = arguments(System.here(), PLAN)
    writable = [options[place + 2] for place, option in enumerate(options) if option == "--bind"]
    assert writable == ["/tmp", "/workflow"]


def test_every_tmpfs_has_a_size_and_is_sealed_but_for_shared_memory() -> None:
    options = arguments(System.here(), PLAN)
    for place, option in enumerate(options):
        if option == "--tmpfs":
            assert "--size" in options[place - 4 : place]
            if options[place + 1] != "/dev/shm":
                assert options[place + 2 : place + 4] == ["--remount-ro", options[place + 1]]


def test_arguments_are_separated_by_nul_as_bytes() -> None:
    assert encoded(["--setenv", "a b", "ü\udcff"]) == b"--setenv\0a b\0\xc3\xbc\xff\0"


def test_etc_knows_one_user_and_a_few_names() -> None:
    files = etc_files([("127.0.0.2", "runtime.runmesh")])
    assert files["/etc/hosts"] == b"127.0.0.1\tlocalhost\n127.0.0.1\trunmesh\n127.0.0.2\truntime.runmesh\n"
    assert files["/etc/resolv.conf"] == b""
    assert b"hosts: files\n" in files["/etc/nsswitch.conf"]
    assert files["/etc/passwd"].startswith(b"runmesh:x:1000:1000:")
    assert b"root" not in files["/etc/passwd"]


def test_etc_may_name_who_knows_other_names() -> None:
    files = etc_files([], "127.0.0.53")
    assert files["/etc/resolv.conf"] == b"nameserver 127.0.0.53\n"
    assert b"hosts: files dns\n" in files["/etc/nsswitch.conf"]


def test_descriptors_do_not_collide() -> None:
    own = [
        bubblewrap.CONTROL_FD,
        bubblewrap.STATUS_FD,
        bubblewrap.ARGUMENTS_FD,
        bubblewrap.SECCOMP_FD,
        bubblewrap.MAPS_FD,
        bubblewrap.FIRST_FILE_FD,
    ]
    assert own == sorted(set(own))
