"""What the operator's settings of the package index allow."""

from pathlib import Path

import pytest

from executor.reach import Reach, index_urls, targets

FILES = ("files.pythonhosted.org", 443)


@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({}, {("pypi.org", 443), FILES}),
        ({"UV_INDEX_URL": "http://10.1.2.3:3141/root/pypi"}, {("10.1.2.3", 3141)}),
        ({"UV_DEFAULT_INDEX": "mine=https://user:pass@Index.Example./simple"}, {("index.example", 443)}),
        (
            {"UV_EXTRA_INDEX_URL": "https://a.example/s http://[2001:db8::1]:8080/s"},
            {("pypi.org", 443), FILES, ("a.example", 443), ("2001:db8::1", 8080)},
        ),
        (
            {"UV_DEFAULT_INDEX": "https://a.example", "HTTPS_PROXY": "proxy.example:3128"},
            {("a.example", 443), ("proxy.example", 3128)},
        ),
        ({"UV_DEFAULT_INDEX": "https://a.example:x/"}, set()),
        ({"UV_DEFAULT_INDEX": "file:///nowhere/simple"}, set()),
    ],
)
def test_targets(environ: dict[str, str], found: set[tuple[str, int]]) -> None:
    assert Reach.of(environ).targets == found


def test_what_is_near_has_a_door_inside() -> None:
    reach = Reach.of(
        {"UV_DEFAULT_INDEX": "http://localhost:1/s", "UV_EXTRA_INDEX_URL": "http://127.0.0.9 http://[::1]:3"}
    )
    assert reach.doors == [("127.0.0.1", 1), ("127.0.0.9", 80), ("::1", 3)]


def test_paths_are_shown(tmp_path: Path) -> None:
    (tmp_path / "ca").touch()
    environ = {"UV_DEFAULT_INDEX": f"file://{tmp_path}", "SSL_CERT_FILE": str(tmp_path / "ca"), "SSL_CERT_DIR": "/no"}
    assert Reach.of(environ).paths == (tmp_path, tmp_path / "ca")


def test_names_and_ports() -> None:
    reach = Reach.of({"UV_DEFAULT_INDEX": "https://a.example/simple"}, targets("cdn.example, b.example:8443"))
    assert reach.has("https", "CDN.example", None)
    assert reach.has("http", "b.example", 8443)
    assert not reach.has("http", "a.example", None)
    assert not reach.has("https", "a.example", 22)
    assert not reach.has("ftp", "b.example", None)
    assert not reach.has("https", "what is this", None)
    assert index_urls({"UV_EXTRA_INDEX_URL": "x=https://a b"}) == ["https://a", "b", "https://pypi.org/simple"]


@pytest.mark.parametrize("text", ["https://a.example", "a b", "a.example:x", "user@a.example", "a/b", ":443"])
def test_no_host(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        targets(text)
