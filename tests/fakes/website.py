"""A website on this machine, with what is on real ones: charsets, redirects, programs, PDFs, errors."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from library.parts.browser import program

NEEDS_CHROMIUM = pytest.mark.skipif(not program(), reason="Chromium isn't installed on this machine")
ARTICLE = """<!doctype html><html lang="en"><head><title>On  foxes &amp; hens</title>
<meta name="description" content="A text"><meta property="og:title" content="Foxes"><link rel="icon" href="/icon.png">
</head><body><header><nav class="menu"><a href="/">Home</a><div class="menu"><a href="/about#us">About</a></div></nav>
</header><div class="cookie-banner">We use cookies</div><main><h1>Foxes</h1>
<p>A fox is <b>quick</b> and <a href="../hens?q=1#top">likes hens</a>, which is told here at some length,
so that nobody takes this for a page that is still to be filled.</p>
<pre><code class="language-python">def fox():
    return 1
</code></pre><ul><li>red<ul><li>dark</li></ul></li></ul><table><tr><th>A</th><th>B</th></tr><tr><td>1</td><td>2</td></tr>
</table><img src="fox.png" alt="A fox"><img src="data:image/png;base64,AAAA" alt="dot"></main>
<aside>Related: <a href="javascript:alert(1)">more</a></aside><footer>Nobody's copyright</footer>
<script>document.title = "not seen"</script></body></html>"""
ALIVE = """<!doctype html><title>Alive</title><div id="root"></div><script>
fetch("/data").then(answer => answer.text()).then(text => {
  document.getElementById("root").innerHTML = "<main><h1>Grown</h1><p>" + text + "</p></main>";
});</script>"""
FORM = """<!doctype html><title>Shop</title><main><h1>Shop</h1><form action="/found" onsubmit="">
<label>What <input id="q" name="q" placeholder="search"></label><button id="go">Search</button></form>
<button id="grow" onclick="document.getElementById('more').textContent = 'clicked ' + (event.isTrusted)">More</button>
<p id="more"></p></main>"""
PDF = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 100]/Resources<</Font<</F1 5 0 R>>>>/Contents 4 0 R>>endobj
4 0 obj<</Length 44>>stream
BT /F1 18 Tf 20 50 Td (Hens on paper) Tj ET
endstream endobj
5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj
trailer<</Root 1 0 R/Size 6>>
startxref
0
%%EOF"""


@dataclass
class Website:
    """Where it is, and what it was asked: (path, headers)."""

    host: str = "127.0.0.1"
    port: int = 0
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    # Path → HTML, of pages that a test makes up.
    pages: dict[str, str] = field(default_factory=dict)

    def url(self, path: str = "/", host: str = "") -> str:
        """Of a page."""
        return f"http://{host or self.host}:{self.port}{path}"

    def paths(self) -> list[str]:
        """What was asked for."""
        return [path for path, _ in self.asked]

    async def serve(self, request: Request) -> Response:  # noqa: PLR0911  # a page each
        """Any path."""
        path, query = request.url.path, request.url.query
        self.asked.append((path, dict(request.headers)))
        if path in self.pages:
            return HTMLResponse(self.pages[path])
        match path:
            case "/go":
                return RedirectResponse(parse_qs(query)["to"][0], 302)
            case "/loop":
                return RedirectResponse("/loop")
            case "/big":
                return HTMLResponse("<p>" + "x" * (11 << 20))
            case "/slow":
                await asyncio.sleep(30)
            case "/status":
                return HTMLResponse("<h1>Nothing here</h1>", int(query))
            case "/charset":
                return Response(b"<p>caf\xc3\xa9 \\ud800 +2AA-", media_type=f"text/html; charset={query}")
            case "/found":
                return HTMLResponse(f"<title>Found</title><main><h1>Found {parse_qs(query)['q'][0]}</h1></main>")
        return _FIXED.get(path) or HTMLResponse("<h1>Nothing here</h1>", 404)


LATIN, UNNAMED = "text/html; charset=iso-8859-1", {"content-type": "text/html"}
_FIXED = {
    "/": HTMLResponse(FORM),
    "/deep/article": HTMLResponse(ARTICLE),
    "/alive": HTMLResponse(ALIVE),
    "/data": PlainTextResponse("by a program"),
    "/latin": Response("<title>Caf\xe9</title><p>caf\xe9".encode("latin-1"), media_type=LATIN),
    "/meta": Response('<meta charset="shift_jis"><p>\u65e5\u672c\u8a9e'.encode("shift_jis"), headers=UNNAMED),
    "/text": PlainTextResponse("just *text*"),
    "/paper": Response(PDF, media_type="application/pdf"),
    "/broken-paper": Response(b"%PDF-1.4 nothing", media_type="application/pdf"),
    # What pypdf refuses by an assertion.
    "/odd-paper": Response(PDF.replace(b"BT /F1", b"BT /ToUnicode 4 0 R/F1"), media_type="application/pdf"),
    "/odd-base": HTMLResponse('<base href="http://["><h1>Odd</h1><a href="//[">a</a><a href="http://[x#y">b</a>'),
    "/image": Response(b"\x89PNG\r\n", media_type="image/png"),
}  # fmt: skip


@contextmanager
def website(host: str = "127.0.0.1") -> Iterator[Website]:
    """Serves until it is left."""
    site = Website(host)
    app = Starlette(routes=[Route("/{path:path}", site.serve, methods=["GET", "POST"])])
    with socket.socket() as sock:
        sock.bind((host, 0))
        site.port = sock.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, args=([sock],))
        thread.start()
        try:
            yield site
        finally:
            server.should_exit = True
            server.force_exit = True
            thread.join(10)
