# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34", "httpx>=0.28"]
# [tool.env-checker]
# env_vars = ["RUNMESH_GITHUB_API_KEY=", "RUNMESH_GITHUB_URL=https://api.github.com"]
# [tool.runmesh]
# isolation = "instance"
# timeout = "1m"
# egress = ["api.github.com"]
# ///
"""What is public on GitHub: /search_profiles and /search_repositories {"query"}, /profile {"username"}, /repository
{"repository": "owner/name"}.
"""

import os
import time
from typing import Any, Literal

import uvicorn
from pydantic import BaseModel, ConfigDict, Field

from library.parts.client import Answer, Provider, api
from library.parts.refusals import Refused

MOST_FOUND = 1000  # GitHub shows no more of what a search finds
OWNER = r"[A-Za-z0-9][A-Za-z0-9_-]{0,99}"
KEY = os.environ["RUNMESH_GITHUB_API_KEY"]

app = api("github", __doc__)


def refusal(answer: Answer) -> Refused | None:
    """GitHub tells that it is asked too often by 403, too."""
    spent = answer.headers.get("x-ratelimit-remaining") == "0"
    if answer.status not in {403, 429} or not (spent or answer.status == 429 or "retry-after" in answer.headers):
        return None
    reset = answer.headers.get("x-ratelimit-reset", "")
    wait = int(reset) - time.time() if spent and "retry-after" not in answer.headers and reset.isdigit() else None
    refused = github.too_often(answer, wait)
    refused.retry_after = refused.retry_after or 60
    return refused


github = Provider(
    "GitHub",
    os.environ["RUNMESH_GITHUB_URL"],
    headers={
        "Accept": "application/vnd.github+json",
        "X-GitHub-Api-Version": "2022-11-28",
        "User-Agent": "runmesh",
        **({"Authorization": f"Bearer {KEY}"} if KEY else {}),
    },
    secrets=(KEY,),
    refusal=refusal,
    redirects=True,  # what was renamed
)


class Search(BaseModel):
    """`query` in GitHub's own syntax, such as `language:python location:berlin`."""

    model_config = ConfigDict(extra="forbid")
    query: str = Field(min_length=1, max_length=256)
    limit: int = Field(10, ge=1, le=100)
    page: int = Field(1, ge=1, le=MOST_FOUND)
    order: Literal["asc", "desc"] = "desc"


class ProfileSearch(Search):
    """By what they are sorted: GitHub's best match where nothing is said."""

    sort: Literal["followers", "repositories", "joined"] | None = None


class RepositorySearch(Search):
    """As above."""

    sort: Literal["stars", "forks", "help-wanted-issues", "updated"] | None = None


class Username(BaseModel):
    """A person's or an organization's."""

    model_config = ConfigDict(extra="forbid")
    username: str = Field(pattern=f"^{OWNER}$")


class Repository(BaseModel):
    """`repository`: owner/name."""

    model_config = ConfigDict(extra="forbid")
    repository: str = Field(pattern=f"^{OWNER}/[.]?[A-Za-z0-9_-][A-Za-z0-9_.-]{{0,98}}$")


@app.post("/search_profiles")
async def search_profiles(wanted: ProfileSearch) -> dict[str, Any]:
    """{"total", "profiles": [{"username", "url", "avatar_url", "kind"}], "next_page"}; /profile tells more of one."""
    return await search("/search/users", wanted, "profiles", brief)


@app.post("/search_repositories")
async def search_repositories(wanted: RepositorySearch) -> dict[str, Any]:
    """{"total", "repositories": [as /repository], "next_page"}."""
    return await search("/search/repositories", wanted, "repositories", repository_of)


@app.post("/profile")
async def profile(wanted: Username) -> dict[str, Any]:
    """What a person or an organization shows of itself."""
    found = await github.get(f"/users/{wanted.username}")
    names = ("name", "company", "location", "email", "bio", "followers", "following", "public_repos", "created_at")
    told = {name: found.get(name) for name in names}
    return {**brief(found), **told, "website": found.get("blog") or None, "twitter": found.get("twitter_username")}


@app.post("/repository")
async def repository(wanted: Repository) -> dict[str, Any]:
    """{"repository", "url", "description", "language", "stars", "forks", "open_issues", "topics", "license", …}."""
    found = await github.get(f"/repos/{wanted.repository}")
    if found.get("private"):  # the operator's key may see what isn't its callers' business
        raise Refused(404, "not_found", "GitHub doesn't know that: Not Found")
    return repository_of(found)


async def search(path: str, wanted: ProfileSearch | RepositorySearch, name: str, shape: Any) -> dict[str, Any]:
    """A page of what is found. Errors: Refused."""
    if wanted.page * wanted.limit > MOST_FOUND:
        raise Refused(400, "bad_request", f"GitHub shows the first {MOST_FOUND} only: page times limit is more")
    query = {"q": wanted.query, "per_page": wanted.limit, "page": wanted.page}
    if wanted.sort:
        query |= {"sort": wanted.sort, "order": wanted.order}
    found = await github.get(path, query)
    last = min(found["total_count"], MOST_FOUND)
    more = wanted.page * wanted.limit < last and (wanted.page + 1) * wanted.limit <= MOST_FOUND
    items = [shape(each) for each in found["items"] if not each.get("private")]
    return {"total": found["total_count"], name: items, "next_page": wanted.page + 1 if more else None}


def brief(found: dict[str, Any]) -> dict[str, Any]:
    """A profile, as searches give it."""
    kind = str(found.get("type", "")).lower()
    return {
        "username": found["login"],
        "url": found["html_url"],
        "avatar_url": found.get("avatar_url"),
        "kind": kind,
    }


def repository_of(found: dict[str, Any]) -> dict[str, Any]:
    """What matters of it."""
    as_it_is = ("description", "language", "topics", "homepage", "archived", "fork", "default_branch")
    return {
        "repository": found["full_name"],
        "url": found["html_url"],
        **{name: found.get(name) for name in as_it_is},
        "stars": found.get("stargazers_count"),
        "forks": found.get("forks_count"),
        "open_issues": found.get("open_issues_count"),
        "license": (found.get("license") or {}).get("spdx_id"),
        **{name: found.get(name) for name in ("created_at", "updated_at", "pushed_at")},
    }


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
