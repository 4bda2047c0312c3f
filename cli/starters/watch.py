# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34", "httpx>=0.28"]
# ///
"""Looks whether a page is there and how fast it answers: something for `runmesh schedules create`."""

import os
import time

import httpx
import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, HttpUrl

app = FastAPI(title="watch")


class Inputs(BaseModel):
    """What a call sends."""

    url: HttpUrl = HttpUrl("https://example.com/")


class Output(BaseModel):
    """What it gets."""

    up: bool
    status: int | None = None
    seconds: float
    error: str | None = None


@app.post("/")
async def main(inputs: Inputs) -> Output:
    began = time.monotonic()
    try:
        async with httpx.AsyncClient(timeout=20, follow_redirects=True) as client:
            status = (await client.get(str(inputs.url))).status_code
    except httpx.HTTPError as error:
        print(f"{inputs.url} is down: {error!r}")
        return Output(up=False, seconds=round(time.monotonic() - began, 3), error=repr(error))
    return Output(up=status < 500, status=status, seconds=round(time.monotonic() - began, 3))


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
