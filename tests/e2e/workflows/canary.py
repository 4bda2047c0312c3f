# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34", "httpx>=0.27"]
#
# [tool.env-checker]
# env_vars = ["CANARY_PLAIN", "CANARY_ODD", "CANARY_LINES", "CANARY_OUTSIDE", "CANARY_NESTED", "CANARY_AT_IMPORT="]
# ///
"""Gives its secrets away in all the ways that programs do without meaning to."""

import base64
import json
import logging
import os
import sys
import urllib.parse

import httpx
import uvicorn
from fastapi import BackgroundTasks, FastAPI, Request

SECRETS = [os.environ[name] for name in ("CANARY_PLAIN", "CANARY_ODD", "CANARY_LINES", "CANARY_OUTSIDE")]
print("imported with", *SECRETS)
if os.environ["CANARY_AT_IMPORT"]:
    raise RuntimeError(f"can't connect with {SECRETS}")
app = FastAPI()


def spelled(value: str) -> list[str]:
    """As programs spell it."""
    data = value.encode()
    encoded = [base64.b64encode(before + data + b"|") for before in (b"", b"u", b"u:")]
    safe = [base64.urlsafe_b64encode(before + data + b"|") for before in (b"", b"u", b"u:")]
    addresses = [urllib.parse.quote(value), urllib.parse.quote(value, safe=""), urllib.parse.urlencode({"q": value})]
    return [value, repr(value), json.dumps(value), *addresses, *(each.decode() for each in encoded + safe)]


@app.post("/print")
async def say(request: Request) -> dict[str, bool]:
    for value in SECRETS:
        for text in spelled(value):
            print(text)
            print("to stderr:", text, file=sys.stderr)
            print(json.dumps({"event": text, "token": text, "level": "warning"}))
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("app").error("%s", SECRETS)
    # Keys that somebody gave it: no caller's is ever in its headers.
    print(dict(request.headers), (await request.body()).decode())
    return {"ok": True}


@app.post("/raise")
async def fail() -> None:
    raise RuntimeError(f"no access with {SECRETS} and {spelled(SECRETS[1])}")


@app.post("/exit")
async def leave() -> None:
    print("last words", *SECRETS, flush=True)
    os._exit(3)


@app.post("/later")
async def later(tasks: BackgroundTasks) -> dict[str, bool]:
    def break_down() -> None:
        raise ValueError(f"too late for {SECRETS}")

    tasks.add_task(break_down)
    return {"ok": True}


@app.api_route("/sink/{rest:path}", methods=["GET", "POST"])
async def take() -> dict[str, bool]:
    """Whatever it is asked: nothing of it is in the answer, which is kept."""
    return {"ok": True}


@app.post("/call")
async def call(request: Request) -> list[str]:
    """Outside, and other workflows: in headers, paths, queries, names, bodies that aren't kept."""
    target = (await request.json())["target"]
    told = []
    headers = {f"x-secret-{number}": urllib.parse.quote(value) for number, value in enumerate(SECRETS)}
    headers |= {"authorization": f"Bearer {SECRETS[0]}", "x-outside": SECRETS[3]}
    query = {f"q{number}": value for number, value in enumerate(SECRETS)}
    path = "/".join(urllib.parse.quote(value, safe="") for value in SECRETS if "\n" not in value)
    key = {"authorization": f"Bearer {os.environ['CODEWORDS_API_KEY']}"}
    runtime = os.environ["CODEWORDS_RUNTIME_URI"]
    async with httpx.AsyncClient(timeout=20) as client:
        for url, more in (
            (f"{target}/{path}", headers),
            (f"http://{SECRETS[0]}.example.invalid/", headers),
            (f"http://user:{urllib.parse.quote(SECRETS[1], safe='')}@10.1.2.3/{path}", headers),
            (f"{runtime}/run/nowhere/{path}", headers | key),
        ):
            try:
                told.append(str((await client.get(url, params=query, headers=more)).status_code))
            except httpx.HTTPError as error:
                print("failed:", error, url)
                told.append(type(error).__name__)
        # What another workflow is given is its input, which is kept.
        given = urllib.parse.quote(os.environ["CANARY_NESTED"])
        nested = f"{runtime}/run/canary/sink/{given}"
        told.append(str((await client.get(nested, params={"q": given}, headers=key | {"x-given": given})).status_code))
    return told


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
