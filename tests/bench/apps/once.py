"""A new process answers one request through the app's own ASGI call, as CGI would."""

import asyncio
import sys
from typing import Any

from app import app

HEAD = {
    "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "path": "/", "raw_path": b"/",
    "query_string": b"", "headers": [(b"content-type", b"application/json")], "scheme": "http", "server": ("x", 80),
    "client": ("x", 1), "root_path": "",
}  # fmt: skip


async def answer(body: bytes) -> bytes:
    """The answer's body."""
    said: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    await app(dict(HEAD), receive, send)
    return b"".join(message.get("body", b"") for message in said)


def job(body: str) -> str:
    """The same as a job of a queue."""
    return asyncio.run(answer(body.encode())).decode()


if __name__ == "__main__":
    sys.stdout.buffer.write(asyncio.run(answer(sys.stdin.buffer.read())))
