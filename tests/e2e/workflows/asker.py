# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34"]
# ///
"""Asks the runtime what its caller tells it to, by its own run's identity; says what came of it, and what it was given."""

import json
import os
import urllib.error
import urllib.request
from typing import Any

import uvicorn
from fastapi import FastAPI, Request

app = FastAPI()


@app.post("/")
async def ask(request: Request) -> dict[str, Any]:
    given = await request.json()
    found: dict[str, Any] = {"headers": dict(request.headers), "given": given}
    if "path" in given:
        asked = urllib.request.Request(
            os.environ["CODEWORDS_RUNTIME_URI"] + given["path"],
            json.dumps(given["body"]).encode() if "body" in given else None,
            {
                "Content-Type": "application/json",
                "Authorization": f"Bearer {os.environ['CODEWORDS_API_KEY']}",
                **given.get("headers", {}),
            },
            method=given.get("method", "POST"),
        )
        try:
            with urllib.request.urlopen(asked, timeout=60) as answer:
                found |= {"code": answer.status, "answer": json.load(answer)}
        except urllib.error.HTTPError as refusal:
            found |= {"code": refusal.code, "answer": json.load(refusal)}
    return found


if __name__ == "__main__":
    uvicorn.run(app)
