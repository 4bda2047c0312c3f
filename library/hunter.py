# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34", "httpx>=0.28"]
# [tool.env-checker]
# env_vars = ["RUNMESH_HUNTER_API_KEY", "RUNMESH_HUNTER_URL=https://api.hunter.io"]
# [tool.runmesh]
# isolation = "instance"
# timeout = "2m"
# egress = ["api.hunter.io"]
# ///
"""Addresses of people at work, by hunter.io: /find_email {"domain", "first_name", "last_name"}, /verify {"email"}."""

import asyncio
import os
from typing import Any

import uvicorn
from pydantic import BaseModel, ConfigDict, Field

from library.parts.client import Answer, Provider, api
from library.parts.refusals import Refused

KEY = os.environ["RUNMESH_HUNTER_API_KEY"]
# While hunter.io still looks (202) it is asked again: so often, after so many seconds.
LOOKS, PAUSE = 8, 5.0

app = api("hunter", __doc__)


def refusal(answer: Answer) -> Refused | None:
    """hunter.io says 403 for too often and 429 for what the account has used up."""
    if answer.status == 403:
        return hunter.too_often(answer, 1)
    if answer.status == 429:
        return Refused(429, "quota_exceeded", f"the operator's account at hunter.io is used up{hunter.why(answer)}")
    if answer.status == 451:
        return Refused(
            451, "unavailable_for_legal_reasons", "this person has asked hunter.io to keep nothing of theirs"
        )
    if answer.status == 222:
        return Refused(502, "provider_failed", "the mail server of that address doesn't answer hunter.io; try later")
    return None


hunter = Provider(
    "hunter.io",
    os.environ["RUNMESH_HUNTER_URL"],
    headers={"X-API-KEY": KEY},
    secrets=(KEY,),
    message=lambda said: said["errors"][0]["details"],
    refusal=refusal,
)


class Person(BaseModel):
    """Whose address at this domain."""

    model_config = ConfigDict(extra="forbid")
    domain: str = Field(pattern=r"^[^\s/@:]+\.[^\s/@:]+$", max_length=253)
    first_name: str = Field(min_length=1, max_length=100)
    last_name: str = Field(min_length=1, max_length=100)


class Address(BaseModel):
    """Is there somebody?"""

    model_config = ConfigDict(extra="forbid")
    email: str = Field(pattern=r"^[^\s@]{1,64}@[^\s@/]{1,253}\.[^\s@/]+$", max_length=320)


@app.post("/find_email")
async def find_email(wanted: Person) -> dict[str, Any]:
    """{"email", "score" (0 to 100), "position", "company", "linkedin_url", "twitter", "phone_number", "verification",
    "sources": [{"uri", "last_seen_on"}]}; `email` is null when none was found.
    """
    found = (await hunter.get("/v2/email-finder", wanted.model_dump()))["data"]
    names = ("email", "score", "position", "company", "linkedin_url", "twitter", "phone_number")
    sources = [{name: each.get(name) for name in ("uri", "last_seen_on")} for each in found.get("sources") or []]
    verification = (found.get("verification") or {}).get("status")
    return {**{name: found.get(name) for name in names}, "verification": verification, "sources": sources[:20]}


@app.post("/verify")
async def verify(wanted: Address) -> dict[str, Any]:
    """{"email", "status": "valid|invalid|accept_all|webmail|disposable|unknown", "score", "deliverable", …}."""
    for _ in range(LOOKS):
        answer = await hunter.ask("GET", "/v2/email-verifier", params={"email": wanted.email})
        if answer.status != 202:
            break
        await asyncio.sleep(PAUSE)
    else:
        raise Refused(504, "provider_timeout", "hunter.io is still looking at this address; try again in a minute")
    found = hunter.good(answer)["data"]
    names = ("email", "status", "score", "regexp", "gibberish", "disposable", "webmail", "mx_records", "smtp_server",
             "smtp_check", "accept_all", "block")  # fmt: skip
    return {**{name: found.get(name) for name in names}, "deliverable": found.get("status") in {"valid", "webmail"}}


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
