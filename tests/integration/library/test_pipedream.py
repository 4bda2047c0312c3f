"""The library's pipedream, in this process, against a Connect API of this machine: whose accounts act, what fails."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fakes.services import Service, service
from tests.providers import pipedream
from tests.providers.apis import World, apis

SEND = {"app": "slack", "action": "send-message", "props": {"text": "hello"}}


@pytest.fixture(scope="module")
def running() -> Iterator[World]:
    with apis() as world:
        yield world


@pytest.fixture
def world(running: World) -> World:
    running.kept.clear()
    running.changes.clear()
    running.requests.clear()
    return running


@pytest.fixture
def asked(world: World, monkeypatch: pytest.MonkeyPatch) -> Service:
    return service("pipedream", world, monkeypatch)


async def say(asked: Service, path: str, body: Any, who: str = "org_ada", payer: str = "org_ada") -> tuple[int, Any]:
    """The status and JSON of what is told to `who`."""
    headers = {"x-runmesh-organization-id": who, "codewords-caller-id": payer}
    answer = await asked.ask("POST", path, body, headers=headers)
    assert pipedream.SECRET not in answer.text
    return answer.status_code, answer.json()


async def test_an_action_by_a_connected_account(world: World, asked: Service) -> None:
    status, told = await say(asked, "/", SEND)
    assert (status, told["code"], told["connected"]) == (424, "not_connected", False)
    link = "https://pipedream.com/_static/connect.html?token=ctok_1&connectLink=true&app=slack"
    assert told["connect_link_url"] == link
    assert (await say(asked, "/connect", {"app": "slack"}))[1] == {
        "connected": False,
        "connect_link_url": link,
        "accounts": [],
    }
    account = pipedream.connect(world, "org_ada")
    assert (await say(asked, "/connect", {"app_slug": "slack"}))[1] == {
        "connected": True,
        "connect_link_url": None,
        "accounts": [{"id": account, "name": "Account 1", "healthy": True}],
    }
    expected = {"result": {"by": account, "for": "org_ada"}, "exports": {"$summary": "Sent"}}
    assert await say(asked, "/", SEND) == (200, expected)
    named = {"app_slug": "slack", "action_name": "slack-send-message", "props": {"text": "hello"}}
    assert await say(asked, "/", named) == (200, expected)
    assert world.last.body["configured_props"] == {"text": "hello", "slack": {"authProvisionId": account}}
    assert world.last.headers["x-pd-environment"] == "development"
    assert len([each for each in world.requests if each.path.endswith("/oauth/token")]) == 1


async def test_nobody_acts_with_anybody_elses_account(world: World, asked: Service) -> None:
    """A stranger's public workflow asks, and Ada pays for it: it gets its own accounts, not hers."""
    hers = pipedream.connect(world, "org_ada")
    assert (await say(asked, "/", SEND, who="org_eve", payer="org_ada"))[1]["code"] == "not_connected"
    theirs = pipedream.connect(world, "org_eve")
    assert (await say(asked, "/", SEND, who="org_eve", payer="org_ada"))[1]["result"]["by"] == theirs
    status, told = await say(asked, "/", {**SEND, "account_id": hers}, who="org_eve")
    assert (status, told["code"]) == (404, "not_found")
    for props in (
        {"slack": {"authProvisionId": hers}},
        {"other": [{"deep": {"authProvisionId": hers}}]},
        {"text": f'{{"authProvisionId": "{hers}"}}'},
        {"text": f'{{"\\u0061uthProvisionId": "{hers}"}}'},
        {"deep": json.loads("[" * 300 + "]" * 300)},
    ):
        status, told = await say(asked, "/", {**SEND, "props": props}, who="org_eve")
        assert (status, told["code"]) == (400, "bad_request")
    await say(asked, "/", {**SEND, "props": {"slack": {"id": hers}}}, who="org_eve")
    assert world.last.body["configured_props"]["slack"] == {"authProvisionId": theirs}
    assert (await asked.ask("POST", "/", SEND)).status_code == 422  # nobody says who asks


async def test_which_account(world: World, asked: Service) -> None:
    first, second = pipedream.connect(world, "org_ada"), pipedream.connect(world, "org_ada")
    pipedream.connect(world, "org_ada", healthy=False)
    assert (await say(asked, "/", SEND))[1]["result"]["by"] == second
    assert (await say(asked, "/", {**SEND, "account_id": first}))[1]["result"]["by"] == first
    row = {"app": "google_sheets", "action": "add-single-row"}
    assert (await say(asked, "/", row))[0] == 424
    sheets = pipedream.connect(world, "org_ada", "google_sheets")
    assert (await say(asked, "/", row))[0] == 200
    assert world.last.body["configured_props"] == {"googleSheets": {"authProvisionId": sheets}}


async def test_what_fails(world: World, asked: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    pipedream.connect(world, "org_ada")
    failed = await say(asked, "/", {**SEND, "props": {"text": "fail"}})
    assert failed == (400, {"detail": "slack-send-message failed: not_in_channel …", "code": "action_failed"})
    assert (await say(asked, "/", {**SEND, "action": "dance"}))[1]["code"] == "not_found"
    assert (await say(asked, "/connect", {"app": "nothing"}))[1]["code"] == "not_found"
    for body in ({"app": "../x", "action": "y"}, {"action": "y"}, {**SEND, "props": []}):
        assert (await say(asked, "/", body))[0] == 422
    world.tokens.clear()
    assert (await say(asked, "/", SEND))[0] == 200
    world.changes["RUNMESH_PIPEDREAM_CLIENT_SECRET"] = "wrong"
    status, told = await say(service("pipedream", world, monkeypatch), "/", SEND)
    assert (status, told["code"]) == (502, "provider_credentials")


async def test_what_there_is(asked: Service) -> None:
    assert (await say(asked, "/actions", {"app": "slack"}))[1] == {
        "actions": [
            {
                "action": "slack-send-message",
                "name": "Send Message",
                "description": "Sends a message",
                "props": [
                    {"name": "text", "type": "string", "required": True, "description": "What to say"},
                    {"name": "thread", "type": "string", "required": False, "description": None},
                ],
            }
        ]
    }
