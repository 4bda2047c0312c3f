"""webpage_to_markdown and firecrawl in this process, against a website and a Chromium of this machine."""

import asyncio
import base64
import random
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import suppress
from threading import Event, Thread
from typing import Any

import httpx
import pytest
import uvloop

from library.firecrawl import app as firecrawl
from library.parts import browser, way
from library.parts.refusals import Refused
from library.webpage_to_markdown import app as to_markdown
from tests.fakes.website import FORM, NEEDS_CHROMIUM, Website, website


@pytest.fixture(scope="module")
def site() -> Iterator[Website]:
    with website() as running:
        yield running


async def ask(app: Any, body: Any, path: str = "/") -> httpx.Response:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://service") as client:
        return await client.post(path, json=body)


async def page(site: Website, path: str, **options: Any) -> dict[str, Any]:
    answer = await ask(to_markdown, {"url": site.url(path), **options})
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    return told


async def test_its_main_part_with_absolute_links(site: Website) -> None:
    told = await page(site, "/deep/article")
    assert (told["title"], told["url"], told["rendered"]) == ("On foxes & hens", site.url("/deep/article"), False)
    for part in (
        "# Foxes",
        f"A fox is **quick** and [likes hens]({site.url('/hens?q=1#top')})",
        "```python\ndef fox():\n    return 1\n```",
        "- red\n  - dark",
        "| A | B |",
        f"![A fox]({site.url('/deep/fox.png')})",
    ):
        assert part in told["markdown"]
    for part in ("cookies", "Home", "Related", "copyright", "not seen"):
        assert part not in told["markdown"]
    whole = (await page(site, "/deep/article", only_main_content=False))["markdown"]
    assert "Nobody's copyright" in whole
    assert "javascript:" not in whole


@pytest.mark.parametrize(
    ("path", "said"),
    [("/latin", "café"), ("/meta", "日本語"), ("/text", "just *text*"), ("/paper", "Hens on paper")],
)
async def test_charsets_and_kinds(site: Website, path: str, said: str) -> None:
    assert (await page(site, path))["markdown"] == said


# What Python calls a codec is no charset of pages: most of these can't read a text, some read half characters.
@pytest.mark.parametrize(
    "name", ["base64", "zlib", "rot13", "idna", "punycode", "undefined", "unicode_escape", "utf-7", "no"]
)
async def test_charsets_that_are_none(site: Website, name: str) -> None:
    for app in (to_markdown, firecrawl):
        answer = await ask(app, {"url": site.url(f"/charset?{name}")})
        assert (answer.status_code, "café" in answer.text) == (200, True), answer.text


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("content-length", "10"),
        ("Transfer-Encoding", "chunked"),
        ("a b", "c"),
        ("", "c"),
        ("a", "b\r\nX: y"),
        ("a", "é"),
    ],
)
async def test_headers_that_cant_be_sent(site: Website, name: str, value: str) -> None:
    asked = len(site.asked)
    answer = await ask(firecrawl, {"url": site.url("/text"), "headers": {name: value}})
    assert (answer.status_code, answer.json()["code"]) == (400, "BAD_REQUEST"), answer.text
    assert len(site.asked) == asked


@pytest.mark.parametrize("start", ["<html hidden>", "<html class='menu'><body id=nav>", "<html><body hidden>"])
async def test_a_page_is_never_around_itself(site: Website, start: str) -> None:
    site.pages["/odd"] = f"<!doctype html>{start}<p>Said</p><nav>Never</nav>"
    assert (await page(site, "/odd", render=False))["markdown"] == "Said"
    nothing = await ask(firecrawl, {"url": site.url("/odd"), "excludeTags": ["*"]})
    assert (nothing.status_code, nothing.json()["data"]["markdown"]) == (200, "")


async def test_what_lies_deep_in_one_another_takes_no_time(site: Website) -> None:
    """Each was looked for in all that it holds: half a minute."""
    site.pages["/nested"] = "<!doctype html><p>Said" + "<nav>" * 10_000
    began = time.process_time()
    assert (await page(site, "/nested", render=False))["markdown"] == "Said"
    assert time.process_time() - began < 10


async def test_what_firecrawl_is_asked_in_vain(site: Website) -> None:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(firecrawl), base_url="http://service") as client:
        for answer, code in (
            (await client.post("/", content=b"[" * 100_000), "BAD_REQUEST"),
            (await client.post("/v1/crawl", json={}), "NOT_FOUND"),
            (await client.get("/"), "METHOD_NOT_ALLOWED"),
        ):
            assert (answer.json()["code"], answer.json()["success"]) == (code, False)
    twice = await ask(firecrawl, {"url": f" {site.url('/text')} ", "formats": ["markdown"] * 3 + ["html"] * 3})
    assert twice.json()["data"].keys() == {"markdown", "html", "metadata"}


async def test_addresses_in_pages_that_are_none(site: Website) -> None:
    told = (await ask(firecrawl, {"url": site.url("/odd-base"), "formats": ["markdown", "links", "images"]})).json()
    assert (told["success"], told["data"]["links"]) == (True, ["http://[x"])


def test_a_connection_that_is_reset_at_once() -> None:
    """As one that the egress denies is, on the loop that sandboxes have. When it is seen is a matter of chance."""
    over = Event()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def reset() -> None:
            with suppress(OSError):
                while True:
                    one, _ = server.accept()
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    time.sleep(random.choice((0, 0.001)))
                    one.close()

        def hog() -> None:
            while not over.is_set():
                sum(range(10_000))

        async def codes() -> set[tuple[int, str]]:
            url = f"http://127.0.0.1:{server.getsockname()[1]}/"
            answers = [await ask(to_markdown, {"url": url}) for _ in range(30)]
            return {(answer.status_code, answer.json()["code"]) for answer in answers}

        for each in (reset, hog):
            Thread(target=each, daemon=True).start()
        try:
            assert uvloop.run(codes()) == {(424, "unreachable")}
        finally:
            over.set()


async def test_a_redirect_is_followed_and_credentials_stay(site: Website) -> None:
    url = site.url(f"/go?to={site.url('/text', host='localhost')}")
    answer = await ask(firecrawl, {"url": url, "headers": {"Authorization": "secret", "X-Mine": "1"}})
    assert answer.json()["data"]["metadata"]["url"] == site.url("/text", host="localhost")
    first, last = (headers for _, headers in site.asked[-2:])
    assert (first["authorization"], first["x-mine"], last["x-mine"]) == ("secret", "1", "1")
    assert "authorization" not in last


@pytest.mark.parametrize(
    ("url", "status", "code"),
    [
        ("ftp://a.example/", 400, "bad_url"),
        ("nothing", 400, "bad_url"),
        ("http://127.0.0.1:9/\x01", 400, "bad_url"),
        ("/go?to=http://127.0.0.1:9/\x01", 400, "bad_url"),
        ("http://unknown.invalid/", 424, "no_such_host"),
        ("http://127.0.0.1:9/", 424, "unreachable"),
        ("/loop", 424, "too_many_redirects"),
        ("/go?to=//[", 400, "bad_url"),
        ("/go?to=file:///etc/passwd", 400, "bad_url"),
        ("/big", 413, "too_large"),
        ("/image", 415, "unsupported_type"),
        ("/broken-paper", 415, "unsupported_type"),
        ("/odd-paper", 415, "unsupported_type"),
    ],
)
async def test_what_cant_be_told(site: Website, url: str, status: int, code: str) -> None:
    answer = await ask(to_markdown, {"url": site.url(url) if url.startswith("/") else url})
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert answer.json()["detail"]


async def test_what_the_page_answers_is_told(site: Website) -> None:
    for status in (404, 503):
        answer = await ask(to_markdown, {"url": site.url(f"/status?{status}")})
        assert (answer.status_code, answer.json()["code"], answer.json()["page_status"]) == (424, "page_failed", status)
    scraped = (await ask(firecrawl, {"url": site.url("/status?404")})).json()
    assert scraped["data"]["markdown"] == "# Nothing here"
    assert scraped["data"]["metadata"]["statusCode"] == 404


async def test_a_page_that_takes_too_long(site: Website) -> None:
    answer = await ask(to_markdown, {"url": site.url("/slow"), "timeout": 0.2})
    assert (answer.status_code, answer.json()["code"]) == (504, "page_timeout")
    vendors = await ask(firecrawl, {"url": site.url("/slow"), "timeout": 200})
    assert (vendors.status_code, vendors.json()["code"]) == (408, "SCRAPE_TIMEOUT")
    assert vendors.json()["success"] is False


@NEEDS_CHROMIUM
async def test_programs_run_where_they_are_needed(site: Website) -> None:
    told = await page(site, "/alive")
    assert (told["markdown"], told["rendered"]) == ("# Grown\n\nby a program", True)
    assert (await page(site, "/alive", render=False))["markdown"] == ""
    assert (await page(site, "/deep/article", render=True))["title"] == "not seen"
    assert (await page(site, "/paper", render=True))["rendered"] is False


async def test_without_a_browser_it_says_what_to_install(site: Website, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "PROGRAMS", ())
    assert (await page(site, "/alive"))["rendered"] is False
    answer = await ask(to_markdown, {"url": site.url("/alive"), "render": True})
    assert (answer.status_code, answer.json()["code"]) == (424, "no_browser")
    assert "chromium-headless-shell" in answer.json()["detail"]


async def test_a_browser_that_doesnt_start(site: Website, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(browser, "PROGRAMS", ("/bin/false",))
    answer = await ask(to_markdown, {"url": site.url("/alive"), "render": True})
    assert (answer.status_code, answer.json()["code"]) == (500, "browser_failed")


@pytest.mark.parametrize("path", ["/", "/v1/scrape", "/v2/scrape"])
async def test_firecrawls_formats(site: Website, path: str) -> None:
    formats = ["markdown", "html", "rawHtml", {"type": "links"}, "images"]
    answer = await ask(firecrawl, {"url": site.url("/deep/article"), "formats": formats}, path)
    data = answer.json()["data"]
    assert answer.json()["success"] is True
    assert set(data) == {"markdown", "html", "rawHtml", "links", "images", "metadata"}
    assert data["html"].startswith("<main>")
    assert data["rawHtml"].startswith("<!doctype html>")
    assert data["links"] == [site.url(path) for path in ("/", "/about", "/hens?q=1")]
    assert data["images"] == [site.url("/deep/fox.png")]
    assert "base64" not in data["markdown"].replace("Base64-Image-Removed", "")
    wanted = {"title": "On foxes & hens", "description": "A text", "language": "en", "ogTitle": "Foxes"}
    wanted |= {"favicon": site.url("/icon.png"), "sourceURL": site.url("/deep/article")}
    assert {**wanted, "statusCode": 200}.items() <= data["metadata"].items()


async def test_firecrawls_tags(site: Website) -> None:
    asked = {"url": site.url("/deep/article"), "onlyMainContent": False}
    data = (await ask(firecrawl, {**asked, "includeTags": ["h1", "footer"]})).json()["data"]
    assert data["markdown"] == "# Foxes\n\nNobody's copyright"
    data = (await ask(firecrawl, {**asked, "excludeTags": ["main", ".cookie-banner"]})).json()["data"]
    assert "Foxes" not in data["markdown"]
    assert "Home" in data["markdown"]
    wrong = await ask(firecrawl, {**asked, "includeTags": ["p[["]})
    assert (wrong.status_code, wrong.json()["success"]) == (400, False)


@NEEDS_CHROMIUM
async def test_firecrawls_pictures_and_waiting(site: Website) -> None:
    site.pages["/late"] = f"{FORM}<script>setTimeout(() => document.body.append('late'), 2000)</script>"
    asked = {"url": site.url("/late"), "formats": ["screenshot", "markdown"], "onlyMainContent": False}
    data = (await ask(firecrawl, {**asked, "waitFor": 3000})).json()["data"]
    kind, _, picture = data["screenshot"].partition(",")
    assert (kind, base64.b64decode(picture)[:4]) == ("data:image/png;base64", b"\x89PNG")
    assert "late" in data["markdown"]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({}, "url"),
        ({"url": "http://a.example", "formats": ["summary"]}, "no format 'summary'"),
        ({"url": "http://a.example", "formats": [{"type": "json", "prompt": "x"}]}, "no format 'json'"),
        ({"url": "http://a.example", "actions": [{"type": "click"}]}, "web_automation_agent"),
    ],
)
async def test_firecrawl_refuses_what_it_hasnt(wrong: dict[str, Any], told: str) -> None:
    answer = await ask(firecrawl, wrong)
    assert (answer.status_code, answer.json()["code"]) == (400, "BAD_REQUEST")
    assert told in answer.json()["detail"]


async def test_a_name_that_there_isnt_as_firecrawl_tells_it() -> None:
    answer = await ask(firecrawl, {"url": "http://unknown.invalid/"})
    assert (answer.status_code, answer.json()["code"]) == (200, "SCRAPE_DNS_RESOLUTION_ERROR")


async def test_nothing_leads_to_the_platform(site: Website, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a sandbox the ways to it listen on the loopback, or at the address by which it is known outside."""
    monkeypatch.setenv("CODEWORDS_API_KEY", "cwk-run-placeholder")
    for host in ("127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]", "2130706433"):
        answer = await ask(to_markdown, {"url": f"http://{host}:{site.port}/text", "render": False})
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), host
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    assert ("127.0.0.1", port) in {(str(address), each) for address, each in way._own_listeners()}
    server.close()


@NEEDS_CHROMIUM
async def test_the_browser_goes_nowhere_else(site: Website, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page in it asks of the platform isn't asked; without the check it would be."""
    site.pages["/greedy"] = f"""<p id=a></p><script>
        fetch("{site.url("/spend", host="localhost")}", {{method: "POST", mode: "no-cors", body: "x"}})
          .then(() => a.textContent = "asked", () => a.textContent = "refused")</script>"""
    refused: list[str] = []

    async def open_to(host: str, port: int) -> None:
        if host == "localhost" and port == site.port and refused is not None:
            refused.append(host)
            raise Refused(403, "forbidden", "the platform")

    for check, said in ((open_to, "refused"), (way.open_to, "asked")):
        monkeypatch.setattr(way, "open_to", check)
        async with browser.Browser() as opened:
            await opened.goto(site.url("/greedy"))
            assert await opened.evaluate("a.textContent") == said
    assert refused
    assert site.paths().count("/spend") == 1


@NEEDS_CHROMIUM
async def test_a_page_that_is_busy_for_ever_is_given_up(site: Website) -> None:
    """Whatever is asked of it, such as a picture: only what runs in the page had an end."""
    async with browser.Browser() as one:
        await one.goto(site.url("/text"))
        await one.evaluate("setTimeout(() => { for (;;); }, 1)")
        with pytest.raises(Refused) as refused:
            await one.do("Page.captureScreenshot", seconds=1.0, format="png")
        assert (refused.value.status, refused.value.code) == (504, "page_timeout")


@NEEDS_CHROMIUM
async def test_a_page_that_asks_whether_to_leave_is_left(site: Website) -> None:
    site.pages["/stay"] = "<!doctype html><title>Stay</title><script>onbeforeunload = e => e.preventDefault()</script>"
    async with browser.Browser() as one:
        await one.goto(site.url("/stay"))
        await one.evaluate("1")  # as a user's gesture
        await one.goto(site.url("/text"), 5)
        assert await one.url() == site.url("/text")
