"""Reddit: tokens by client credentials, listings, comments. Subreddits: python, secret (private), gone (banned), busy
(asked too often); others lead to a search, as there.
"""

import base64
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from tests.providers.apis import World, record
from tests.providers.provider import as_json

ID, SECRET = "client-of-reddit", "provider-secret-of-reddit"


def settings(world: World) -> dict[str, str]:
    urls = {f"RUNMESH_REDDIT_{name}_URL": world.url("reddit") for name in ("AUTH", "API")}
    return {"RUNMESH_REDDIT_CLIENT_ID": ID, "RUNMESH_REDDIT_CLIENT_SECRET": SECRET, **urls}


def routes(world: World) -> list[Route]:
    async def token(request: Request) -> Response:
        form = await record(world, request)
        basic = "Basic " + base64.b64encode(f"{ID}:{SECRET}".encode()).decode()
        if request.headers.get("authorization") != basic:
            return as_json({"message": "Unauthorized", "error": 401}, 401)
        if form != {"grant_type": "client_credentials"}:
            return as_json({"error": "unsupported_grant_type"})
        return as_json({"access_token": world.new_token(), "token_type": "bearer", "expires_in": 86400, "scope": "*"})

    async def serve(request: Request) -> Response:
        await record(world, request)
        if "httpx" in request.headers["user-agent"]:
            return as_json({"message": "Too Many Requests", "error": 429}, 429)
        if not world.bears_token(request):
            return as_json({"message": "Unauthorized", "error": 401}, 401)
        if "post_id" in request.path_params:
            return comments(request.path_params["post_id"])
        return posts(request.path_params["subreddit"], int(request.query_params.get("limit", "25")))

    return [
        Route("/api/v1/access_token", token, methods=["POST"]),
        Route("/r/{subreddit}/{sort}", serve),
        Route("/comments/{post_id}", serve),
    ]


def listing(children: list[Any], after: str | None = None) -> dict[str, Any]:
    data = {"after": after, "dist": len(children), "modhash": None, "geo_filter": "", "children": children}
    return {"kind": "Listing", "data": {**data, "before": None}}


def posts(subreddit: str, limit: int) -> Response:
    if subreddit == "secret":
        return as_json({"reason": "private", "message": "Forbidden", "error": 403}, 403)
    if subreddit == "gone":
        return as_json({"reason": "banned", "message": "Not Found", "error": 404}, 404)
    if subreddit == "busy":
        headers = {"x-ratelimit-used": "100", "x-ratelimit-remaining": "0", "x-ratelimit-reset": "73"}
        return as_json({"message": "Too Many Requests", "error": 429}, 429, headers)
    if subreddit != "python":
        return RedirectResponse(f"/subreddits/search?q={subreddit}", 302)
    return as_json(listing([post(number) for number in range(limit)], f"t3_{limit}"))


def post(number: int) -> dict[str, Any]:
    data = {
        "id": f"p{number}", "name": f"t3_p{number}", "title": "Ada & Bob", "author": "ada", "subreddit": "python",
        "selftext": "Look", "url": "https://example.com/", "permalink": f"/r/python/comments/p{number}/ada/",
        "score": 12, "ups": 12, "upvote_ratio": 0.97, "num_comments": 3, "over_18": False, "stickied": number == 0,
        "created_utc": 1700000000.0, "link_flair_text": None, "gilded": 0, "subreddit_id": "t5_2qh0y", "media": None,
    }  # fmt: skip
    return {"kind": "t3", "data": data}


def comments(post_id: str) -> Response:
    if post_id != "p1":
        return as_json({"message": "Not Found", "error": 404}, 404)
    more = {"kind": "more", "data": {"count": 7, "name": "t1_x", "id": "x", "depth": 1, "children": ["x"]}}
    inner = comment("c2", "")
    return as_json([listing([post(1)]), listing([comment("c1", listing([inner, more])), comment("c3", "")])])


def comment(name: str, replies: Any) -> dict[str, Any]:
    data = {"id": name, "author": "bob", "body": f"said {name}", "score": 2, "created_utc": 1700000100.0, "depth": 0}
    return {"kind": "t1", "data": {**data, "parent_id": "t3_p1", "replies": replies}}
