"""chrome_extension through the whole mesh: the unpacked extension in a real Chromium does what workflows ask for."""

import asyncio
import base64
import json
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from library.parts import browser
from library.parts.browser import Browser
from tests.e2e.mesh import ROOT, Mesh, mesh_up, until
from tests.fakes.website import Website, website

CHROMIUM = Path("/usr/lib/chromium/chromium")
MISSING = pytest.mark.skipif(not CHROMIUM.exists(), reason="Chromium isn't installed on this machine")
pytestmark = [pytest.mark.timeout(300), pytest.mark.slow, MISSING]
EXTENSION = ROOT / "library" / "chrome_extension"
OPTIONS = {"--headless", "--disable-extensions", "--block-new-web-contents"}


@pytest.fixture(scope="module")
def site() -> Iterator[Website]:
    with website() as running:
        yield running


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    library = tmp_path_factory.mktemp("library")
    library.chmod(0o755)
    shutil.copytree(ROOT / "library" / "parts", library / "parts")
    shutil.copy(ROOT / "library" / "chrome_extension.py", library)
    with mesh_up(env={"RUNMESH_LIBRARY": str(library)}) as running:
        with running.http() as client:
            url = "/workflows/chrome_extension"
            until(lambda: client.get(url).json().get("visibility") == "public", 150)
        yield running


@pytest.fixture
def whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole browser: the shell has no extensions. One may be loaded by the debugger, as its user does by hand."""
    options = [each for each in browser.OPTIONS if each not in OPTIONS]
    monkeypatch.setattr(browser, "PROGRAMS", (str(CHROMIUM),))
    monkeypatch.setattr(browser, "OPTIONS", (*options, "--headless=new", "--enable-unsafe-extension-debugging"))


@asynccontextmanager
async def with_extension(mesh: Mesh, sites: str) -> AsyncIterator[Browser]:
    """Its user loads it, and fills in its options with a key that may do no more."""
    key = mesh.new_key(name="browser", scopes=["run:chrome_extension"])["key"]
    async with Browser() as chrome:
        loaded = await chrome.do("Extensions.loadUnpacked", "", path=str(EXTENSION))
        await chrome.do("Page.navigate", url=f"chrome-extension://{loaded['id']}/options.html")
        await chrome.settled()
        async with asyncio.timeout(20):
            while await chrome.evaluate("document.getElementById('fields').disabled"):  # noqa: ASYNC110  # the page's
                await asyncio.sleep(0.1)
        for name, value in {"address": mesh.url + "/", "key": key, "sites": sites}.items():
            await chrome.evaluate(f"document.getElementById({name!r}).value = {value!r}")
        await chrome.evaluate("document.getElementById('save').click()")
        yield chrome


async def connected(mesh: Mesh, chrome: Browser) -> None:
    said = ""
    for _ in range(60):
        if (await ask(mesh, None, "GET", "status")).json()["browsers"]:
            return
        said = await chrome.evaluate("document.getElementById('status').value")
        await asyncio.sleep(1)
    raise AssertionError(f"the extension says {said!r}")


async def ask(mesh: Mesh, body: Any, method: str = "POST", path: str = "actions") -> httpx.Response:
    headers = {"Authorization": f"Bearer {mesh.key}"}
    async with httpx.AsyncClient(base_url=mesh.url, headers=headers, timeout=130, trust_env=False) as client:
        return await client.request(method, f"/run/chrome_extension/{path}", json=body)


async def done(mesh: Mesh, *actions: Any) -> Any:
    answer = await ask(mesh, {"actions": actions})
    assert answer.status_code == 200, answer.text
    return answer.json()


async def test_it_acts_on_pages(mesh: Mesh, site: Website, whole: None) -> None:
    nobody = await ask(mesh, {"actions": [{"type": "navigate", "url": site.url()}]})
    assert (nobody.status_code, nobody.json()["code"]) == (424, "no_browser")
    async with with_extension(mesh, f"127.0.0.1:{site.port}\n*.never.example") as chrome:
        await connected(mesh, chrome)
        told = await done(
            mesh,
            {"type": "navigate", "url": site.url()},
            {"type": "click", "selector": "#grow"},
            {"type": "extract", "selector": "#more"},
            {"type": "screenshot"},
            {"type": "type", "selector": "#q", "text": "hens"},
            {"type": "click", "selector": "#go"},
            {"type": "wait", "selector": "title"},
            {"type": "wait", "ms": 100},
            {"type": "extract", "selector": "h1"},
            {"type": "extract_html", "selector": "main"},
        )
        assert told["success"], told
        data = told["data"]
        values = [each["value"] for each in data["results"] if "value" in each]
        assert values == ["clicked false", "Found hens", "<main><h1>Found hens</h1></main>"]
        assert (data["html"], data["title"]) == (values[-1], "Found")
        assert base64.b64decode(data["screenshot"].partition(",")[2])[:4] == b"\x89PNG"

        alive = await done(
            mesh,
            {"type": "navigate", "url": site.url("/alive")},
            {"type": "extract", "selector": "main p"},
            {"type": "extract", "selector": "a", "attribute": "href", "all": True, "timeout": 300},
        )
        assert (alive["success"], alive["data"]["failed_action"]) == (False, 2)
        assert alive["data"]["results"][1]["value"] == "by a program"
        assert "there is no a within 300 ms" in alive["error"]
        assert "by a program" in alive["data"]["html"]

        # Where its user hasn't allowed it to, not even by way of a site that is.
        for url in (site.url(host="localhost"), site.url(f"/go?to={site.url(host='localhost')}")):
            refused = await done(mesh, {"type": "navigate", "url": url}, {"type": "extract"})
            assert "hasn't allowed localhost" in refused["error"]
            assert refused["data"]["html"] == ""
        # … nor by a page that goes there while it is waited for.
        for number in range(3):
            away = f"http://localhost:{site.port}/secret"
            site.pages["/secret"] = "<title>Secret</title><p id=secret>of another site"
            site.pages["/leaves"] = (
                f"<title>Mine</title><script>setTimeout(() => {{ location = {away!r} }}, 400)</script>"
            )
            action = (
                {"type": "extract", "selector": "#secret", "timeout": 3000},
                {"type": "extract_html", "selector": "#secret", "timeout": 3000},
            )[number % 2]
            refused = await done(mesh, {"type": "navigate", "url": site.url("/leaves")}, action)
            assert not refused["success"]
            assert "of another site" not in json.dumps(refused)
        pages = [each for each in (await chrome.do("Target.getTargets", ""))["targetInfos"] if each["type"] == "page"]
        assert [each["url"] for each in pages if each["url"].startswith("http")] == []  # its tabs are closed


async def test_a_worker_that_was_stopped_comes_back(mesh: Mesh, site: Website, whole: None) -> None:
    """Chrome does so when it is idle; an alarm starts it again, and its session is the same."""
    async with with_extension(mesh, f"127.0.0.1:{site.port}") as chrome:
        await connected(mesh, chrome)
        session = (await ask(mesh, None, "GET", "status")).json()["browsers"]
        targets = (await chrome.do("Target.getTargets", ""))["targetInfos"]
        (worker,) = (each["targetId"] for each in targets if each["type"] == "service_worker")
        await chrome.do("Target.closeTarget", "", targetId=worker)
        async with asyncio.timeout(5):
            while any(  # noqa: ASYNC110  # another process
                each["targetId"] == worker for each in (await chrome.do("Target.getTargets", ""))["targetInfos"]
            ):
                await asyncio.sleep(0.1)
        told = await done(mesh, {"type": "navigate", "url": site.url("/data")}, {"type": "extract"})
        assert told["data"]["results"][-1]["value"] == "by a program"
        assert set(session) <= set((await ask(mesh, None, "GET", "status")).json()["browsers"])


async def test_a_wrong_key_is_told_in_the_options(mesh: Mesh, whole: None) -> None:
    async with with_extension(mesh, "") as chrome:
        await connected(mesh, chrome)
        await chrome.evaluate(
            "document.getElementById('key').value = 'cwk-wrong'; document.getElementById('save').click()"
        )
        said = ""
        for _ in range(60):
            said = await chrome.evaluate("document.getElementById('status').value")
            if "API key" in said:
                return
            await asyncio.sleep(0.5)
        raise AssertionError(f"the extension says {said!r}")
