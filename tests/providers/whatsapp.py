"""WhatsApp's Cloud API: messages of the number 1234. The receiver decides: …1 has to write first, …2 gets too many."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.providers.apis import World, record
from tests.providers.provider import as_json

TOKEN, NUMBER = "EAAG-token-of-whatsapp", "1234"


def settings(world: World) -> dict[str, str]:
    return {"RUNMESH_WHATSAPP_TRIGGER_URL": world.url("whatsapp")}


def error(status: int, code: int, text: str, **more: Any) -> Response:
    told = {"message": text, "type": "OAuthException", "code": code, "fbtrace_id": "Az"}
    return as_json({"error": told | more}, status)


def routes(world: World) -> list[Route]:
    async def send(request: Request) -> Response:
        body = await record(world, request)
        token = request.headers.get("authorization", "").removeprefix("Bearer ")
        if token != TOKEN:
            return error(401, 190, "Invalid OAuth access token - Cannot parse access token")
        if request.path_params["number"] != NUMBER:
            return error(400, 100, "Unsupported post request. Object does not exist", error_subcode=33)
        assert body["messaging_product"] == "whatsapp"
        if body["to"].endswith("1"):
            details = {"messaging_product": "whatsapp", "details": "More than 24 hours have passed"}
            return error(400, 131047, "(#131047) Re-engagement message", error_data=details)
        if body["to"].endswith("2"):
            return error(400, 131056, "(#131056) (Business Account, Consumer Account) pair rate limit hit")
        contacts = [{"input": body["to"], "wa_id": body["to"].lstrip("+")}]
        return as_json({"messaging_product": "whatsapp", "contacts": contacts, "messages": [{"id": "wamid.1"}]})

    return [Route("/{number}/messages", send, methods=["POST"])]
