"""searchapi.io: one path, an engine each. `q` may be `nothing`, `too often`, `used up`."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from tests.providers.apis import World, record
from tests.providers.provider import as_json

KEY = "provider-key-of-searchapi"


def settings(world: World) -> dict[str, str]:
    return {"RUNMESH_SEARCHAPI_URL": world.url("searchapi"), "RUNMESH_SEARCHAPI_API_KEY": KEY}


def routes(world: World) -> list[Route]:
    async def serve(request: Request) -> Response:
        await record(world, request)
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return as_json({"error": "Invalid API key. Sign up at searchapi.io"}, 401)
        engine, text = request.query_params["engine"], request.query_params["q"]
        if text in {"too often", "used up"}:
            return as_json({"error": f"You have {text} of {KEY}"}, 429)
        head = {
            "search_metadata": {"id": "search_1", "status": "Success", "total_time_taken": 1.4},
            "search_parameters": dict(request.query_params),
        }
        if text == "nothing":
            return as_json(head)
        return as_json(head | (videos() if engine == "youtube" else pages(engine)))

    return [Route("/api/v1/search", serve)]


def pages(engine: str) -> dict[str, Any]:
    found = [
        {
            "position": number, "title": f"Cats {number}", "link": f"https://cats.example/{number}",
            "source": "Cats", "domain": "cats.example", "displayed_link": "https://cats.example", "favicon": "data:…",
            "snippet": f"by {engine}", "snippet_highlighted_words": ["cats"], "sitelinks": {},
        }
        for number in range(1, 12)
    ]  # fmt: skip
    found[0]["date"] = "Jan 3, 2026"
    return {"search_information": {"query_displayed": "cats", "total_results": 4210}, "organic_results": found}


def videos() -> dict[str, Any]:
    video = {
        "position": 1, "id": "dQw4", "title": "Cat", "link": "https://www.youtube.com/watch?v=dQw4",
        "description": "A cat", "channel": {"id": "UC1", "title": "Cats", "link": "https://www.youtube.com/@cats"},
        "published_time": "2 years ago", "views": 12345, "length": "3:33", "extensions": ["4K"],
        "thumbnail": {"static": "https://i.ytimg.example/1.jpg", "rich": "https://i.ytimg.example/1.webp"},
    }  # fmt: skip
    return {"search_information": {"detected_extracted_location": "US"}, "videos": [video]}
