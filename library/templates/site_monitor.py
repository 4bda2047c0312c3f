# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34", "httpx>=0.28"]
# [tool.env-checker]
# env_vars = []
# [tool.runmesh]
# concurrency = 1  # two checks at once would mail twice
# ///
"""Watches websites: are they up, fast enough, do they show what they should? Mails when one goes down or comes back.

What was found is kept until the next check, so that only changes are mailed. It reaches any public address. Calls
redis_coordinator; send_email if `alert_to` is given. To be scheduled with such inputs as `input_data`:

    curl $URL/run/site_monitor -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' \
      -d '{"sites": [{"url": "https://example.com", "text": "Example"}], "alert_to": "me@example.com"}'
"""

import asyncio
import os
import time
from datetime import UTC, datetime
from typing import Any

import httpx
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field, HttpUrl

app = FastAPI(title="Site monitor")
KEY = {"Authorization": f"Bearer {os.environ['CODEWORDS_API_KEY']}"}
runtime = httpx.AsyncClient(base_url=os.environ["CODEWORDS_RUNTIME_URI"], headers=KEY, timeout=120)


class Site(BaseModel):
    """A page, and what it should be like."""

    url: HttpUrl
    text: str = Field("", max_length=500, description="What the page has to contain")
    seconds: float = Field(10, gt=0, le=60, description="How long the answer may take")


class Watch(BaseModel):
    """What is watched, and who is told."""

    sites: list[Site] = Field(min_length=1, max_length=50)
    alert_to: str = Field("", pattern=r"^([^@\s]+@[^@\s]+)?$", description="Who is mailed changes")


class State(BaseModel):
    """Of one site."""

    url: str
    up: bool
    reason: str = Field("", description="Why it counts as down")
    milliseconds: int = 0
    since: str = Field("", description="Since when it is up, or down")
    changed: bool = Field(False, description="Against the last check; a first check only if it is down")


class Report(BaseModel):
    """In the order of the sites."""

    sites: list[State]
    mailed: bool = False


async def call(service: str, body: dict[str, Any]) -> Any:
    """What a library service answers. Errors: HTTPException with its status and what it says."""
    try:
        answer = await runtime.post(f"/run/{service}", json=body)
        told = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise HTTPException(502, f"{service} gave no answer: {error!r}") from None
    if answer.is_error:
        raise HTTPException(answer.status_code, f"{service}: {told.get('detail', told)}")
    return told


async def look(web: httpx.AsyncClient, site: Site) -> State:
    """How it is now."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(site.seconds):
            answer = (await web.get(str(site.url))).raise_for_status()
        reason = "" if site.text in answer.text else f"{site.text!r} isn't there"
    except TimeoutError:
        reason = f"no answer within {site.seconds:g} s"
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    print(f"{site.url}: {reason or 'up'}")
    return State(url=str(site.url), up=not reason, reason=reason, milliseconds=int(1000 * (time.monotonic() - began)))


@app.post("/")
async def check(watch: Watch) -> Report:
    """Looks at all sites at once. Errors: those of redis_coordinator and send_email."""
    async with httpx.AsyncClient(follow_redirects=True, timeout=60) as web:
        states = await asyncio.gather(*(look(web, site) for site in watch.sites))
    key, now = f"site_monitor:{watch.alert_to}", datetime.now(UTC).isoformat(timespec="seconds")
    kept = (await call("redis_coordinator", {"operation": "get", "key": key}))["value"] or {}
    for state in states:
        last = kept.pop(state.url, {"up": True, "since": now})
        state.changed = state.up != last["up"]
        state.since = now if state.changed else last["since"]
        kept[state.url] = {"up": state.up, "since": state.since}
    news = [
        f"{state.url} is {'up again' if state.up else f'down: {state.reason}'}" for state in states if state.changed
    ]
    if news and watch.alert_to:
        await call("send_email", {"to": watch.alert_to, "subject": news[0][:150], "body": "\n".join(news)})
    # Only now: what couldn't be mailed is news to the next check. What isn't watched any more makes room.
    await call("redis_coordinator", {"operation": "set", "key": key, "value": dict(list(kept.items())[-100:])})
    return Report(sites=states, mailed=bool(news and watch.alert_to))


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
