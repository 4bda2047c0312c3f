# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34", "httpx>=0.28"]
# [tool.env-checker]
# env_vars = [
#   "RUNMESH_PIPEDREAM_CLIENT_ID", "RUNMESH_PIPEDREAM_CLIENT_SECRET", "RUNMESH_PIPEDREAM_PROJECT_ID",
#   "RUNMESH_PIPEDREAM_ENVIRONMENT=production", "RUNMESH_PIPEDREAM_URL=https://api.pipedream.com",
# ]
# [tool.runmesh]
# isolation = "instance"
# timeout = "5m"
# egress = ["api.pipedream.com"]
# ///
"""Actions of some thousand apps by Pipedream Connect, with accounts that the caller's organization has connected:
{"app", "action", "props"}; /connect {"app"} gives {"connected", "connect_link_url"}, /actions {"app"} what there is.
"""

import os
import re
from typing import Annotated, Any

import uvicorn
from fastapi import Depends, Header
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from library.parts.client import Answer, ClientCredentials, Provider, api
from library.parts.refusals import Refused, too_deep

CREDENTIALS = {name: os.environ[f"RUNMESH_PIPEDREAM_{name.upper()}"] for name in ("client_id", "client_secret")}
PROJECT = f"/v1/connect/{os.environ['RUNMESH_PIPEDREAM_PROJECT_ID']}"
SLUG = r"^[a-z0-9_][a-z0-9_-]{0,199}$"
# What names an account inside of an action's inputs.
ACCOUNT = "authProvisionId"

app = api("pipedream", __doc__)
pipedream = Provider(
    "Pipedream",
    os.environ["RUNMESH_PIPEDREAM_URL"],
    headers={"X-PD-Environment": os.environ["RUNMESH_PIPEDREAM_ENVIRONMENT"]},
    secrets=(CREDENTIALS["client_secret"],),
    message=lambda said: said.get("error") or said.get("message"),
    seconds=240,  # an action takes as long as its app does
)


async def new_token() -> Any:
    """Errors: Refused."""
    return await pipedream.post("/v1/oauth/token", {"grant_type": "client_credentials", **CREDENTIALS})


token = ClientCredentials(new_token)


def asker(x_runmesh_organization_id: Annotated[str, Header()]) -> str:
    """Whose accounts: the organization that asked for this, not the one that pays. The two differ where somebody's
    public workflow asks, which mustn't use its caller's accounts.
    """
    return x_runmesh_organization_id


Asker = Annotated[str, Depends(asker)]


class OfApp(BaseModel):
    """`app` as Pipedream spells it, such as google_sheets."""

    model_config = ConfigDict(extra="forbid")
    app: str = Field(pattern=SLUG, validation_alias=AliasChoices("app", "app_slug"))


class Action(OfApp):
    """`action` with or without the app in front; `account_id` where the app is connected several times."""

    action: str = Field(pattern=SLUG, validation_alias=AliasChoices("action", "action_name"))
    props: dict[str, Any] = Field(default_factory=dict)
    account_id: str | None = Field(None, pattern=r"^apn_\w{1,100}$")

    @property
    def key(self) -> str:
        """As Pipedream names it."""
        return self.action if self.action.startswith(f"{self.app}-") else f"{self.app}-{self.action}"


class Actions(OfApp):
    """`query` narrows them."""

    query: str | None = Field(None, min_length=1, max_length=200)
    limit: int = Field(20, ge=1, le=100)


@app.post("/")
async def run(wanted: Action, who: Asker) -> dict[str, Any]:
    """{"result", "exports"} of the action. Errors: not_connected (424), which says where to connect the app."""
    if too_deep(wanted.props):
        raise Refused(400, "bad_request", "props: nested too deeply")
    if names_account(wanted.props):
        raise Refused(400, "bad_request", f"props names an account ({ACCOUNT}): leave it out, and say account_id")
    definition = (await asked("GET", f"{PROJECT}/actions/{wanted.key}"))["data"]
    inputs = dict(wanted.props)
    for prop in definition.get("configurable_props") or []:
        if prop.get("type") == "app":
            inputs[prop["name"]] = {ACCOUNT: await account(prop["app"], who, wanted)}
    body = {"id": wanted.key, "external_user_id": who, "configured_props": inputs}
    said = await asked("POST", f"{PROJECT}/actions/run", json=body)
    if (why := failure(said)) is not None:
        raise Refused(400, "action_failed", f"{wanted.key} failed{pipedream.why(Answer(200, {}, {'error': why}))}")
    return {"result": said.get("ret"), "exports": said.get("exports")}


@app.post("/connect")
async def connect(wanted: OfApp, who: Asker) -> dict[str, Any]:
    """{"connected", "connect_link_url", "accounts": [{"id", "name", "healthy"}]}. The link is for whoever has the
    account, good for some hours; null where one is connected.
    """
    found = await accounts(wanted.app, who)
    usable = any(each["healthy"] for each in found)
    return {"connected": usable, "connect_link_url": None if usable else await link(wanted.app, who), "accounts": found}


@app.post("/actions")
async def actions(wanted: Actions) -> dict[str, Any]:
    """{"actions": [{"action", "name", "description", "props": [{"name", "type", "required", "description"}]}]}."""
    query = {"app": wanted.app, "q": wanted.query, "limit": wanted.limit}
    said = await asked("GET", f"{PROJECT}/actions", params={name: each for name, each in query.items() if each})
    return {"actions": [action(each) for each in said["data"]]}


def action(found: dict[str, Any]) -> dict[str, Any]:
    """What a caller needs to know of it."""
    props = [
        {
            "name": each["name"],
            "type": each["type"],
            "required": not each.get("optional", False),
            "description": each.get("description"),
        }
        for each in found.get("configurable_props") or []
        if each.get("type") not in {"app", "alert"} and not each.get("hidden")
    ]
    return {
        "action": found["key"],
        "name": found.get("name"),
        "description": found.get("description"),
        "props": props,
    }


async def asked(method: str, path: str, **options: Any) -> Any:
    """With a token, and a new one where that isn't accepted any more. Errors: Refused."""
    answer = await pipedream.ask(method, path, headers=await token.header(), **options)
    if answer.status == 401:
        answer = await pipedream.ask(method, path, headers=await token.header(anew=True), **options)
    return pipedream.good(answer)


async def accounts(slug: str, who: str) -> list[dict[str, Any]]:
    """Those that `who` has connected, the newest first. Errors: Refused."""
    query = {"external_user_id": who, "app": slug, "limit": 100}
    found = (await asked("GET", f"{PROJECT}/accounts", params=query))["data"]
    # Pipedream was asked for just these; somebody else's account would be too bad to rely on it.
    own = [each for each in found if each.get("external_id") == who and each["app"]["name_slug"] == slug]
    own.sort(key=lambda each: str(each.get("created_at")), reverse=True)
    return [
        {
            "id": each["id"],
            "name": each.get("name"),
            "healthy": bool(each.get("healthy", True)) and not each.get("dead"),
        }
        for each in own
    ]


async def account(slug: str, who: str, wanted: Action) -> str:
    """The one to act with. Errors: Refused."""
    found = await accounts(slug, who)
    if wanted.account_id and slug == wanted.app:
        found = [each for each in found if each["id"] == wanted.account_id]
        if not found:
            raise Refused(404, "not_found", f"you have connected no account {wanted.account_id} of {slug}")
    usable: list[str] = [each["id"] for each in found if each["healthy"]]
    if not usable:
        url = await link(slug, who)
        told = f"{slug} isn't connected: open connect_link_url in a browser, connect it, and try again"
        raise Refused(424, "not_connected", told, more={"connected": False, "connect_link_url": url})
    return usable[0]


async def link(slug: str, who: str) -> str:
    """Where a person connects this app for `who`. Errors: Refused."""
    await asked("GET", f"/v1/connect/apps/{slug}")  # the link would show nobody that there is no such app
    said = await asked("POST", f"{PROJECT}/tokens", json={"external_user_id": who})
    return f"{said['connect_link_url']}&app={slug}"


def names_account(value: Any) -> bool:
    """Whether it does at any depth. With one's own project any account could be named, anybody's."""
    if isinstance(value, dict):
        return ACCOUNT in value or any(map(names_account, value.values()))
    if isinstance(value, list):
        return any(map(names_account, value))
    # A string may be JSON, which spells letters as it likes, also in a string of its own.
    return isinstance(value, str) and ACCOUNT in re.sub(
        r"\\+u([0-9a-fA-F]{4})", lambda found: chr(int(found[1], 16)), value
    )


def failure(said: Any) -> str | None:
    """Why an action failed, which Pipedream answers with 200; None: it didn't."""
    observed = [each.get("err") for each in said.get("os") or [] if isinstance(each, dict) and each.get("k") == "error"]
    error = said.get("error") or next(iter(observed), None)
    if error is None:
        return None
    return str(error.get("message") or error.get("name")) if isinstance(error, dict) else str(error)


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
