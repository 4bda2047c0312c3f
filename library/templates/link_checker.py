# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34", "httpx>=0.28"]
# [tool.env-checker]
# env_vars = []
# ///
"""Finds dead links: reads a website's pages, follows its own links, and tries each address that they name.

It reaches any public address, calls no other service and needs no account. A large site takes long: run it by
`/run_async`. What may refuse robots only is marked, as `refused`.

    curl $URL/run_async/link_checker -H "Authorization: Bearer $KEY" -H 'Content-Type: application/json' \
      -d '{"url": "https://example.com", "pages": 50}'
"""

import asyncio
import os
from contextlib import suppress
from html.parser import HTMLParser
from urllib.parse import urldefrag, urljoin

import httpx
import uvicorn
from fastapi import FastAPI, HTTPException
from pydantic import BaseModel, Field, HttpUrl

app = FastAPI(title="Link checker")
NAMED = {"a": "href", "img": "src", "script": "src", "iframe": "src"}
REFUSALS = {401, 403, 429, 999}


class Site(BaseModel):
    """Where to begin, and how far to go."""

    url: HttpUrl
    pages: int = Field(20, ge=1, le=500, description="How many pages of the site are read")
    links: int = Field(1000, ge=1, le=5000, description="How many addresses are tried")


class Link(BaseModel):
    """An address that can't be opened, and the pages that name it."""

    url: str
    problem: str
    refused: bool = Field(description="Perhaps only to robots: 401, 403, 429, 999")
    pages: list[str]


class Report(BaseModel):
    """What was found. `pages` that name something; `complete`: no limit was reached."""

    pages: int
    links: int
    complete: bool
    broken: list[Link]


class Targets(HTMLParser):
    """Collects what a page names."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        with suppress(AssertionError):  # of some faults it makes one; what stands before counts
            self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if value and name == NAMED.get(tag)]


def links_in(page: str, url: str) -> list[str]:
    """Whole addresses of HTTP, without fragments, each once."""
    found = {}
    for target in Targets(page).found:
        with suppress(ValueError):  # it is no address
            found[urldefrag(urljoin(url, target.strip())).url] = True
    return [address for address in found if address.startswith(("http://", "https://"))]


async def opened(url: str, host: str, web: httpx.AsyncClient, limit: asyncio.Semaphore) -> tuple[str, int, list[str]]:
    """What is wrong with it, its status; what it names if it is a page of the host."""
    async with limit:
        try:
            async with web.stream("GET", url) as answer:
                is_page = "html" in answer.headers.get("content-type", "") and answer.url.host == host
                text = (await answer.aread()).decode(errors="replace") if is_page and answer.is_success else ""
        except (httpx.HTTPError, httpx.InvalidURL, ExceptionGroup) as error:  # the last for a port that is none
            return f"{type(error).__name__}: {error}", 0, []
    problem = f"status {answer.status_code}" if answer.is_error else ""
    return problem, answer.status_code, links_in(text, str(answer.url))


@app.post("/")
async def check(site: Site) -> Report:
    """Errors: 422 where the first page can't be read."""
    faults: list[tuple[str, str, int]] = []
    async with httpx.AsyncClient(follow_redirects=True, timeout=20) as web:
        try:
            start = (await web.get(str(site.url))).raise_for_status().url  # perhaps it leads elsewhere, to www say
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise HTTPException(422, f"{site.url} can't be read: {error}".partition("\n")[0]) from None
        naming: dict[str, list[str]] = {str(start): []}
        wave, tried, pages, limit = [str(start)], 0, 0, asyncio.Semaphore(10)
        while wave:
            answers = await asyncio.gather(*(opened(url, start.host, web, limit) for url in wave))
            for url, (problem, status, links) in zip(wave, answers, strict=True):
                faults += [(url, problem, status)] if problem else []
                if links and pages < site.pages:
                    pages += 1
                    for link in links:
                        naming.setdefault(link, []).append(url)
            tried += len(wave)
            print(f"{pages} pages read, {tried} of {len(naming)} links tried, {len(faults)} can't be opened")
            wave = list(naming)[tried : site.links]  # it is in the order in which they were found
    broken = [Link(url=url, problem=why, refused=code in REFUSALS, pages=naming[url]) for url, why, code in faults]
    return Report(pages=pages, links=tried, complete=tried == len(naming) and pages < site.pages, broken=broken)


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
