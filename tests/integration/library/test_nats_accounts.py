"""The accounts of `runmesh up`'s nats-server: a service of the library has its own bucket, and sees nothing else."""

import asyncio
import json
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.errors import Error as NatsError
from nats.js.api import StreamConfig
from nats.js.errors import NotFoundError

from cli.nats import KEEPERS
from kit.bus import open_bus
from tests.library_rig import Nats, nats_of_up

NAMES = [keeper.name for keeper in KEEPERS]
# What the mesh says to itself, and how JetStream is told to hand it out.
OURS = ("event.secret.changed", "log.run_1", "event.>", "_INBOX.x", "$SYS.REQ.SERVER.PING", "$JS.API.INFO")
THEIRS = ("EVENTS", "LOGS")


@pytest.fixture(scope="module")
def server() -> Iterator[Nats]:
    with nats_of_up() as running:
        yield running


@asynccontextmanager
async def as_service(server: Nats, name: str, prefix: str = "") -> AsyncIterator[tuple[Client, list[str]]]:
    """Its connection, and what the server refuses it."""
    refusals: list[str] = []

    async def note(error: Exception) -> None:
        refusals.append(str(error).lower())

    options: Any = {"inbox_prefix": prefix or f"_INBOX_{name}", "error_cb": note, "max_reconnect_attempts": 1}
    client = await nats.connect(server.address(name), **options)
    try:
        yield client, refusals
    finally:
        await client.close()


async def is_refused(client: Client, refusals: list[str], subject: str) -> bool:
    """Whether a message to it is a violation."""
    refusals.clear()
    await client.publish(subject, b"{}")
    return await told_so(client, refusals)


async def told_so(client: Client, refusals: list[str]) -> bool:
    """Whether there was a violation. The server may tell it after its next answer."""
    for _ in range(3):
        await client.flush()
        if any("permissions violation" in refusal for refusal in refusals):
            return True
        await asyncio.sleep(0.1)
    return False


@pytest.mark.parametrize("name", NAMES)
async def test_it_can_use_its_own_bucket(server: Nats, name: str) -> None:
    async with as_service(server, name) as (client, refusals):
        js = client.jetstream()
        await js.add_stream(StreamConfig(name=f"KV_{name}", subjects=[f"$KV.{name}.>"], allow_msg_ttl=True))
        await js.publish(f"$KV.{name}.a", b"1", msg_ttl=100)
        assert (await js.get_msg(f"KV_{name}", subject=f"$KV.{name}.a")).data == b"1"
        assert refusals == []


@pytest.mark.parametrize("name", NAMES)
async def test_it_hears_and_says_nothing_of_the_meshs(server: Nats, name: str) -> None:
    heard: list[str] = []

    async def hear(message: Any) -> None:
        heard.append(message.subject)

    async with open_bus(server.address("mesh"), "test") as bus, as_service(server, name) as (client, refusals):
        for subject in (*OURS, ">", "$JS.>", "$KV.>", f"_INBOX_{NAMES[0]}x.>"):
            refusals.clear()
            await client.subscribe(subject, cb=hear)
            assert await told_so(client, refusals), subject
        for subject in (*OURS, *THEIRS, "$KV.other.a" if name != "redis_coordinator" else "KV.other.a"):
            assert await is_refused(client, refusals, subject), subject
        await bus.publish("event.secret.changed", b"theirs", event_id="1")
        await bus.send("log.run_1", b"theirs")
        assert heard == []


@pytest.mark.parametrize("name", NAMES)
async def test_it_reads_no_stream_of_others(server: Nats, name: str) -> None:
    """Not even by a stream of its own that copies one: there is none by that name in its account."""
    other = next(each for each in NAMES if each != name)
    async with open_bus(server.address("mesh"), "test") as bus, as_service(server, name) as (client, refusals):
        await bus.publish("event.secret.changed", b"theirs", event_id="2")
        for stream in (*THEIRS, f"KV_{other}"):
            for call in ("INFO", "DELETE", "LIST", "NAMES", "SNAPSHOT", "MSG.DELETE", "LEADER.STEPDOWN"):
                assert await is_refused(client, refusals, f"$JS.API.STREAM.{call}.{stream}"), call
            for subject in (f"$JS.API.CONSUMER.CREATE.{stream}", f"$JS.API.DIRECT.GET.{stream}.event.>"):
                assert await is_refused(client, refusals, subject), subject
            if name == "redis_coordinator":  # it may ask, and nothing is there
                with pytest.raises(NotFoundError):
                    await client.jetstream().get_msg(stream, subject="event.secret.changed")
            else:
                assert await is_refused(client, refusals, f"$JS.API.STREAM.MSG.GET.{stream}")
        copy = {"name": f"KV_{name}", "subjects": [f"$KV.{name}.>"], "sources": [{"name": "EVENTS"}], "num_replicas": 1}
        copy |= {"retention": "limits", "storage": "file", "republish": {"src": ">", "dest": "event.>"}}
        for call in ("CREATE", "UPDATE"):
            asked = client.request(f"$JS.API.STREAM.{call}.KV_{name}", json.dumps(copy).encode(), timeout=5)
            answered = json.loads((await asked).data)
            if "error" not in answered:
                assert answered["state"]["messages"] == 0
        await client.publish(f"$KV.{name}.event.secret.changed", b"forged")
        await client.flush()
        async with bus.tail("event.secret.changed") as following:
            assert await following(2) == b"theirs"


async def test_a_service_cant_be_another_or_the_mesh(server: Nats) -> None:
    passwords = {"mesh": server.mesh, **server.keepers}
    for user, own in passwords.items():
        for password in {*passwords.values(), ""} - {own}:
            assert not await may_connect(f"nats://{user}:{password}@127.0.0.1:{server.port}")
        assert await may_connect(server.address(user))
    assert not await may_connect(f"nats://127.0.0.1:{server.port}")


async def may_connect(address: str) -> bool:
    client = Client()
    try:
        await client.connect(address, allow_reconnect=False, max_reconnect_attempts=1, error_cb=_quiet)
        return True
    except NatsError:
        return False
    finally:
        await client.close()


async def _quiet(error: Exception) -> None:
    pass


async def test_what_the_mesh_had_before_there_were_accounts_is_still_its_own() -> None:
    with nats_of_up() as server:
        async with open_bus(server.address("mesh"), "test") as bus:
            await bus.publish("event.secret.changed", b"old", event_id="1")
        server.stop()
        streams = server.directory / "store" / "jetstream"
        (streams / "MESH").rename(streams / "$G")
        server.start()
        async with open_bus(server.address("mesh"), "test") as bus, bus.tail("event.secret.changed") as following:
            assert await following(5) == b"old"


def test_its_configuration_is_for_the_operator_alone(server: Nats) -> None:
    assert stat.S_IMODE((server.directory / "nats.conf").stat().st_mode) == 0o600
