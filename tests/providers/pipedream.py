"""Pipedream Connect: tokens, apps, actions, accounts, links, runs. slack and google_sheets are its apps; whoever opened
a link has an account (`world.kept["accounts"]`). The text `fail` makes an action fail, as there: by 200.
"""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.providers.apis import World, record
from tests.providers.provider import as_json

ID, SECRET, PROJECT = "client-of-pipedream", "provider-secret-of-pipedream", "proj_abc"
APPS = ("slack", "google_sheets")


def settings(world: World) -> dict[str, str]:
    return {
        "RUNMESH_PIPEDREAM_URL": world.url("pipedream"),
        "RUNMESH_PIPEDREAM_CLIENT_ID": ID,
        "RUNMESH_PIPEDREAM_CLIENT_SECRET": SECRET,
        "RUNMESH_PIPEDREAM_PROJECT_ID": PROJECT,
        "RUNMESH_PIPEDREAM_ENVIRONMENT": "development",
    }


def connect(world: World, organization_id: str, app: str = "slack", **fields: Any) -> str:
    """What a person does with a link; the id of the account."""
    accounts = world.kept.setdefault("accounts", [])
    number = len(accounts) + 1
    found = {
        "id": f"apn_{number}", "name": f"Account {number}", "external_id": organization_id, "healthy": True,
        "dead": False, "app": {"id": "app_1", "name_slug": app, "name": app.title(), "auth_type": "oauth"},
        "created_at": f"2026-01-{number:02}T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    accounts.append(found | fields)
    return str(found["id"])


def routes(world: World) -> list[Route]:
    async def oauth(request: Request) -> Response:
        body = await record(world, request)
        if body != {"grant_type": "client_credentials", "client_id": ID, "client_secret": SECRET}:
            return as_json({"error": "invalid_client", "error_description": "Client authentication failed"}, 401)
        return as_json({"access_token": world.new_token(), "token_type": "Bearer", "expires_in": 3600, "created_at": 1})

    async def serve(request: Request) -> Response:
        body = await record(world, request)
        if not world.bears_token(request):
            return as_json({"error": "Unauthorized"}, 401)
        path = request.url.path.partition("/v1/connect")[2]
        if path.startswith("/apps/"):
            slug = path.removeprefix("/apps/")
            return as_json({"data": {"name_slug": slug}}) if slug in APPS else as_json({"error": "not found"}, 404)
        if request.headers["x-pd-environment"] not in {"development", "production"}:
            return as_json({"error": "environment is missing"}, 400)
        if request.path_params["project"] != PROJECT:
            return as_json({"error": "project not found"}, 404)
        return of_project(world, request, path.removeprefix(f"/{PROJECT}"), body)

    return [
        Route("/v1/oauth/token", oauth, methods=["POST"]),
        Route("/v1/connect/apps/{app}", serve),
        Route("/v1/connect/{project}/accounts", serve),
        Route("/v1/connect/{project}/tokens", serve, methods=["POST"]),
        Route("/v1/connect/{project}/actions", serve),
        Route("/v1/connect/{project}/actions/run", serve, methods=["POST"]),
        Route("/v1/connect/{project}/actions/{key}", serve),
    ]


def of_project(world: World, request: Request, path: str, body: Any) -> Response:
    query = request.query_params
    if path == "/accounts":
        known = world.kept.get("accounts", [])
        own = [each for each in known if each["external_id"] == query["external_user_id"]]
        found = [each for each in own if each["app"]["name_slug"] == query["app"]]
        return as_json({"page_info": {"count": len(found), "total_count": len(found)}, "data": found})
    if path == "/tokens":
        url = "https://pipedream.com/_static/connect.html?token=ctok_1&connectLink=true"
        return as_json({"token": "ctok_1", "expires_at": "2026-01-01T04:00:00Z", "connect_link_url": url})
    if path == "/actions":
        found = [each for each in ACTIONS if each["key"].startswith(query["app"] + "-")]
        return as_json({"page_info": {"count": len(found)}, "data": found[: int(query["limit"])]})
    if path == "/actions/run":
        return run(world, body)
    key = path.removeprefix("/actions/")
    found = [each for each in ACTIONS if each["key"] == key]
    return as_json({"data": found[0]}) if found else as_json({"error": f"Component not found: {key}"}, 404)


ACTIONS: list[dict[str, Any]] = [
    {
        "name": "Send Message", "version": "0.1.2", "key": "slack-send-message", "component_type": "action",
        "description": "Sends a message",
        "configurable_props": [
            {"name": "slack", "type": "app", "app": "slack"},
            {"name": "note", "type": "alert", "alertType": "info", "content": "Hello"},
            {"name": "text", "type": "string", "label": "Text", "description": "What to say"},
            {"name": "thread", "type": "string", "label": "Thread", "optional": True},
        ],
    },
    {
        "name": "Add Row", "version": "1.0.0", "key": "google_sheets-add-single-row", "component_type": "action",
        "configurable_props": [{"name": "googleSheets", "type": "app", "app": "google_sheets"}],
    },
]  # fmt: skip


def run(world: World, body: dict[str, Any]) -> Response:
    used = next(each["authProvisionId"] for each in body["configured_props"].values() if isinstance(each, dict))
    assert used in {each["id"] for each in world.kept["accounts"]}
    if body["configured_props"].get("text") == "fail":
        error = {"name": "Error", "message": f"not_in_channel {SECRET}", "stack": "…"}
        return as_json({"os": [{"ts": 1, "k": "error", "err": error}], "exports": {}, "ret": None})
    summary = {"$summary": "Sent"}
    return as_json({"os": [], "exports": summary, "ret": {"by": used, "for": body["external_user_id"]}})
