# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34", "httpx>=0.28"]
# [tool.env-checker]
# env_vars = []
# [tool.runmesh]
# egress = []
# ///
"""Finds a person at work: their email address, their profiles on LinkedIn and GitHub, and pages that name them.

The sources are asked at once. One that fails is told in `problems`; only if all do the call fails. Without `domain` the
company's is looked up. Calls searchapi, hunter, github.

    curl $URL/run/person_finder -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' \
      -d '{"name": "Ada Lovelace", "company": "Analytical Engines"}'
"""

import asyncio
import os
from collections.abc import Awaitable
from typing import Any
from urllib.parse import urlsplit

import httpx
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field

app = FastAPI(title="Person finder")
KEY = {"Authorization": f"Bearer {os.environ['CODEWORDS_API_KEY']}"}
runtime = httpx.AsyncClient(base_url=os.environ["CODEWORDS_RUNTIME_URI"], headers=KEY, timeout=120)
# Sites about many companies: finding one there doesn't tell its own domain.
DIRECTORIES = ("linkedin.com", "wikipedia.org", "facebook.com", "crunchbase.com", "github.com")


class Person(BaseModel):
    """Who is looked for."""

    name: str = Field(max_length=200, pattern=r"\S\s+\S", description="First and last name")
    company: str = Field("", max_length=200, description="Where they work")
    domain: str = Field("", pattern=r"^([\w-]+(\.[\w-]+)+)?$", description="The company's domain, where it is known")


class Findings(BaseModel):
    """What was found; empty where nothing was."""

    domain: str = ""
    email: str = ""
    email_score: int = Field(0, description="How sure the address is, up to 100")
    position: str = ""
    linkedin: str = ""
    github: list[str] = Field([], description="Profiles that may be theirs, the likeliest first")
    pages: list[dict[str, str]] = Field([], description="title, link and snippet of pages that name them")
    problems: dict[str, str] = Field({}, description="What the sources that failed say")


async def call(service: str, body: dict[str, Any]) -> Any:
    """What a library service answers. Errors: HTTPException with its status and what it says."""
    try:
        answer = await runtime.post(f"/run/{service}", json=body)
        told = answer.json()
    except (httpx.HTTPError, ValueError) as error:
        raise HTTPException(502, f"{service} gave no answer: {error!r}") from None
    if answer.is_error:
        raise HTTPException(answer.status_code, f"{service}: {told.get('detail', told)}")
    return told


async def search(query: str) -> list[dict[str, str]]:
    """Pages as title, link, snippet. Errors: those of `call`."""
    found = (await call("searchapi", {"engine": "google", "q": query}))["results"]
    return [{name: page.get(name) or "" for name in ("title", "link", "snippet")} for page in found]


async def find_email(person: Person) -> dict[str, Any]:
    """What hunter knows, besides the domain. Errors: those of `call`."""
    domain = person.domain
    if not domain and person.company:
        hosts = [urlsplit(page["link"]).hostname or "" for page in await search(f"{person.company} official website")]
        domain = next((host.removeprefix("www.") for host in hosts if host and not host.endswith(DIRECTORIES)), "")
    print(f"looking for an address at {domain or 'no domain'}")
    if not domain:
        return {}
    first, *_, last = person.name.split()
    found = await call("hunter/find_email", {"domain": domain, "first_name": first, "last_name": last})
    known = {"email": "email", "email_score": "score", "position": "position", "linkedin": "linkedin_url"}
    return {"domain": domain, **{ours: found[theirs] for ours, theirs in known.items() if found.get(theirs)}}


async def attempt(source: str, finding: Awaitable[Any], failures: dict[str, HTTPException]) -> Any:
    """What is found; None, and the failure is put down, where the source fails."""
    try:
        return await finding
    except HTTPException as failure:
        print(f"{source} failed: {failure.detail}")
        failures[source] = failure
        return None


@app.post("/")
async def find(person: Person) -> Findings:
    """Looks in all sources at once. Errors: of a source, where all have failed."""
    failures: dict[str, HTTPException] = {}
    email, github, pages = await asyncio.gather(
        attempt("email", find_email(person), failures),
        attempt("github", call("github/search_profiles", {"query": person.name, "limit": 3}), failures),
        attempt("pages", search(f'"{person.name}" {person.company}'.strip()), failures),
    )
    if len(failures) == 3:
        raise failures["pages"]
    found = Findings(**(email or {}), pages=pages or [])
    linked = [page["link"] for page in found.pages if "linkedin.com/in/" in page["link"]]
    found.linkedin = found.linkedin or next(iter(linked), "")
    found.github = [profile["url"] for profile in github["profiles"]] if github else []
    found.problems = {source: str(failure.detail) for source, failure in failures.items()}
    return found


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
