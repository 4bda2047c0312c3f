"""X-Callback-Url: what is an address to send to, and how it is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.receiver import Receiver, callback_url, receiver
from kit.errors import Invalid
from tests.fakes.edge_runs import a_request


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://a.example", Receiver(True, "a.example", 443, "a.example", "/")),
        ("HTTP://A.Example:81/%2e%2e?q=%20", Receiver(False, "a.example", 81, "A.Example:81", "/%2e%2e?q=%20")),
        ("https://a.example./x", Receiver(True, "a.example", 443, "a.example.", "/x")),
        ("http://[2001:DB8::1]:81?x", Receiver(False, "2001:db8::1", 81, "[2001:DB8::1]:81", "/?x")),
        ("http://2130706433/", Receiver(False, "2130706433", 80, "2130706433", "/")),
        ("http://0x7f.1/", Receiver(False, "0x7f.1", 80, "0x7f.1", "/")),
        ("http://a.example/a@b:c", Receiver(False, "a.example", 80, "a.example", "/a@b:c")),
    ],
)  # fmt: skip
def test_how_an_address_is_read(url: str, expected: Receiver) -> None:
    assert receiver(url) == expected


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("a.example/x", "http://"),
        ("ftp://a.example", "http://"),
        ("//a.example", "http://"),
        ("file:///etc/passwd", "http://"),
        ("https://", "host"),
        ("https:///x", "host"),
        ("https://user:secret@a.example/", "credentials"),
        ("https://@a.example/", "credentials"),
        ("https://a.example/#x", "fragment"),
        ("https://a.example/" + "x" * 2048, "2048"),
        ("https://a.example/a b", "character"),
        ("https://a.example/ä", "character"),
        ("https://a.example\\@b.example/", "character"),
        ("https://a.example/\r\nx: y", "character"),
        ("https://a.example:0/", "port"),
        ("https://a.example:/", "port"),
        ("https://a.example:65536/", "port"),
        ("https://a.example:x/", "port"),
        ("https://[::1/", "host"),
        ("https://[::1%25eth0]/", "host"),
        ("https://[v1.x]/", "host"),
        ("https://a..example/", "host"),
        ("https://-a.example/", "host"),
        ("https://a%2eexample/", "host"),
        ("https://" + "a" * 64 + ".example/", "host"),
        ("https://" + "a." * 130 + "example/", "host"),
    ],
)
def test_what_is_no_address(url: str, reason: str) -> None:
    with pytest.raises(Invalid, match=reason) as caught:
        receiver(url)
    assert caught.value.code == "bad_request"
    assert "secret" not in caught.value.message


@given(st.text(max_size=40))
def test_nothing_else_comes_of_any_text(text: str) -> None:
    for url in (text, "http://" + text, "https://a.example/" + text):
        try:
            found = receiver(url)
        except Invalid:
            continue
        assert found.host
        assert found.target.startswith(("/", "?"))
        assert found.target.isascii()


def test_the_header_stands_once() -> None:
    request = a_request(headers={"x-callback-url": "https://a.example/"})
    assert callback_url(request) == "https://a.example/"
    assert callback_url(a_request()) == ""
    request.headers.append(("x-callback-url", "https://b.example/"))
    with pytest.raises(Invalid, match="more than once"):
        callback_url(request)
