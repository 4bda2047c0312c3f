# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34", "httpx>=0.28"]
# [tool.env-checker]
# env_vars = [
#   "WHATSAPP_TOKEN=", "WHATSAPP_PHONE_NUMBER_ID=",
#   "RUNMESH_WHATSAPP_TRIGGER_URL=https://graph.facebook.com/v23.0",
# ]
# [tool.runmesh]
# isolation = "instance"
# timeout = "1m"
# egress = ["graph.facebook.com"]
# ///
"""Messages to a WhatsApp number start a workflow: {"service_id", "app_secret"} gives the address for them; /list and
/remove; /answer {"to", "text"} writes back, by the WhatsApp Cloud API with the number's own token.
"""

import os
from typing import Any

import uvicorn
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from library.parts.client import Answer, Provider, api
from library.parts.refusals import Refused

# Of the Graph API: the token is none or may not do this; too often; who may not be written to.
NO_TOKEN, TOO_OFTEN = {0, 3, 10, 190, 200}, {4, 80007, 130429, 131048, 131056}
NOT_TO_THEM = {131026, 131030, 131047}

app = api("whatsapp_trigger", __doc__)


def as_told(answer: Answer) -> Refused | None:
    """The platform's refusals, as they are."""
    if answer.status < 400 or not isinstance(answer.said, dict):
        return None
    return Refused(answer.status, answer.said.get("code", "bad_request"), str(answer.said.get("detail")))


def refusal(answer: Answer) -> Refused | None:
    """By the code of the Graph API's error, which says more than the status."""
    error = answer.said.get("error") if isinstance(answer.said, dict) else None
    if answer.status < 400 or not isinstance(error, dict):
        return None
    why, code = whatsapp.why(answer), error.get("code")
    if code in TOO_OFTEN:
        return whatsapp.too_often(answer)
    if code in NO_TOKEN:
        return Refused(403, "forbidden", f"WhatsApp doesn't take this token for that{why}")
    if code in NOT_TO_THEM:
        return Refused(400, "not_allowed", f"WhatsApp doesn't let you write to this number now{why}")
    return None


def message(said: Any) -> Any:
    """What it says in detail, else in short."""
    error = said["error"]
    return (error.get("error_data") or {}).get("details") or error["message"]


platform = Provider(
    "the platform",
    os.environ["CODEWORDS_RUNTIME_URI"],
    headers={"Authorization": f"Bearer {os.environ['CODEWORDS_API_KEY']}"},
    refusal=as_told,
)
whatsapp = Provider("WhatsApp", os.environ["RUNMESH_WHATSAPP_TRIGGER_URL"], message=message, refusal=refusal)


class Trigger(BaseModel):
    """Which workflow gets the events, and what Meta signs them with: the app secret. `verify_token` is what Meta's page
    asks for besides; one is made where it is left out.
    """

    model_config = ConfigDict(extra="forbid")
    service_id: str = Field(min_length=1, max_length=300)
    app_secret: str = Field(min_length=8, max_length=500, validation_alias=AliasChoices("app_secret", "signing_secret"))
    verify_token: str | None = Field(None, min_length=8, max_length=500)


class Removal(BaseModel):
    """As / and /list give it."""

    model_config = ConfigDict(extra="forbid")
    id: str = Field(pattern=r"^[A-Za-z0-9_-]{1,100}$")


class Message(BaseModel):
    """`to`: a number with its country's code. `reply_to`: the id of the message that is answered. `token` and
    `phone_number_id`, else the secrets WHATSAPP_TOKEN and WHATSAPP_PHONE_NUMBER_ID.
    """

    model_config = ConfigDict(extra="forbid")
    to: str = Field(pattern=r"^\+?[0-9]{5,20}$")
    text: str = Field(min_length=1, max_length=4096)
    reply_to: str | None = Field(None, min_length=1, max_length=300)
    token: str | None = Field(None, pattern=r"^[\x21-\x7e]{1,1000}$")
    phone_number_id: str | None = Field(None, pattern=r"^[0-9]{1,30}$")


@app.post("/")
async def register(wanted: Trigger) -> dict[str, Any]:
    """{"id", "service_id", "url", "verify_token"}: the last two, shown this once, go into "Webhooks" of the app, where
    the field `messages` is to be subscribed.
    """
    body = {"service_id": wanted.service_id, "kind": "whatsapp", "secret": wanted.app_secret}
    made = await platform.post("/hooks", body | ({"verify_token": wanted.verify_token} if wanted.verify_token else {}))
    return {name: made[name] for name in ("id", "service_id", "url", "verify_token")}


@app.post("/list")
async def list_triggers() -> dict[str, Any]:
    """{"items": [{"id", "service_id", "created_at"}]}."""
    found = (await platform.get("/hooks", {"limit": 1000}))["items"]
    names = ("id", "service_id", "created_at")
    return {"items": [{name: each.get(name) for name in names} for each in found if each["kind"] == "whatsapp"]}


@app.post("/remove")
async def remove(wanted: Removal) -> dict[str, Any]:
    """{"id", "deleted"}: from now on its address is none."""
    said: dict[str, Any] = platform.good(await platform.ask("DELETE", f"/hooks/{wanted.id}"))
    return said


@app.post("/answer")
async def answer(wanted: Message) -> dict[str, Any]:
    """{"id", "to"} of what was sent."""
    token = wanted.token or os.environ["WHATSAPP_TOKEN"]
    number = wanted.phone_number_id or os.environ["WHATSAPP_PHONE_NUMBER_ID"]
    if not token or not number.isdigit():
        told = (
            "send token and phone_number_id, or keep them as your secrets WHATSAPP_TOKEN and WHATSAPP_PHONE_NUMBER_ID "
            "and call with the header Run-As-Template: yes"
        )
        raise Refused(424, "missing_secret", told)
    body: dict[str, Any] = {"messaging_product": "whatsapp", "recipient_type": "individual", "to": wanted.to}
    body |= {"type": "text", "text": {"preview_url": False, "body": wanted.text}}
    if wanted.reply_to:
        body["context"] = {"message_id": wanted.reply_to}
    said = await whatsapp.post(f"/{number}/messages", body, headers={"Authorization": f"Bearer {token}"})
    return {"id": said["messages"][0]["id"], "to": said["contacts"][0]["wa_id"]}


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
