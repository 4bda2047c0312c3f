# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "fastapi>=0.115", "uvicorn[standard]>=0.34", "httpx>=0.28,<1", "selectolax>=0.4,<0.5",
#   "html-to-markdown>=3.21,<4", "charset-normalizer>=3.4,<4", "pypdf>=6,<8",
# ]
# ///
"""A page of the web, as Firecrawl's `scrape` tells it: {"url", "formats": ["markdown"], "onlyMainContent"} gives
{"success", "data": {"markdown", "metadata", …}}, at `/`, `/v1/scrape` and `/v2/scrape`.

Fetched from here, by nobody else's account. A page's own 404 is an answer: see `metadata.statusCode`.
"""

import asyncio
import base64
import os
import re
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, field_validator
from starlette.exceptions import HTTPException

from library.parts.browser import WINDOW, Browser, program
from library.parts.page import Page, content, fetch, images, links, markdown, metadata, needs_scripts
from library.parts.refusals import Refused

FORMATS = ("markdown", "html", "rawHtml", "links", "images", "screenshot", "screenshot@fullPage")
PHONE = (412, 915)
# The vendor's codes and statuses of what goes wrong with a page.
VENDORS = {
    "no_such_host": ("SCRAPE_DNS_RESOLUTION_ERROR", 200),
    "page_timeout": ("SCRAPE_TIMEOUT", 408),
    "tls_failed": ("SCRAPE_SSL_ERROR", 500),
    "unsupported_type": ("SCRAPE_UNSUPPORTED_FILE_ERROR", 500),
    "unreachable": ("SCRAPE_SITE_ERROR", 500),
    "too_many_redirects": ("SCRAPE_SITE_ERROR", 500),
    "too_large": ("SCRAPE_SITE_ERROR", 500),
    "page_refused": ("SCRAPE_SITE_ERROR", 500),
    "bad_url": ("BAD_REQUEST", 400),
    "bad_request": ("BAD_REQUEST", 400),
}
HEADER_NAME, HEADER_VALUE = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,200}"), re.compile(r"[\t\x20-\x7e]{0,8192}")
OUR_HEADERS = {"connection", "content-length", "expect", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
app = FastAPI(title="firecrawl")


class Scrape(BaseModel):
    """What the vendor's clients send, as far as it means something here: what steers caches, proxies and advertisements
    is ignored. `waitFor` and `timeout` in milliseconds.
    """

    model_config = ConfigDict(extra="ignore")
    url: str = Field(max_length=8192)
    formats: list[Any] = ["markdown"]
    onlyMainContent: bool = True  # noqa: N815  # the vendor's names, here and below
    includeTags: list[str] = []  # noqa: N815
    excludeTags: list[str] = []  # noqa: N815
    headers: dict[str, str] = {}
    waitFor: int = Field(0, ge=0, le=60_000)  # noqa: N815
    timeout: int = Field(30_000, gt=0, le=110_000)
    mobile: bool = False
    skipTlsVerification: bool = False  # noqa: N815
    removeBase64Images: bool = True  # noqa: N815
    actions: list[Any] = []

    @field_validator("headers")
    @classmethod
    def sendable(cls, headers: dict[str, str]) -> dict[str, str]:
        """What can be said in a header, and isn't about the connection, which is ours."""
        for name, value in headers.items():
            if not HEADER_NAME.fullmatch(name) or not HEADER_VALUE.fullmatch(value):
                raise ValueError(f"{name[:100]!r} or its value can't be sent as a header")
            if name.lower() in OUR_HEADERS:
                raise ValueError(f"{name[:100]} isn't for callers to set")
        return headers

    @field_validator("formats")
    @classmethod
    def known(cls, formats: list[Any]) -> list[str]:
        """By their names; a screenshot of the whole page is `screenshot@fullPage`."""
        names = []
        for each in formats:
            asked = each if isinstance(each, dict) else {"type": each}
            whole = asked.get("type") == "screenshot" and asked.get("fullPage")
            names.append("screenshot@fullPage" if whole else str(asked.get("type")))
        if unknown := [name for name in names if name not in FORMATS]:
            raise ValueError(f"no format {unknown[0][:100]!r} here; there are {', '.join(FORMATS)}")
        return list(dict.fromkeys(names)) or ["markdown"]

    @field_validator("actions")
    @classmethod
    def none(cls, actions: list[Any]) -> list[Any]:
        """Which the library has other services for."""
        if actions:
            raise ValueError("no actions here; /run/web_automation_agent and /run/chrome_extension act on pages")
        return actions


@app.post("/")
@app.post("/v1/scrape")
@app.post("/v2/scrape")
async def scrape(wanted: Scrape) -> dict[str, Any]:
    """Errors: Refused."""
    shots = [name for name in wanted.formats if name.startswith("screenshot")]
    must = bool(shots or wanted.waitFor or wanted.mobile)
    page = await fetch(wanted.url, wanted.timeout / 1000, wanted.headers, verify=not wanted.skipTlsVerification)
    data: dict[str, Any] = {}
    if page.html and (must or (needs_scripts(page) and program())):
        page, data = await _rendered(wanted, page.url, shots)
    for name in wanted.formats:
        if name not in shots:
            data[name] = _as(name, page, wanted)
    return {"success": True, "data": {**data, "metadata": metadata(page, wanted.url)}}


async def _rendered(wanted: Scrape, url: str, shots: list[str]) -> tuple[Page, dict[str, Any]]:
    """The page once its JavaScript has run, and pictures of it."""
    data = {}
    async with Browser(PHONE if wanted.mobile else WINDOW) as browser:
        await browser.goto(url, wanted.timeout / 1000)
        await asyncio.sleep(wanted.waitFor / 1000)
        for name in shots:
            picture = await browser.screenshot(whole=name.endswith("fullPage"))
            data["screenshot"] = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
        page = Page(await browser.url(), browser.status, browser.content_type, html=await browser.html())
    return page, data


def _as(name: str, page: Page, wanted: Scrape) -> Any:
    """The page in a format."""
    if name == "rawHtml":
        return page.html or page.text
    if name in ("links", "images"):
        return (links if name == "links" else images)(page)
    if not page.html:
        return page.text
    only = {"only_main": wanted.onlyMainContent, "include": wanted.includeTags, "exclude": wanted.excludeTags}
    html = content(page, **only)  # type: ignore[arg-type]  # as named
    return html if name == "html" else markdown(html, images=not wanted.removeBase64Images)


@app.exception_handler(Refused)
async def told(request: Request, refused: Refused) -> JSONResponse:
    """As the vendor tells it, and as the platform does."""
    code, status = VENDORS.get(refused.code, (refused.code, refused.status))
    return JSONResponse({"success": False, "code": code, "error": refused.message, "detail": refused.message}, status)


@app.exception_handler(HTTPException)
async def unserved(request: Request, refused: HTTPException) -> JSONResponse:
    """FastAPI's own: no such path, no JSON."""
    code = {404: "NOT_FOUND", 405: "METHOD_NOT_ALLOWED"}.get(refused.status_code, "BAD_REQUEST")
    told = {"success": False, "code": code, "error": refused.detail, "detail": refused.detail}
    return JSONResponse(told, refused.status_code, refused.headers)


@app.exception_handler(RequestValidationError)
async def invalid(request: Request, errors: RequestValidationError) -> JSONResponse:
    """As the vendor: 400, with what is wrong in `details`."""
    wrong = [{"path": [*each["loc"]][1:], "message": each["msg"]} for each in errors.errors()]
    detail = "; ".join(f"{'.'.join(map(str, each['path']))}: {each['message']}" for each in wrong)
    told = {"success": False, "code": "BAD_REQUEST", "error": "Bad Request", "details": wrong, "detail": detail}
    return JSONResponse(told, 400)


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
