"""slack_trigger and whatsapp_trigger in this process, against fakes of the platform and local providers."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.fakes.platform import KEY, Platform, platform
from tests.fakes.services import Service, service
from tests.providers import slack, whatsapp
from tests.providers.apis import World, apis

SECRETS = (slack.TOKEN, whatsapp.TOKEN, "signing-secret")


@dataclass
class Both:
    """All that a service is told."""

    world: World
    fake: Platform
    secrets: dict[str, str] = field(default_factory=dict)

    def settings(self) -> dict[str, str]:
        """Its environment."""
        return self.world.settings() | self.fake.settings() | self.secrets


@pytest.fixture(scope="module")
def running() -> Iterator[Both]:
    with apis() as world, platform() as fake:
        yield Both(world, fake)


@pytest.fixture
def both(running: Both) -> Both:
    running.fake.kept.clear()
    running.fake.refuses = None
    running.fake.requests.clear()
    running.world.requests.clear()
    running.secrets.clear()
    return running


async def said(asked: Service, path: str, body: Any = None, status: int = 200) -> Any:
    """The JSON of an answer that has this status, and names no secret."""
    answer = await asked.ask("POST", path, body)
    assert answer.status_code == status, answer.text
    assert not [secret for secret in SECRETS if secret in answer.text]
    return answer.json()


async def test_slack_events_start_a_workflow(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = service("slack_trigger", both, monkeypatch)
    made = await said(asked, "/", {"service_id": "inbox", "signing_secret": "signing-secret"})
    assert made == {"id": "hok_1", "service_id": "inbox", "url": "https://mesh.test/hooks/cwh-hok_1"}
    assert both.fake.last.body == {"service_id": "inbox", "kind": "slack", "secret": "signing-secret"}
    assert both.fake.last.headers["authorization"] == f"Bearer {KEY}"
    both.fake.kept["hooks"]["hok_9"] = {"id": "hok_9", "kind": "whatsapp", "service_id": "other"}
    assert [each["id"] for each in (await said(asked, "/list"))["items"]] == ["hok_1"]
    assert await said(asked, "/remove", {"id": "hok_1"}) == {"id": "hok_1", "deleted": True}
    assert (await said(asked, "/remove", {"id": "hok_1"}, 404))["code"] == "not_found"
    for body in ({"service_id": "inbox"}, {"service_id": "", "signing_secret": "x" * 9}, {"id": "../keys"}):
        await said(asked, "/remove" if "id" in body else "/", body, 422)
    both.fake.refuses = {"status": 403, "code": "forbidden", "detail": "this key lacks the scope deploy"}
    told = await said(asked, "/", {"service_id": "inbox", "signing_secret": "signing-secret"}, 403)
    assert told == {"detail": "this key lacks the scope deploy", "code": "forbidden"}


async def test_an_answer_in_slack(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    message = {"channel": "C1", "text": "hé", "thread_ts": "1700000000.000001"}
    asked = service("slack_trigger", both, monkeypatch)
    told = await said(asked, "/answer", message, 424)
    assert told["code"] == "missing_secret"
    assert "Run-As-Template" in told["detail"]
    sent = {"channel": "C1", "ts": "1700000000.000100"}
    assert await said(asked, "/answer", {**message, "token": slack.TOKEN}) == sent
    assert both.world.last.body == message
    assert "cwk" not in str(both.world.last.headers)
    both.secrets["SLACK_BOT_TOKEN"] = slack.TOKEN
    asked = service("slack_trigger", both, monkeypatch)
    assert await said(asked, "/answer", message) == sent
    assert (await said(asked, "/answer", {**message, "token": "xoxb-wrong"}, 403))["code"] == "forbidden"
    assert (await said(asked, "/answer", {**message, "channel": "C2"}, 404))["code"] == "not_found"
    told = await said(asked, "/answer", {**message, "text": "x" * 5000}, 400)
    assert told["detail"] == "Slack refused it: msg_too_long"
    answer = await asked.ask("POST", "/answer", {**message, "channel": "Cbusy"})
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert answer.headers["retry-after"] == "30"
    for bad in ({"text": ""}, {"thread_ts": "now"}, {"token": "a\nb"}):
        await said(asked, "/answer", {**message, **bad}, 422)


async def test_whatsapp_messages_start_a_workflow(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = service("whatsapp_trigger", both, monkeypatch)
    made = await said(asked, "/", {"service_id": "inbox", "app_secret": "signing-secret"})
    assert (made["verify_token"], made["url"]) == ("made", "https://mesh.test/hooks/cwh-hok_1")
    own = {"service_id": "inbox", "signing_secret": "signing-secret", "verify_token": "agreed-upon"}
    assert (await said(asked, "/", own))["verify_token"] == "agreed-upon"
    assert both.fake.last.body["kind"] == "whatsapp"
    assert len((await said(asked, "/list"))["items"]) == 2
    assert (await said(asked, "/remove", {"id": "hok_2"}))["deleted"] is True


async def test_an_answer_by_whatsapp(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    message = {"to": "+4915112345670", "text": "hé", "reply_to": "wamid.0"}
    asked = service("whatsapp_trigger", both, monkeypatch)
    assert (await said(asked, "/answer", message, 424))["code"] == "missing_secret"
    own = {"token": whatsapp.TOKEN, "phone_number_id": whatsapp.NUMBER}
    assert await said(asked, "/answer", message | own) == {"id": "wamid.1", "to": "4915112345670"}
    assert both.world.last.body == {
        "messaging_product": "whatsapp", "recipient_type": "individual", "to": "+4915112345670", "type": "text",
        "text": {"preview_url": False, "body": "hé"}, "context": {"message_id": "wamid.0"},
    }  # fmt: skip
    both.secrets |= {"WHATSAPP_TOKEN": whatsapp.TOKEN, "WHATSAPP_PHONE_NUMBER_ID": whatsapp.NUMBER}
    asked = service("whatsapp_trigger", both, monkeypatch)
    assert (await said(asked, "/answer", message))["id"] == "wamid.1"
    assert (await said(asked, "/answer", message | {"token": "wrong"}, 403))["code"] == "forbidden"
    told = await said(asked, "/answer", message | {"to": "4915112345671"}, 400)
    assert told["code"] == "not_allowed"
    assert "More than 24 hours" in told["detail"]
    assert (await said(asked, "/answer", message | {"to": "4915112345672"}, 429))["code"] == "rate_limited"
    assert (await said(asked, "/answer", message | {"phone_number_id": "9"}, 400))["code"] == "bad_request"
    await said(asked, "/answer", message | {"to": "Ada"}, 422)
