"""scheduler.templates: those of a directory, and workflows that are offered as one."""

import time
from pathlib import Path

import pytest

from kit.errors import NotFound
from scheduler.catalog import Catalog, Change
from scheduler.deploy import Deploy, Deployment
from scheduler.templates import Templates
from scheduler.workflow import EnvVar, Visibility
from tests.fakes.scheduler_rig import Scheduler
from tests.fakes.scheduling import FakeBlobs

CODE = '''\
# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi"]
# [tool.env-checker]
# env_vars = ["MODE=fast=1", "TOKEN", 'not a name']
# ///
"""Finds a person
by name.

And more.
"""
from fastapi import FastAPI

app = FastAPI(title="Find a person")
'''


class Rig:
    def __init__(self, scheduler: Scheduler, directory: Path) -> None:
        self.blobs = FakeBlobs()
        self.catalog = Catalog(scheduler.store, scheduler.clock)
        self.deploy = Deploy(scheduler.store, scheduler.executors, self.blobs, scheduler.clock)
        self.templates = Templates(directory, self.catalog, self.blobs)


@pytest.fixture
def rig(scheduler: Scheduler, tmp_path: Path) -> Rig:
    return Rig(scheduler, tmp_path)


def test_what_comes_with_the_platform(rig: Rig, tmp_path: Path) -> None:
    assert rig.templates.page(limit=10, after="") == ([], "")
    (tmp_path / "person_finder.py").write_text(CODE)
    (tmp_path / "bare.py").write_text("app = None\n")
    (tmp_path / "README.md").write_text("no template")
    (bare, finder), following = rig.templates.page(limit=10, after="")
    assert following == ""
    assert (bare.id, bare.name, bare.description, bare.env_vars) == ("bare", "Bare", "", ())
    assert (finder.id, finder.name, finder.description) == ("person_finder", "Find a person", "Finds a person by name.")
    assert finder.env_vars == (EnvVar("MODE", "fast=1"), EnvVar("TOKEN"))
    assert rig.templates.page(limit=1, after="") == ([bare], "bare")
    assert rig.templates.page(limit=1, after="bare") == ([finder], "")


async def test_one_that_is_not_there_says_where_they_are_listed(rig: Rig) -> None:
    with pytest.raises(NotFound, match=r"'nope' isn't offered as a template: GET /templates lists"):
        await rig.templates.get("org_a", "nope")


async def test_one_is_read_with_its_code(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "person_finder.py").write_text(CODE)
    (tmp_path.parent / "secret.py").write_text("SECRET = 1")
    found = await rig.templates.get("org_a", "person_finder")
    assert (found.code, found.service_id) == (CODE, "person_finder")
    for other in ("", "../secret", "person_finder.py", "Person_finder", "nothing", "/etc/passwd", "a\0b"):
        with pytest.raises(NotFound):
            await rig.templates.get("org_a", other)


async def test_a_workflow_is_one_when_its_owner_says_so(rig: Rig) -> None:
    await rig.deploy(Deployment("org_a", CODE, "Finder", "finder"))
    for visibility in (Visibility.PRIVATE, Visibility.PUBLIC, Visibility.OPEN):
        await rig.catalog.update("org_a", "finder", Change(visibility=visibility))
        with pytest.raises(NotFound):
            await rig.templates.get("org_b", "org_a.finder")
    assert (await rig.templates.get("org_a", "finder")).code == CODE
    await rig.catalog.update("org_a", "finder", Change(visibility=Visibility.TEMPLATE))
    found = await rig.templates.get("org_b", "org_a.finder")
    assert (found.id, found.service_id, found.name, found.code) == ("org_a.finder", "finder", "Finder", CODE)
    assert found.description == "Finds a person by name."


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("# /// script\n# ///\n\n  # more\n'Says \\\n  so.'\n", "Says so."),
        ('"""One\n   two\n\n   three"""\n', "One two"),
        ('"half \\ud800"\n', "half ?"),
        ("x = 1\n'no docstring'", ""),
        ("f'{no}'\n", ""),
        ('"""never closed', ""),
        # Parsed as a whole: a minute, seconds and half a gigabyte, not at all.
        ("x = f'" + "{1}" * 300_000 + "'\n", ""),
        ("x = [" + "0," * 500_000 + "]\n", ""),
        ("x = " + "-" * 100_000 + "1\n", ""),
        ("#" * 500_000 + "\n" * 500_000 + "x", ""),
        ("'''" + "\\" * 1_000_000, ""),
    ],
)
async def test_what_it_says_of_itself(rig: Rig, code: str, told: str) -> None:
    began = time.process_time()
    await rig.deploy(Deployment("org_a", code, "Talker", "talker"))
    assert (await rig.templates.get("org_a", "talker")).description == told
    assert time.process_time() - began < 2
