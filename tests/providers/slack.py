"""Slack's Web API: chat.postMessage. The channel decides: C1 is there, Cbusy is asked too often; others aren't."""

import json

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.providers.apis import World, record
from tests.providers.provider import as_json

TOKEN = "xoxb-token-of-slack"


def settings(world: World) -> dict[str, str]:
    return {"RUNMESH_SLACK_TRIGGER_URL": world.url("slack")}


def routes(world: World) -> list[Route]:
    async def post(request: Request) -> Response:
        body = await record(world, request)
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return as_json({"ok": False, "error": "invalid_auth"})
        if body["channel"] == "Cbusy":
            return as_json({"ok": False, "error": "ratelimited"}, 429, {"retry-after": "30"})
        if body["channel"] != "C1":
            return as_json({"ok": False, "error": "channel_not_found"})
        if len(body["text"]) > 4000:
            return as_json({"ok": False, "error": "msg_too_long", "warning": "superfluous_charset"})
        message = {"type": "message", "bot_id": "B1", "text": body["text"], "user": "U1", "ts": "1700000000.000100"}
        return Response(
            json.dumps({"ok": True, "channel": "C1", "ts": message["ts"], "message": message}),
            media_type="application/json; charset=utf-8",
        )

    return [Route("/chat.postMessage", post, methods=["POST"])]
