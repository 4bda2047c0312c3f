# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34"]
# ///
"""Counts, and sends each number when it is there: `runmesh run NAME count:=3 --stream`."""

import asyncio
import os
from collections.abc import AsyncIterator

import uvicorn
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

app = FastAPI(title="stream")


class Inputs(BaseModel):
    """What a call sends."""

    count: int = Field(default=5, ge=1, le=100)
    pause: float = Field(default=0.5, ge=0, le=10)


async def numbers(inputs: Inputs) -> AsyncIterator[str]:
    for number in range(1, inputs.count + 1):
        yield f'data: {{"number": {number}}}\n\n'  # a server-sent event
        await asyncio.sleep(inputs.pause)


@app.post("/")
async def main(inputs: Inputs) -> StreamingResponse:
    return StreamingResponse(numbers(inputs), media_type="text/event-stream")


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
