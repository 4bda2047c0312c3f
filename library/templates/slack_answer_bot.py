# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34", "httpx>=0.28"]
# [tool.env-checker]
# env_vars = [
#   "SLACK_BOT_TOKEN",
#   "ANSWER_MODEL=openai/gpt-5.4-mini",
#   "ANSWER_INSTRUCTIONS=You help a team in Slack. Answer briefly. Say so when you don't know.",
# ]
# [tool.runmesh]
# egress = []
# ///
"""Answers in Slack: whoever mentions the app, or writes to it directly, gets a model's answer in the thread.

It is started by a hook, which verifies that events are Slack's, and takes each once. To set it up:

    curl -X PUT $URL/secrets/SLACK_BOT_TOKEN -H "Authorization: Bearer $KEY" \
      -d '{"value": "xoxb-…", "hosts": ["slack.com"]}'
    curl $URL/run/slack_trigger -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' \
      -d '{"service_id": "slack_answer_bot", "signing_secret": "OF YOUR APP"}'

and give its `url` to your app under "Event Subscriptions", with the events `app_mention` and `message.im`. The app has
the scopes `chat:write`, `app_mentions:read`, `im:history`. Calls slack_trigger; openai, anthropic or gemini.
"""

import os
import re
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

app = FastAPI(title="Slack answer bot")
KEY = {"Authorization": f"Bearer {os.environ['CODEWORDS_API_KEY']}"}
runtime = httpx.AsyncClient(base_url=os.environ["CODEWORDS_RUNTIME_URI"], headers=KEY, timeout=120)


class Message(BaseModel):
    """What was written, as Slack tells it. Its edits and joins have a `subtype`, messages of apps a `bot_id`."""

    type: str = Field(description="app_mention or message")
    text: str = ""
    channel: str = ""
    channel_type: str = Field("", description="im for a direct message")
    ts: str = Field("", description="Its time, which is its name too")
    thread_ts: str | None = Field(None, description="The first message of its thread")
    bot_id: str | None = None
    subtype: str | None = None

    @property
    def is_for_us(self) -> bool:
        """Answering apps, ourselves among them, would never end."""
        is_direct = self.type == "message" and self.channel_type == "im"
        return (self.type == "app_mention" or is_direct) and not self.bot_id and not self.subtype


class Event(BaseModel):
    """The body of Slack's Events API."""

    type: str = "event_callback"
    event: Message


class Done(BaseModel):
    """What became of the event."""

    answered: bool
    answer: str = ""


async def call(service: str, body: dict[str, Any], **headers: str) -> Any:
    """What a library service answers. Errors: HTTPException with its status and what it says."""
    try:
        answer = await runtime.post(f"/run/{service}", json=body, headers=headers)
        told = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise HTTPException(502, f"{service} gave no answer: {error!r}") from None
    if answer.is_error:
        raise HTTPException(answer.status_code, f"{service}: {told.get('detail', told)}")
    return told


async def post(message: Message, text: str) -> None:
    """Into the message's thread. The service uses our secret SLACK_BOT_TOKEN, as the header says. Errors: `call`'s."""
    said = {"channel": message.channel, "thread_ts": message.thread_ts or message.ts, "text": text}
    await call("slack_trigger/answer", said, **{"Run-As-Template": "yes"})


@app.post("/")
async def answer(event: Event) -> Done:
    """Errors: those of the model's service, of which the thread is told; those of slack_trigger."""
    message = event.event
    question = re.sub(r"<@[^>]+>", "", message.text).strip()
    if not message.is_for_us or not question:
        print(f"nothing to answer: {message.type}")
        return Done(answered=False)
    service, _, model = os.environ["ANSWER_MODEL"].partition("/")
    prompt = f"{os.environ['ANSWER_INSTRUCTIONS']}\n\nThe message:\n{question}"
    try:
        text = str((await call(service, {"model": model, "prompt": prompt}))["response"])
    except HTTPException:
        await post(message, "Sorry, I can't answer right now.")
        raise
    await post(message, text)
    print(f"answered {len(text)} characters in {message.channel}")
    return Done(answered=True, answer=text)


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
