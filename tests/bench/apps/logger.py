# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi==0.116.1", "uvicorn[standard]==0.35.0", "pydantic==2.11.7"]
# ///
"""Prints lines that say when they were printed."""

import asyncio
import os
import time

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Wanted(BaseModel):
    lines: int


@app.post("/")
async def log(wanted: Wanted) -> dict[str, int]:
    await asyncio.sleep(0.5)
    for _ in range(wanted.lines):
        print("at", time.monotonic())
        await asyncio.sleep(0.05)
    return {"printed": wanted.lines}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")), log_level="warning")
