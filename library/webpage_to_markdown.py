# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "fastapi>=0.115", "uvicorn[standard]>=0.34", "httpx>=0.28,<1", "selectolax>=0.4,<0.5",
#   "html-to-markdown>=3.21,<4", "charset-normalizer>=3.4,<4", "pypdf>=6,<8",
# ]
# ///
"""A web page as Markdown: {"url"} gives {"markdown", "title", "url", "rendered"}.

Its main part alone, links absolute; PDFs and texts as they are. `render`: true runs the page's JavaScript in headless
Chromium, false doesn't, "auto" (the default) does where the page says hardly anything without. Errors have a `detail`
and a `code`; `page_status` is what the page itself answered.
"""

import os
from dataclasses import dataclass
from typing import Any, Literal

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from library.parts.browser import Browser, program
from library.parts.page import Page, content, fetch, markdown, needs_scripts, title
from library.parts.refusals import Refused, tells_refusals

app = FastAPI(title="webpage_to_markdown")
tells_refusals(app)


@dataclass(eq=False)
class PageFailed(Refused):
    """The page itself answered that."""

    page_status: int = 0


class Wanted(BaseModel):
    """Which page, and how. `timeout`: seconds."""

    model_config = ConfigDict(extra="forbid")
    url: str = Field(max_length=8192)
    only_main_content: bool = True
    render: bool | Literal["auto"] = "auto"
    timeout: float = Field(30, gt=0, le=110)


@app.post("/")
async def convert_page(wanted: Wanted) -> dict[str, Any]:
    """Errors: Refused."""
    page = await fetch(wanted.url, wanted.timeout)
    wants = wanted.render is True or (wanted.render == "auto" and bool(program()) and needs_scripts(page))
    rendered = bool(page.html) and wants  # a PDF has nothing to run
    if rendered:
        async with Browser() as browser:
            await browser.goto(page.url, wanted.timeout)
            page = Page(await browser.url(), browser.status, browser.content_type, html=await browser.html())
    if page.status >= 400:
        raise PageFailed(424, "page_failed", f"{page.url[:200]} answered {page.status}", page_status=page.status)
    said = markdown(content(page, only_main=wanted.only_main_content)) if page.html else page.text
    return {"markdown": said, "title": title(page) if page.html else "", "url": page.url, "rendered": rendered}


@app.exception_handler(PageFailed)
async def failed(request: Request, refused: PageFailed) -> JSONResponse:
    """With what the page itself answered."""
    told = {"success": False, "detail": refused.message, "code": refused.code, "page_status": refused.page_status}
    return JSONResponse(told, refused.status)


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
