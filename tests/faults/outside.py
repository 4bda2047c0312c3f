"""The server outside: what it has seen is what runs have done, whatever the platform says of them."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.e2e.mesh import own_address
from tests.faults.promise import Effect

# It tells the server outside which attempt of which run it is. Plain ASGI: it starts fast.
WORKFLOW = """\
# /// script
# dependencies = ["uvicorn"]
# ///
import asyncio, json
import uvicorn

OUTSIDE = ("%s", %d)

async def work(told, more):
    reader, writer = await asyncio.open_connection(*OUTSIDE)
    content = json.dumps(told).encode()
    content += b" " * more
    writer.write(b"POST / HTTP/1.0\\r\\nContent-Length: %%d\\r\\n\\r\\n%%s" %% (len(content), content))
    answer = await reader.read()
    writer.close()
    if b" 200 " not in answer[:20]:
        raise RuntimeError("the server outside did not take it")

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body")
    asked = json.loads(body)
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    await asyncio.sleep(asked["before"])
    await work({"token": asked["token"], "run": headers["x-request-id"], "attempt": headers["x-attempt"]},
        asked.get("egress", 0))
    await asyncio.sleep(asked["after"])
    content = json.dumps({"token": asked["token"]}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%%d" %% len(content))]})
    await send({"type": "http.response.body", "body": content})

if __name__ == "__main__":
    uvicorn.run(app)
"""


class Outside(ThreadingHTTPServer):
    """`effects` grows in the order in which they come."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, effects: list[Effect]) -> None:
        super().__init__((own_address(), 0), _Handler)
        self.effects = effects

    @property
    def workflow(self) -> str:
        """The source of a workflow that works here."""
        host, port = self.server_address[:2]
        return WORKFLOW % (host, port)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever was killed in the middle of a request: nothing was done then."""


class _Handler(BaseHTTPRequestHandler):
    server: Outside

    def do_POST(self) -> None:
        length = int(self.headers["content-length"])
        body = self.rfile.read(length)
        if len(body) < length:
            return
        told = json.loads(body)
        self.server.effects.append(Effect(told["token"], told["run"], int(told["attempt"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@contextmanager
def outside(effects: list[Effect]) -> Iterator[Outside]:
    """It serves until the block is left."""
    with Outside(effects) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
