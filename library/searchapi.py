# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34", "httpx>=0.28"]
# [tool.env-checker]
# env_vars = ["RUNMESH_SEARCHAPI_API_KEY", "RUNMESH_SEARCHAPI_URL=https://www.searchapi.io"]
# [tool.runmesh]
# isolation = "instance"
# timeout = "2m"
# egress = ["www.searchapi.io"]
# ///
"""What search engines find, by searchapi.io: {"engine": "google|bing|youtube", "q"} gives {"results": […]}."""

import os
from typing import Any, Literal

import uvicorn
from pydantic import BaseModel, ConfigDict, Field

from library.parts.client import Provider, api
from library.parts.refusals import Refused

KEY = os.environ["RUNMESH_SEARCHAPI_API_KEY"]
MOST = 100
# In which list an engine's results are.
LISTS = {"google": "organic_results", "bing": "organic_results", "youtube": "videos"}

app = api("searchapi", __doc__)
searchapi = Provider(
    "searchapi.io",
    os.environ["RUNMESH_SEARCHAPI_URL"],
    headers={"Authorization": f"Bearer {KEY}"},
    secrets=(KEY,),
    message=lambda said: said.get("error"),
    seconds=90,  # as long as searchapi.io itself may take
)


class Search(BaseModel):
    """`country` (`de`) and `language` (`en`) of who asks: not Bing's; `location`, a town: Google's alone."""

    model_config = ConfigDict(extra="forbid")
    engine: Literal["google", "bing", "youtube"] = "google"
    q: str = Field(min_length=1, max_length=2048)
    page: int = Field(1, ge=1, le=100)
    limit: int = Field(10, ge=1, le=MOST)
    country: str | None = Field(None, pattern=r"^[A-Za-z]{2}$")
    language: str | None = Field(None, pattern=r"^[A-Za-z]{2}(-[A-Za-z]{2,4})?$")
    location: str | None = Field(None, min_length=1, max_length=200)


@app.post("/")
async def search(wanted: Search) -> dict[str, Any]:
    """{"results": [{"position", "title", "link", "snippet", "source", "date"}], "total"}; of videos also "channel",
    "length", "views", "thumbnail". `total` is the engine's own guess, or null.
    """
    if wanted.engine == "youtube" and wanted.page > 1:
        raise Refused(400, "bad_request", "YouTube has no numbered pages: leave page out")
    if wanted.location and wanted.engine != "google":
        raise Refused(400, "bad_request", "location is Google's alone: leave it out")
    if wanted.engine == "bing" and (wanted.country or wanted.language):
        raise Refused(400, "bad_request", "country and language aren't Bing's: leave them out")
    query = {
        "engine": wanted.engine,
        "q": wanted.q,
        "page": wanted.page if wanted.page > 1 else None,
        "gl": wanted.country,
        "hl": wanted.language,
        "location": wanted.location,
    }
    said = await searchapi.get("/api/v1/search", query)
    shape = video if wanted.engine == "youtube" else page
    results = [shape(each) for each in (said.get(LISTS[wanted.engine]) or [])[: wanted.limit]]
    return {"results": results, "total": (said.get("search_information") or {}).get("total_results")}


def page(found: dict[str, Any]) -> dict[str, Any]:
    """A result of Google's or Bing's."""
    names = ("position", "title", "link", "snippet", "source", "date")
    return {name: found.get(name) for name in names}


def video(found: dict[str, Any]) -> dict[str, Any]:
    """A result of YouTube's."""
    channel, thumbnail = found.get("channel") or {}, found.get("thumbnail")
    return {
        "position": found.get("position"),
        "title": found.get("title"),
        "link": found.get("link"),
        "snippet": found.get("description"),
        "source": "YouTube",
        "date": found.get("published_time"),
        "channel": channel.get("title"),
        "length": found.get("length"),
        "views": found.get("views"),
        "thumbnail": thumbnail.get("static") if isinstance(thumbnail, dict) else thumbnail,
    }


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
