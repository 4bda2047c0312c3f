# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34", "httpx>=0.28"]
# [tool.env-checker]
# env_vars = [
#   "RUNMESH_REDDIT_CLIENT_ID", "RUNMESH_REDDIT_CLIENT_SECRET", "RUNMESH_REDDIT_USER_AGENT=linux:runmesh:v1",
#   "RUNMESH_REDDIT_AUTH_URL=https://www.reddit.com", "RUNMESH_REDDIT_API_URL=https://oauth.reddit.com",
# ]
# [tool.runmesh]
# isolation = "instance"
# timeout = "1m"
# egress = ["www.reddit.com", "oauth.reddit.com"]
# ///
"""What is public on Reddit: /posts {"subreddit", "sort", "limit"} and /comments {"post_id"}."""

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Literal

import uvicorn
from pydantic import BaseModel, ConfigDict, Field

from library.parts.client import Answer, ClientCredentials, Provider, api
from library.parts.refusals import Refused

CREDENTIALS = (os.environ["RUNMESH_REDDIT_CLIENT_ID"], os.environ["RUNMESH_REDDIT_CLIENT_SECRET"])
AGENT = {"User-Agent": os.environ["RUNMESH_REDDIT_USER_AGENT"]}

app = api("reddit", __doc__)


def refusal(answer: Answer) -> Refused | None:
    """A subreddit that isn't there leads to a search; one that isn't for everybody has a reason."""
    said = answer.said if isinstance(answer.said, dict) else {}
    reason = said.get("reason")
    if answer.status in {301, 302} or (answer.status == 404 and reason != "banned"):
        return Refused(404, "not_found", "Reddit doesn't know that")
    if answer.status in {403, 404} and isinstance(reason, str):
        return Refused(403, "forbidden", f"Reddit doesn't show that to everybody: {reason[:40]}")
    if answer.status == 429 and "retry-after" not in answer.headers:
        reset = answer.headers.get("x-ratelimit-reset", "")
        return reddit.too_often(answer, float(reset) if reset.isdigit() else 60)
    return None


accounts = Provider("Reddit", os.environ["RUNMESH_REDDIT_AUTH_URL"], AGENT, CREDENTIALS)
reddit = Provider("Reddit", os.environ["RUNMESH_REDDIT_API_URL"], AGENT, CREDENTIALS, refusal=refusal)


async def new_token() -> Any:
    """Errors: Refused."""
    form = {"grant_type": "client_credentials"}
    return accounts.good(await accounts.ask("POST", "/api/v1/access_token", data=form, auth=CREDENTIALS))


token = ClientCredentials(new_token)


class Posts(BaseModel):
    """`time`: of `top` and `controversial`; `after`: as an earlier page said."""

    model_config = ConfigDict(extra="forbid")
    subreddit: str = Field(pattern=r"^(/?r/)?[A-Za-z0-9][A-Za-z0-9_]{1,20}$")
    sort: Literal["hot", "new", "top", "rising", "controversial"] = "hot"
    time: Literal["hour", "day", "week", "month", "year", "all"] | None = None
    limit: int = Field(25, ge=1, le=100)
    after: str | None = Field(None, pattern=r"^t3_[a-z0-9]+$")


class Comments(BaseModel):
    """`post_id`, as /posts gives it."""

    model_config = ConfigDict(extra="forbid")
    post_id: str = Field(pattern=r"^(t3_)?[a-z0-9]{1,20}$")
    sort: Literal["confidence", "top", "new", "controversial", "old", "qa"] = "confidence"
    limit: int = Field(100, ge=1, le=500)
    depth: int = Field(5, ge=1, le=10)


@app.post("/posts")
async def posts(wanted: Posts) -> dict[str, Any]:
    """{"posts": […], "after": of the next page, or null}."""
    subreddit = wanted.subreddit.rpartition("/")[2]
    query = {"limit": wanted.limit, "t": wanted.time, "after": wanted.after}
    listing = (await get(f"/r/{subreddit}/{wanted.sort}", query))["data"]
    found = [post(each["data"]) for each in listing["children"] if each["kind"] == "t3"]
    return {"posts": found, "after": listing.get("after")}


@app.post("/comments")
async def comments(wanted: Comments) -> dict[str, Any]:
    """{"post", "comments": [{…, "replies": […]}], "left_out": how many more there are}."""
    query = {"sort": wanted.sort, "limit": wanted.limit, "depth": wanted.depth}
    told, answers = await get(f"/comments/{wanted.post_id.removeprefix('t3_')}", query)
    found, left_out = thread(answers)
    return {"post": post(told["data"]["children"][0]["data"]), "comments": found, "left_out": left_out}


async def get(path: str, query: Mapping[str, Any]) -> Any:
    """With a token, and a new one where that isn't accepted any more. Errors: Refused."""
    query = {name: value for name, value in query.items() if value is not None} | {"raw_json": 1}
    answer = await reddit.ask("GET", path, params=query, headers=await token.header())
    if answer.status == 401:
        answer = await reddit.ask("GET", path, params=query, headers=await token.header(anew=True))
    return reddit.good(answer)


def post(found: dict[str, Any]) -> dict[str, Any]:
    """What matters of it; `url` is what it links to, `text` its own."""
    names = ("id", "title", "author", "subreddit", "url", "score", "upvote_ratio", "over_18", "stickied")
    return {
        **{name: found.get(name) for name in names},
        "text": found.get("selftext", ""),
        "flair": found.get("link_flair_text"),
        "comments": found.get("num_comments"),
        "permalink": f"https://www.reddit.com{found['permalink']}",
        "created_at": moment(found["created_utc"]),
    }


def thread(listing: Any) -> tuple[list[dict[str, Any]], int]:
    """The comments of a listing with their replies, and how many Reddit left out."""
    found, left_out = [], 0
    for each in listing["data"]["children"] if listing else []:  # no replies are ""
        data = each["data"]
        if each["kind"] == "more":
            left_out += data.get("count", 0)
            continue
        replies, below = thread(data.get("replies"))
        left_out += below
        told = {"id": data["id"], "author": data.get("author"), "text": data.get("body"), "score": data.get("score")}
        found.append({**told, "created_at": moment(data["created_utc"]), "replies": replies})
    return found, left_out


def moment(seconds: float) -> str:
    """As everywhere here."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
