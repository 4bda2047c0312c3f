"""The page at /docs: Swagger UI, all of it from here, since an operator may be offline. Its files are those that the
package fastapi-offline carries; nothing of its code is loaded.
"""

from collections.abc import Mapping
from importlib.metadata import distribution
from pathlib import Path
from urllib.parse import urlsplit

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Runmesh API</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/docs/swagger-ui.css">
</head>
<body>
<div id="explorer"></div>
<noscript>This page needs JavaScript; <a href="/openapi.json">/openapi.json</a> says the same.</noscript>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START = """SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#explorer",
  deepLinking: true,
  docExpansion: "list",
  filter: true,
  persistAuthorization: false,
  validatorUrl: null,
});
"""
_KINDS = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8"}
_BUNDLED = ("swagger-ui.css", "swagger-ui-bundle.js")
HARMLESS = [("x-content-type-options", "nosniff"), ("referrer-policy", "no-referrer")]
"""Headers of all that is served here."""


def page() -> bytes:
    """The page itself; it holds no script and nobody's words."""
    return _PAGE.encode()


def page_headers(public_url: str) -> list[tuple[str, str]]:
    """What the page may do: load what is here, and call here or at the public address. No frame may hold it, nor may
    whoever opened it look into it: answers of workflows have its origin, and people type keys into it.
    """
    parts = urlsplit(public_url)
    rules = (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",  # Swagger UI sets styles of elements
        "img-src 'self' data:",
        "font-src 'self' data:",
        f"connect-src 'self' {parts.scheme}://{parts.netloc}",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    return [
        ("content-security-policy", "; ".join(rules)),
        ("cross-origin-opener-policy", "noopener-allow-popups"),
        ("x-frame-options", "DENY"),
        ("cache-control", "no-cache"),
        *HARMLESS,
    ]


def files() -> Mapping[str, tuple[str, bytes]]:
    """By name their media types and contents. Errors: OSError when the package isn't whole."""
    found = {"start.js": _START.encode(), **{name: _bundled(name) for name in _BUNDLED}}
    return {name: (_KINDS[Path(name).suffix], content) for name, content in found.items()}


def _bundled(name: str) -> bytes:
    return Path(str(distribution("fastapi-offline").locate_file(f"fastapi_offline/static/{name}"))).read_bytes()
