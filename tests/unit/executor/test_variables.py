import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from executor.model import Secret
from executor.variables import RUN_TOKEN, FreshSecrets, Variables
from kit.clock import FakeClock
from kit.errors import Precondition
from tests.fakes.executor import START, VERSION, FakeSecrets


async def test_a_sandbox_finds_what_its_header_declares_and_the_platforms_own() -> None:
    secrets = FakeSecrets({("org_1", "KEY"): "s3cret", ("org_1", "MODE"): "set", ("org_1", "OTHER"): "no"})
    version = replace(VERSION, env_vars={"KEY": None, "MODE": "default", "EMPTY": "", "CODEWORDS_API_KEY": None})
    env = (await Variables(secrets).of(version, "org_1")).env
    assert env["KEY"] == "s3cret"
    assert env["MODE"] == "set"
    assert env["EMPTY"] == ""
    assert "OTHER" not in env
    assert env["CODEWORDS_API_KEY"] == RUN_TOKEN
    assert env["RUNTIME_URI"] == env["CODEWORDS_RUNTIME_URI"] == "http://runtime.runmesh"
    assert env["PORT"] == "8000"
    assert env["PYTHONUNBUFFERED"] == "1"
    assert env["OMP_NUM_THREADS"] == "1"


async def test_a_missing_secret_is_named() -> None:
    version = replace(VERSION, env_vars={"KEY": None, "WITH_DEFAULT": "x", "TOKEN": None})
    with pytest.raises(Precondition, match="KEY, TOKEN") as missing:
        await Variables(FakeSecrets({("org_2", "KEY"): "another's"})).of(version, "org_1")
    assert missing.value.code == "missing_secret"


async def test_nobody_is_asked_when_nothing_is_declared() -> None:
    secrets = FakeSecrets()
    await Variables(secrets).of(VERSION, "org_1")
    assert secrets.asked == 0


async def test_secrets_are_remembered_for_a_second() -> None:
    source, clock = FakeSecrets({("org_1", "K"): "1"}), FakeClock(START)
    fresh = FreshSecrets(source, clock)
    assert await fresh.values("org_1", ["K"]) == {"K": Secret("1")}
    source.known["org_1", "K"] = "2"
    assert await fresh.values("org_1", ["K"]) == {"K": Secret("1")}
    await clock.advance(1)
    assert await fresh.values("org_1", ["K"]) == {"K": Secret("2")}
    assert source.asked == 2


async def test_a_change_is_seen_at_once() -> None:
    source = FakeSecrets({("org_1", "K"): "1"})
    fresh = FreshSecrets(source, FakeClock(START))
    await fresh.values("org_1", ["K"])
    source.known["org_1", "K"] = "2"
    fresh.forget("org_2")
    assert await fresh.values("org_1", ["K"]) == {"K": Secret("1")}
    fresh.forget("org_1")
    assert await fresh.values("org_1", ["K"]) == {"K": Secret("2")}


async def test_what_changed_while_it_was_read_isnt_remembered() -> None:
    class Slow(FakeSecrets):
        async def values(self, organization_id: str, names: Sequence[str]) -> dict[str, Secret]:
            found = await super().values(organization_id, names)
            await asyncio.sleep(0)
            return found

    source = Slow({("org_1", "K"): "1"})
    fresh = FreshSecrets(source, FakeClock(START))
    reading = asyncio.create_task(fresh.values("org_1", ["K"]))
    await asyncio.sleep(0)
    source.known["org_1", "K"] = "2"
    fresh.forget("org_1")
    await reading
    assert await fresh.values("org_1", ["K"]) == {"K": Secret("2")}


SERVICE = replace(
    VERSION,
    env_vars={"RUNMESH_OPENAI_API_KEY": None, "RUNMESH_OPENAI_BASE_URL": "https://api.openai.com/v1", "OTHER": "x"},
)
OPERATOR = {"RUNMESH_OPENAI_API_KEY": "sk-operator", "RUNMESH_HOME": "/secret"}


async def test_a_library_service_has_its_own_settings_of_the_operators() -> None:
    secrets = FakeSecrets({("org_system", "RUNMESH_OPENAI_API_KEY"): "no", ("org_system", "OTHER"): "a secret"})
    given = await Variables(secrets, OPERATOR).of(SERVICE, "org_system", library="openai")
    assert given.env["RUNMESH_OPENAI_API_KEY"] == "sk-operator"
    assert given.env["RUNMESH_OPENAI_BASE_URL"] == "https://api.openai.com/v1"
    assert given.env["OTHER"] == "a secret"
    assert given.reach == (("api.openai.com", 443),)
    assert "sk-operator" not in repr(given)


@pytest.mark.parametrize("library", ["", "anthropic", "open"])
async def test_nobody_else_has_them(library: str) -> None:
    """Neither an ordinary workflow that declares their names nor another service."""
    for version in (SERVICE, replace(VERSION, env_vars={"RUNMESH_HOME": None})):
        with pytest.raises(Precondition) as missing:
            await Variables(FakeSecrets(), OPERATOR).of(version, "org_1", library=library)
        assert missing.value.code == "missing_secret"
    own = FakeSecrets({("org_1", "RUNMESH_OPENAI_API_KEY"): "own"})
    given = await Variables(own, OPERATOR).of(SERVICE, "org_1", library=library)
    assert given.env["RUNMESH_OPENAI_API_KEY"] == "own"
    assert given.reach == ()


async def test_a_setting_that_is_missing_is_named() -> None:
    with pytest.raises(Precondition, match="set RUNMESH_OPENAI_API_KEY in the environment") as missing:
        await Variables(FakeSecrets(), {"RUNMESH_OPENAI_API_KEY": ""}).of(SERVICE, "org_system", library="openai")
    assert missing.value.code == "missing_secret"


@pytest.mark.parametrize(
    ("url", "target", "told"),
    [
        ("http://10.1.2.3:9000/v1", ("10.1.2.3", 9000), "http://10.1.2.3:9000/v1"),
        ("http://127.0.0.1:11434/v1", ("127.0.0.1", 11434), "http://provider.internal:11434/v1"),
        ("http://localhost/v1", ("localhost", 80), "http://provider.internal:80/v1"),
        ("http://[::1]:81", ("::1", 81), "http://provider.internal:81"),
        ("https://Models.Example./v1", ("models.example", 443), "https://Models.Example./v1"),
        ("redis://u:p%40@127.0.0.1/0", ("127.0.0.1", 6379), "redis://u:p%40@provider.internal:6379/0"),
        ("smtps://mail.example", ("mail.example", 465), "smtps://mail.example"),
    ],
)
async def test_where_the_operator_has_its_provider(url: str, target: tuple[str, int], told: str) -> None:
    settings = OPERATOR | {"RUNMESH_OPENAI_BASE_URL": url}
    given = await Variables(FakeSecrets(), settings).of(SERVICE, "org_system", library="openai")
    assert (given.reach, given.env["RUNMESH_OPENAI_BASE_URL"]) == ((target,), told)


async def test_an_address_that_may_be_left_out_leads_nowhere() -> None:
    version = replace(VERSION, env_vars={"RUNMESH_KV_REDIS_URL": "", "RUNMESH_KV_NATS_URL": "nats://bus.example"})
    given = await Variables(FakeSecrets(), {}).of(version, "org_system", library="kv")
    assert (given.env["RUNMESH_KV_REDIS_URL"], given.reach) == ("", (("bus.example", 4222),))


@pytest.mark.parametrize("url", ["nonsense", "ftp://a.example", "http://", "http://a.example:x", "http://a b/"])
async def test_an_address_that_is_none_is_named_without_it(url: str) -> None:
    settings = OPERATOR | {"RUNMESH_OPENAI_BASE_URL": url}
    with pytest.raises(Precondition, match="RUNMESH_OPENAI_BASE_URL is no address"):
        await Variables(FakeSecrets(), settings).of(SERVICE, "org_system", library="openai")
