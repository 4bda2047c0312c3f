# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34", "httpx>=0.28"]
# [tool.env-checker]
# env_vars = ["SLACK_BOT_TOKEN=", "RUNMESH_SLACK_TRIGGER_URL=https://slack.com/api"]
# [tool.runmesh]
# isolation = "instance"
# timeout = "1m"
# egress = ["slack.com"]
# ///
"""Events of a Slack app start a workflow: {"service_id", "signing_secret"} gives the address for them; /list, /remove;
/answer {"channel", "text"} says something there, with the app's own token.
"""

import os
from typing import Any

import uvicorn
from pydantic import BaseModel, ConfigDict, Field

from library.parts.client import Answer, Provider, api
from library.parts.refusals import Refused

# Slack's words for a token that is none, or may not do this.
NO_TOKEN = {"invalid_auth", "not_authed", "account_inactive", "token_revoked", "token_expired", "missing_scope"}
NOT_THERE = {"channel_not_found", "thread_not_found", "user_not_found"}

app = api("slack_trigger", __doc__)


def as_told(answer: Answer) -> Refused | None:
    """The platform's refusals, as they are."""
    if answer.status < 400 or not isinstance(answer.said, dict):
        return None
    return Refused(answer.status, answer.said.get("code", "bad_request"), str(answer.said.get("detail")))


def refusal(answer: Answer) -> Refused | None:
    """Slack answers 200, and says whether it is `ok`."""
    said = answer.said if isinstance(answer.said, dict) else {}
    error = str(said.get("error"))
    if answer.status != 200 or said.get("ok") is True:
        return None
    if error in {"ratelimited", "rate_limited"}:
        return slack.too_often(answer)
    if error in NO_TOKEN:
        return Refused(403, "forbidden", f"Slack doesn't take this token for that: {error[:100]}")
    if error in NOT_THERE:
        return Refused(404, "not_found", f"Slack doesn't know that: {error[:100]} (is the app in the channel?)")
    return Refused(400, "bad_request", f"Slack refused it: {error[:100]}")


platform = Provider(
    "the platform",
    os.environ["CODEWORDS_RUNTIME_URI"],
    headers={"Authorization": f"Bearer {os.environ['CODEWORDS_API_KEY']}"},
    refusal=as_told,
)
slack = Provider(
    "Slack", os.environ["RUNMESH_SLACK_TRIGGER_URL"], message=lambda said: said.get("error"), refusal=refusal
)


class Trigger(BaseModel):
    """Which workflow gets the events, and what Slack signs them with: "Basic Information" of the app has it."""

    model_config = ConfigDict(extra="forbid")
    service_id: str = Field(min_length=1, max_length=300)
    signing_secret: str = Field(min_length=8, max_length=500)


class Removal(BaseModel):
    """As / and /list give it."""

    model_config = ConfigDict(extra="forbid")
    id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,100}$")


class Message(BaseModel):
    """`thread_ts`: the `ts` of the message that is answered. `token`: xoxb-…, else the secret SLACK_BOT_TOKEN."""

    model_config = ConfigDict(extra="forbid")
    channel: str = Field(min_length=1, max_length=200)
    text: str = Field(min_length=1, max_length=40_000)
    thread_ts: str | None = Field(None, pattern=r"^\d{1,20}\.\d{1,10}$")
    token: str | None = Field(None, pattern=r"^[\x21-\x7e]{1,500}$")


@app.post("/")
async def register(wanted: Trigger) -> dict[str, Any]:
    """{"id", "service_id", "url"}: the `url`, which is shown this once, goes into "Event Subscriptions" of the app."""
    body = {"service_id": wanted.service_id, "kind": "slack", "secret": wanted.signing_secret}
    made = await platform.post("/hooks", body)
    return {name: made[name] for name in ("id", "service_id", "url")}


@app.post("/list")
async def list_triggers() -> dict[str, Any]:
    """{"items": [{"id", "service_id", "created_at"}]}."""
    found = (await platform.get("/hooks", {"limit": 1000}))["items"]
    names = ("id", "service_id", "created_at")
    return {"items": [{name: each.get(name) for name in names} for each in found if each["kind"] == "slack"]}


@app.post("/remove")
async def remove(wanted: Removal) -> dict[str, Any]:
    """{"id", "deleted"}: from now on its address is none."""
    said: dict[str, Any] = platform.good(await platform.ask("DELETE", f"/hooks/{wanted.id}"))
    return said


@app.post("/answer")
async def answer(wanted: Message) -> dict[str, Any]:
    """{"channel", "ts"} of what was said."""
    token = wanted.token or os.environ["SLACK_BOT_TOKEN"]
    if not token:
        told = "send token, or keep it as your secret SLACK_BOT_TOKEN and call with the header Run-As-Template: yes"
        raise Refused(424, "missing_secret", told)
    body = {"channel": wanted.channel, "text": wanted.text}
    if wanted.thread_ts:
        body["thread_ts"] = wanted.thread_ts
    said = await slack.post("/chat.postMessage", body, headers={"Authorization": f"Bearer {token}"})
    return {"channel": said["channel"], "ts": said["ts"]}


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
