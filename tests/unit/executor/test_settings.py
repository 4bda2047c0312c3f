"""Limits as the operator sets them."""

import os
import re
from dataclasses import fields

import pytest

import filestore.settings
import scheduler.settings
from executor.model import Limits
from executor.settings import MIB, Settings
from kit.settings import BadSettings, MeshSettings, load

HOST = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_the_defaults_are_those_of_the_spec() -> None:
    settings = load(Settings, {"RUNMESH_MAX_MEMORY_BYTES": str(64 << 30)})
    limits = settings.limits
    assert (limits.request_bytes, limits.response_bytes, limits.stream_bytes) == (10 * MIB, 10 * MIB, 100 * MIB)
    assert (limits.log_bytes, limits.memory_bytes, limits.cpu) == (10 * MIB, 2 << 30, 1.0)
    assert (limits.processes, limits.disk_bytes) == (256, 10 << 30)


def test_a_run_may_have_what_the_host_has_unless_told_otherwise() -> None:
    most = load(Settings, {}).most
    assert (most.memory_bytes, most.cpu) == (HOST, os.cpu_count())
    given = {
        "RUNMESH_MAX_MEMORY_BYTES": str(1 << 30),
        "RUNMESH_MAX_CPU": "0.5",
        "RUNMESH_MAX_PROCESSES": "32",
        "RUNMESH_MAX_DISK_BYTES": str(1 << 20),
    }
    settings = load(Settings, given)
    assert settings.most == Limits(memory_bytes=1 << 30, cpu=0.5, processes=32, disk_bytes=1 << 20)
    used = settings.limits
    assert (used.memory_bytes, used.cpu, used.processes, used.disk_bytes) == (1 << 30, 0.5, 32, 1 << 20)
    assert used.request_bytes == 10 * MIB


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RUNMESH_RUN_MEMORY_BYTES", "1"),
        ("RUNMESH_RUN_CPU", "0"),
        ("RUNMESH_RUN_CPU", "nan"),
        ("RUNMESH_MAX_CPU", "all"),
        ("RUNMESH_MAX_PROCESSES", "1"),
        ("RUNMESH_MAX_DISK_BYTES", "10GB"),
    ],
)
def test_what_makes_no_sense(name: str, value: str) -> None:
    with pytest.raises(BadSettings, match=name):
        load(Settings, {name: value})


@pytest.mark.parametrize("service", [Settings, scheduler.settings.Settings, filestore.settings.Settings])
def test_a_number_that_is_none_is_told_in_plain_words(service: type[MeshSettings]) -> None:
    read = [item.metadata["env"] for item in fields(service) if item.type in {"int", "float", int, float}]
    assert len(read) > 3
    with pytest.raises(BadSettings) as bad:
        load(service, dict.fromkeys(read, "lots"))
    assert [fault.split(":")[0] for fault in bad.value.faults] == read
    for fault in bad.value.faults:
        assert re.search(r"must be a whole number$|is not a (number of|port)", fault), fault
