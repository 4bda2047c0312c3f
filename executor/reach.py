"""Where packages come from: what may be connected to while some are fetched, and nothing else. Pure.

Named by the settings of uv that say which index, proxy and certificates to use.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from executor.egress.fixed import LOCALHOST, is_near, plain_host

PYPI = "https://pypi.org/simple"
_FILES_OF = {"pypi.org": ("files.pythonhosted.org", 443), "test.pypi.org": ("test-files.pythonhosted.org", 443)}
_PORTS = {"http": 80, "https": 443, "socks4": 1080, "socks5": 1080, "socks5h": 1080}
_LOOPBACK = "127.0.0.1"
_NAMED = re.compile(r"^[A-Za-z0-9_.-]+=(?=[a-z]+:)")  # uv's NAME=URL
Target = tuple[str, int]
ELSEWHERE = "which the operator of this platform has to allow (RUNMESH_PACKAGE_HOSTS)"


@dataclass(frozen=True)
class Reach:
    """`targets`: (name or address, port); `paths`: an index's or certificates' on this host."""

    targets: frozenset[Target] = frozenset()
    paths: tuple[Path, ...] = ()

    @classmethod
    def of(cls, environ: Mapping[str, str], also: Sequence[Target] = ()) -> "Reach":
        """`also`: where the index sends for files besides. What can't be read as a URL names nothing."""
        indexes = [_split(url) for url in index_urls(environ)]
        proxies = [_split(environ[name]) for name in ("HTTPS_PROXY", "HTTP_PROXY") if environ.get(name)]
        found = [target for url in (*indexes, *proxies) if (target := _target(url))]
        files = [_FILES_OF[host] for host, _ in found if host in _FILES_OF]
        paths = [Path(unquote(url.path)) for url in indexes if url.scheme == "file"]
        paths += [Path(environ[name]) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if environ.get(name)]
        return cls(frozenset([*found, *files, *also]), tuple(path for path in paths if path.exists()))

    def has(self, scheme: str, host: str, port: int | None) -> bool:
        """Whether this is a target; no port: the scheme's own."""
        try:
            return (plain_host(host), port or _PORTS.get(scheme)) in self.targets
        except ValueError:
            return False

    @property
    def doors(self) -> list[tuple[str, int]]:
        """Those on this host's loopback, each at an address of the sandbox's own loopback."""
        near = [(host, port) for host, port in self.targets if is_near(host)]
        return sorted({(_LOOPBACK if host == LOCALHOST else host, port) for host, port in near})


def index_urls(environ: Mapping[str, str]) -> list[str]:
    """In the order in which uv asks them."""
    default = environ.get("UV_DEFAULT_INDEX") or environ.get("UV_INDEX_URL") or PYPI
    return [_NAMED.sub("", url) for url in (*environ.get("UV_EXTRA_INDEX_URL", "").split(), default)]


def target(text: str) -> Target:
    """`files.example.com`, `files.example.com:8443`, `[2001:db8::1]:443`. Errors: ValueError."""
    found = _target(urlsplit(f"https://{text.strip()}"))
    if found is None or any(sign in text for sign in "/@?#"):
        raise ValueError(f"{text[:255]!r} is no host such as files.example.com or files.example.com:8443")
    return found


def targets(text: str) -> tuple[Target, ...]:
    """The setting RUNMESH_PACKAGE_HOSTS: hosts, separated by commas. Errors: ValueError."""
    return tuple(target(item) for item in text.split(",") if item.strip())


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url if "://" in url or url.startswith("file:") else f"http://{url}")
    except ValueError:
        return urlsplit("")


def _target(url: SplitResult) -> Target | None:
    try:
        if not url.hostname or url.scheme not in _PORTS:
            return None
        return plain_host(url.hostname), url.port or _PORTS[url.scheme]
    except ValueError:
        return None
