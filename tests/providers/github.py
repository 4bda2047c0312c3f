"""GitHub's REST API: searches, a user, a repository. A query may hold `[limited]` (the primary rate limit is used up),
`[secondary]`, `[broken]`, `[slow]`, `[long]`, `[leak]` (the key comes back in an error), `[odd=JSON]`.
"""

import asyncio
import time
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from tests.providers.apis import World, record
from tests.providers.provider import as_json

KEY = "provider-key-of-github"
FOUND = 250


def settings(world: World) -> dict[str, str]:
    return {"RUNMESH_GITHUB_URL": world.url("github"), "RUNMESH_GITHUB_API_KEY": KEY}


def routes(world: World) -> list[Route]:
    async def serve(request: Request) -> Response:
        await record(world, request)
        if not request.headers.get("user-agent"):
            return error(403, "Request forbidden by administrative rules")
        if request.headers.get("authorization") not in {None, f"Bearer {KEY}"}:
            return error(401, "Bad credentials")
        path = request.url.path.removeprefix("/github")
        if path.startswith("/search/"):
            text = request.query_params["q"]
            await asyncio.sleep(5 if "[slow]" in text else 0)
            return failed(text) or found(path, request.query_params)
        return one(path, request.headers["host"])

    paths = ("/search/users", "/search/repositories", "/users/{name}", "/repos/{owner}/{name}", "/repositories/{id}")
    return [Route(path, serve) for path in paths]


def error(status: int, message: str, **headers: str) -> Response:
    told = {"message": message, "documentation_url": "https://docs.github.com/rest", "status": str(status)}
    return as_json(told, status, {name.replace("_", "-"): value for name, value in headers.items()})


def one(path: str, host: str) -> Response:
    if path == "/users/octocat":
        return as_json(user(0) | MORE)
    if path == "/repositories/1":
        return as_json(repository("moved"))
    if path == "/repos/octo/renamed":
        return RedirectResponse(f"http://{host}/github/repositories/1", 301)
    name = path.removeprefix("/repos/octo/")
    return error(404, "Not Found") if name == path else as_json(repository(name))


def failed(text: str) -> Response | None:
    reset = str(int(time.time()) + 40)
    spent = {"x_ratelimit_limit": "10", "x_ratelimit_remaining": "0", "x_ratelimit_reset": reset}
    answers = {
        "[limited]": error(403, "API rate limit exceeded for 203.0.113.9.", **spent),
        "[secondary]": error(403, "You have exceeded a secondary rate limit.", retry_after="55"),
        "[broken]": Response("<html>Unicorn!</html>", 502),
        "[leak]": error(422, f"bad key {KEY}"),
    }
    if text.startswith("[odd="):
        return Response(text.removeprefix("[odd=")[:-1], media_type="application/json")
    if text == "[long]":
        return as_json({"total_count": 1, "items": ["x" * 1024 * 1024] * 9})
    return answers.get(text)


def found(path: str, query: Any) -> Response:
    page, size = int(query.get("page", "1")), int(query.get("per_page", "30"))
    if page * size > 1000:
        return error(422, "Only the first 1000 search results are available")
    make = user if path == "/search/users" else lambda number: repository(f"repo-{number}")
    items = [make(number) for number in range(FOUND)][(page - 1) * size : page * size]
    return as_json({"total_count": FOUND, "incomplete_results": False, "items": items})


MORE = {
    "name": "The Octocat", "company": "@github", "blog": "https://github.blog", "location": "San Francisco",
    "email": None, "bio": "A cat", "twitter_username": None, "public_repos": 8, "public_gists": 8, "followers": 20000,
    "following": 9, "created_at": "2011-01-25T18:44:36Z", "updated_at": "2026-01-22T11:13:45Z", "hireable": None,
}  # fmt: skip


def user(number: int) -> dict[str, Any]:
    login = f"user-{number}" if number else "octocat"
    return {
        "login": login, "id": number, "node_id": "MDQ6VXNlcjE=", "avatar_url": f"https://avatars.example/{number}",
        "gravatar_id": "", "url": f"https://api.github.com/users/{login}", "html_url": f"https://github.com/{login}",
        "followers_url": f"https://api.github.com/users/{login}/followers", "type": "User", "user_view_type": "public",
        "site_admin": False, "score": 1.0,
    }  # fmt: skip


def repository(name: str) -> dict[str, Any]:
    return {
        "id": 1, "node_id": "R_1", "name": name, "full_name": f"octo/{name}", "private": name in {"hidden", "repo-2"},
        "owner": user(1), "html_url": f"https://github.com/octo/{name}", "description": "Fine code", "fork": False,
        "url": f"https://api.github.com/repos/octo/{name}", "homepage": "", "size": 108, "stargazers_count": 80,
        "watchers_count": 80, "language": "Python", "has_issues": True, "forks_count": 9, "archived": False,
        "open_issues_count": 2, "license": {"key": "mit", "name": "MIT License", "spdx_id": "MIT"},
        "topics": ["cats"], "visibility": "public", "default_branch": "main", "created_at": "2011-01-26T19:01:12Z",
        "updated_at": "2026-01-26T19:14:43Z", "pushed_at": "2026-01-26T19:06:43Z", "score": 1.0,
    }  # fmt: skip
