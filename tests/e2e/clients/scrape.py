"""Firecrawl's own client, against us; prints what it was told as JSON."""

import asyncio
import json
import os

from firecrawl import AsyncFirecrawl
from firecrawl.v1 import V1FirecrawlApp

BASE = {"api_key": os.environ["MESH_KEY"], "api_url": f"{os.environ['MESH_URL']}/run/firecrawl"}
PAGE = os.environ["PAGE"]


async def second() -> dict:
    client = AsyncFirecrawl(**BASE)
    page = await client.scrape(PAGE, formats=["markdown", "links", {"type": "screenshot", "fullPage": True}])
    try:
        late = await client.scrape(os.environ["GONE"], timeout=1000)
    except Exception as error:
        late = type(error).__name__
    about = page.metadata
    v2 = {"markdown": page.markdown, "links": page.links, "title": about.title, "status": about.status_code}
    return {"v2": v2, "picture": page.screenshot.partition(",")[0], "late": late}


first = V1FirecrawlApp(**BASE).scrape_url(PAGE, formats=["markdown"])
v1 = {"markdown": first.markdown, "title": first.metadata["title"]}
print(json.dumps({"v1": v1, **asyncio.run(second())}))
