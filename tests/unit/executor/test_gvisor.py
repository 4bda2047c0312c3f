"""What runsc and the bubblewrap around it are given, line by line; and what a runsc says about itself."""

import json
from datetime import date

import pytest

from executor import bubblewrap, gvisor
from executor.bubblewrap import Bind, Plan, System
from executor.cgroups import Bounds
from executor.gvisor import Runsc
from executor.gvisor_check import part_faults
from executor.seen import Mount, Seen
from executor.self_check import Wanted

SYSTEM = System(links={"/bin": "usr/bin"}, directories=("/usr",), etc=("/etc/ssl",))
PLAN = Plan(
    binds=[
        Bind("/stage/0/env", "/tmp/home/envs/abc"),
        Bind("/stage/0/python", "/opt/python"),
        Bind("/stage/1/run/tmp", "/tmp", writable=True),
        Bind("/stage/1/run/work", "/workflow", writable=True),
    ],
    files={"/etc/hosts": b"", "/workflow/app.py": b"", gvisor.CONFIG: b"{}"},
    environment={"HOME": "/tmp"},
    directory="/workflow",
)
OLD = Runsc("/usr/bin/runsc", "0.0~20221219.0", date(2022, 12, 19))
NEW = Runsc("/usr/bin/runsc", "release-20260901.0", date(2026, 9, 1))
EXPECTED = """
--unshare-user --unshare-pid --unshare-ipc --unshare-uts --unshare-cgroup-try --unshare-net
--uid 1000 --gid 1000 --hostname runmesh
--cap-drop ALL --die-with-parent --new-session
--json-status-fd 4
--ro-bind /usr/bin/runsc /runsc --proc /proc --dev /dev --remount-ro /dev --dir /tmp
--size 16777216 --tmpfs /state
--ro-bind /usr /rootfs/usr
--symlink usr/bin /rootfs/bin
--ro-bind /etc/ssl /rootfs/etc/ssl
--dir /rootfs/run --dir /rootfs/var --dir /rootfs/proc --dir /rootfs/sys --dir /rootfs/dev
--bind /stage/1/run/tmp /mounts/0 --dir /rootfs/tmp
--bind /stage/1/run/work /mounts/1 --dir /rootfs/workflow
--ro-bind /stage/0/env /mounts/2
--ro-bind /stage/0/python /rootfs/opt/python
--perms 0444 --file 8 /rootfs/etc/hosts
--perms 0644 --file 9 /mounts/1/app.py
--perms 0444 --file 10 /bundle/config.json
--remount-ro / --chdir /
"""


def test_every_argument_of_the_outer_sandbox() -> None:
    assert gvisor.arguments(SYSTEM, PLAN, OLD) == EXPECTED.split()


def test_only_what_is_asked_for_is_writable() -> None:
    options = gvisor.arguments(System.here(), PLAN, OLD)
    writable = [options[place + 1] for place, option in enumerate(options) if option == "--bind"]
    assert writable == ["/stage/1/run/tmp", "/stage/1/run/work"]
    for never in ("--share-net", "--dev-bind", "--cap-add", "/sys", "--userns"):
        assert never not in options


def test_the_bundle() -> None:
    content = json.loads(gvisor.config(PLAN, ["/opt/python/bin/python", "x.py"]))
    process = content["process"]
    assert process["args"] == ["/opt/python/bin/python", "x.py"]
    assert process["env"] == ["PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/tmp"]
    assert (process["cwd"], process["capabilities"], process["noNewPrivileges"]) == ("/workflow", {}, True)
    own = {mount["destination"]: (mount["source"], mount["options"][-1]) for mount in content["mounts"][4:]}
    assert own == {
        "/tmp": ("/mounts/0", "rw"),
        "/workflow": ("/mounts/1", "rw"),
        "/tmp/home/envs/abc": ("/mounts/2", "ro"),
    }
    (shm,) = [mount for mount in content["mounts"] if mount["destination"] == "/dev/shm"]
    assert f"size={bubblewrap.SHM_BYTES}" in shm["options"]


def test_how_runsc_is_started() -> None:
    common = ["/runsc", "--root=/state", "--rootless", "--ignore-cgroups", "--network=host"]
    end = ["run", "--bundle=/bundle", "sandbox"]
    assert gvisor.command(OLD) == [*common, "--platform=ptrace", *end]
    assert gvisor.command(NEW) == [*common, "--platform=systrap", "--overlay2=none", *end]


@pytest.mark.parametrize(
    ("said", "version", "released"),
    [
        ("runsc version 0.0~20221219.0\nspec: 1.0.2-dev\n", "0.0~20221219.0", date(2022, 12, 19)),
        ("runsc version release-20260901.0\nspec: 1.1.0-rc.1\n", "release-20260901.0", date(2026, 9, 1)),
        ("runsc version release-20269901.0\n", "release-20269901.0", None),
        ("runsc version VERSION_MISSING\n", "VERSION_MISSING", None),
        ("", "unknown", None),
    ],
)
def test_what_it_says_about_itself(said: str, version: str, released: date | None) -> None:
    assert Runsc.saying("/x/runsc", said) == Runsc("/x/runsc", version, released)


def test_one_that_is_old_is_complained_about() -> None:
    assert "lacks all security fixes since" in OLD.complaint(date(2026, 1, 1))
    assert NEW.complaint(date(2027, 8, 31)) == ""
    assert "366 days old" in NEW.complaint(date(2027, 9, 2))
    assert "doesn't say" in Runsc("/x", "unknown").complaint(date(2026, 1, 1))


def test_what_gvisor_itself_takes_is_added() -> None:
    assert gvisor.bounded(Bounds()) == Bounds()
    assert gvisor.bounded(Bounds(memory=1 << 30, processes=20, cpu=0.5)) == Bounds(
        (1 << 30) + gvisor.OVERHEAD.memory, 20 + gvisor.OVERHEAD.processes, 0.5
    )


WANTED = Wanted(range(200_000, 210_000), range(200_000, 210_000), group="runmesh-7", writable=frozenset({"/proc"}))
OURS = Seen({}, {"net": "net:[1]", "pid": "pid:[1]"}, (), {}, {}, frozenset({"lo", "eth0"}))


def part(**changes: object) -> Seen:
    status = {"Uid": "200001 " * 4, "Gid": "200001 " * 4, "Groups": "", "NoNewPrivs": "1", "Seccomp": "2"}
    whole = {
        "status": {**status, "CapEff": "0000000000080000"},
        "namespaces": {"net": "net:[2]", "pid": "pid:[2]"},
        "mounts": (Mount(1, 0, "/", "/", frozenset({"ro"}), "tmpfs"), Mount(2, 1, "/", "/proc", frozenset(), "proc")),
        "groups": dict.fromkeys(("memory", "pids", "cpu"), "/runmesh-7/run"),
        "limits": {"Max core file size": "0", "Max open files": "4096"},
        "devices": frozenset({"lo"}),
    }
    if "status" in changes:
        changes["status"] = {**status, **changes["status"]}  # type: ignore[dict-item]
    return Seen(**{**whole, **changes})  # type: ignore[arg-type]


def test_a_whole_one_has_no_faults() -> None:
    assert part_faults("runsc-sandbox", part(), OURS, WANTED) == []
    # What only starts and reaps needs no filter.
    assert part_faults("bwrap", part(status={"Seccomp": "0"}), OURS, WANTED) == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"status": {"Uid": "0 0 0 0"}}, "on the host its uid is 0"),
        ({"status": {"Groups": "4"}}, "on the host it is in the group 4"),
        ({"status": {"NoNewPrivs": "0"}}, "no_new_privs isn't set"),
        ({"status": {"Seccomp": "0"}}, "there is no system-call filter"),
        ({"namespaces": {"net": "net:[1]"}}, "it is in the host's net namespace"),
        ({"devices": frozenset({"lo", "eth0"})}, "its network has the devices eth0, lo"),
        ({"groups": {}}, "it isn't in a control group for memory"),
        ({"limits": {}}, "it may leave a core file"),
        ({"mounts": (Mount(1, 0, "/", "/usr", frozenset({"rw"}), "ext4"),)}, "/usr is writable"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_part_with_a_hole_is_named(changes: dict[str, object], fault: str) -> None:
    assert f"runsc-gofer: {fault}" in part_faults("runsc-gofer", part(**changes), OURS, WANTED)
