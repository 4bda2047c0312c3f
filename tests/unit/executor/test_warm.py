"""A version is loaded before it is called."""

from dataclasses import replace
from pathlib import Path

import pytest

from executor.sandbox import Environment, Launch
from executor.warm import Warm
from kit.errors import NotFound, Precondition
from tests.fakes.executor import VERSION, FakeEnvironments, World


class FakeTemplates:
    def __init__(self) -> None:
        self.prepared: list[Launch] = []

    async def prepare(self, launch: Launch) -> None:
        self.prepared.append(launch)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def test_it_is_started_as_a_run_of_its_owner(world: World) -> None:
    templates = FakeTemplates()
    await Warm(world.host, templates)(VERSION.id, "org_owner")
    (launch,) = templates.prepared
    assert (launch.version_id, launch.acting_id, launch.owner_id) == (VERSION.id, "org_owner", "org_owner")
    assert (launch.file_name, launch.isolation) == (VERSION.file_name, VERSION.isolation)
    assert launch.source == await world.host.versions.source(VERSION)


async def test_an_unknown_version(world: World) -> None:
    with pytest.raises(NotFound):
        await Warm(world.host, FakeTemplates())("ver_unknown", "org_owner")


async def test_a_missing_secret(world: World) -> None:
    world.book.versions[VERSION.id] = replace(VERSION, env_vars={"NEEDED": None})
    with pytest.raises(Precondition, match="NEEDED"):
        await Warm(world.host, FakeTemplates())(VERSION.id, "org_owner")


async def test_without_templates_its_environment_is_built(world: World) -> None:
    built: list[tuple[str, str]] = []

    class Building(FakeEnvironments):
        async def ensure(self, python: str, lock: str) -> Environment:
            built.append((python, lock))
            return await super().ensure(python, lock)

    await Warm(replace(world.host, environments=Building()), None)(VERSION.id, "org_owner")
    assert built == [(VERSION.python, VERSION.lock)]
