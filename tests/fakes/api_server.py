"""A server of the public API that answers what a test says, and remembers what it was asked."""

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit


@dataclass(frozen=True)
class Asked:
    """A request. Its header names are in lower case."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Reply:
    """An answer: JSON, or bytes as they are. `chunks` are sent one by one; `breaks`: then the connection does."""

    status: int = 200
    content: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    chunks: tuple[bytes, ...] = ()
    breaks: bool = False


Answering = Callable[[Asked], Reply]


class ApiServer:
    """`answers["GET /path"]` is what that gets, or a function of the request; anything else 404."""

    def __init__(self) -> None:
        self.answers: dict[str, Reply | Answering] = {}
        self.asked: list[Asked] = []
        self.url = ""

    def says(self, what: str, content: Any = None, status: int = 200, **headers: str) -> None:
        """A fixed answer; `_` in names of headers is `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers[what] = Reply(status, content, named)

    def refuses(self, what: str, status: int, code: str, detail: str = "so it is", request_id: str = "") -> None:
        """An error of the platform's."""
        told = {"detail": detail, "code": code} | ({"request_id": request_id} if request_id else {})
        self.says(what, told, status, error_origin="runtime")

    def last(self, what: str) -> Asked:
        """The last request of this kind."""
        return next(one for one in reversed(self.asked) if f"{one.method} {one.path}" == what)

    def reply(self, asked: Asked) -> Reply:
        self.asked.append(asked)
        found = self.answers.get(f"{asked.method} {asked.path}")
        if found is None:
            return Reply(404, {"detail": f"{asked.path} isn't there", "code": "not_found"})
        return found if isinstance(found, Reply) else found(asked)


@contextmanager
def api_server(tls: ssl.SSLContext | None = None) -> Iterator[ApiServer]:
    """On a free port of the loopback."""
    api = ApiServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            parts = urlsplit(self.path)
            length = int(self.headers.get("content-length") or 0)
            headers = {name.lower(): value for name, value in self.headers.items()}
            body = self.rfile.read(length)
            reply = api.reply(Asked(self.command, parts.path, dict(parse_qsl(parts.query)), headers, body))
            self.send_response(reply.status)
            for name, value in reply.headers.items():
                self.send_header(name, value)
            if reply.chunks:
                self._stream(reply)
                return
            content = reply.content if isinstance(reply.content, bytes) else json.dumps(reply.content).encode()
            if "content-type" not in {name.lower() for name in reply.headers}:
                self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _stream(self, reply: Reply) -> None:
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            for chunk in reply.chunks:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                self.wfile.flush()
            if not reply.breaks:
                self.wfile.write(b"0\r\n\r\n")
            self.close_connection = reply.breaks

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815  # their names there

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name there
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    api.url = f"http{'s' if tls else ''}://127.0.0.1:{server.server_address[1]}"
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
