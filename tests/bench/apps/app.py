# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi==0.116.1", "uvicorn[standard]==0.35.0", "pydantic==2.11.7"]
# ///
"""The same work on every rung: JSON in, a pydantic model, JSON out."""

import os
import time

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

app = FastAPI()


class Hello(BaseModel):
    name: str


@app.post("/")
async def hello(hello: Hello) -> dict[str, object]:
    return {"message": f"Hello {hello.name}!", "pid": os.getpid(), "at": time.monotonic()}


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", 8000)), log_level="warning")
