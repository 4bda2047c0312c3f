"""The library's services of the web, through the whole mesh: pages, and a Chromium, inside of sandboxes."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from scheduler.library import text_of
from tests.e2e.mesh import ROOT, Mesh, mesh_up, own_address, until
from tests.fakes.website import NEEDS_CHROMIUM, Website, website
from tests.providers.provider import Vendor, provider

pytestmark = [pytest.mark.timeout(300), pytest.mark.slow, NEEDS_CHROMIUM]
SERVICES = ("webpage_to_markdown", "firecrawl", "web_automation_agent", "openai")
HERE = Path(__file__).parent / "clients"
SPENT = """
# /// script
# dependencies = ["fastapi", "uvicorn"]
# ///
import uvicorn
from fastapi import FastAPI

app = FastAPI()

@app.get("/")
@app.post("/")
def spend():
    return {"spent": True}

if __name__ == "__main__":
    uvicorn.run(app)
"""


@pytest.fixture(scope="module")
def site() -> Iterator[Website]:
    """Where workflows may go: its operator allows that."""
    with website(own_address()) as running:
        yield running


@pytest.fixture(scope="module")
def vendor() -> Iterator[Vendor]:
    with provider() as running:
        yield running


@pytest.fixture(scope="module")
def mesh(vendor: Vendor, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    library = tmp_path_factory.mktemp("library")
    library.chmod(0o755)
    shutil.copytree(ROOT / "library" / "parts", library / "parts")
    shutil.copytree(ROOT / "library" / "models", library / "models")
    for name in SERVICES:
        shutil.copy(ROOT / "library" / f"{name}.py", library)
    env = {"RUNMESH_LIBRARY": str(library), "RUNMESH_EGRESS_ALLOW_PRIVATE": own_address(), **vendor.settings()}
    with mesh_up(env=env) as running:
        with running.http() as client:
            for name in SERVICES:
                until(lambda: client.get(f"/workflows/{name}").json().get("visibility") == "public", 150)  # noqa: B023
        yield running


def ask(mesh: Mesh, service: str, body: Any, status: int = 200) -> dict[str, Any]:
    with mesh.http() as client:
        answer = client.post(f"/run/{service}", json=body, timeout=120)
    assert answer.status_code == status, answer.text
    told: dict[str, Any] = answer.json()
    return told


def test_pages_with_and_without_programs(mesh: Mesh, site: Website) -> None:
    told = ask(mesh, "webpage_to_markdown", {"url": site.url("/deep/article")})
    assert (told["title"], told["rendered"]) == ("On foxes & hens", False)
    assert "# Foxes" in told["markdown"]
    with mesh.http() as client:
        answer = client.post("/run/webpage_to_markdown", json={"url": site.url("/alive")})
    assert answer.json() == {
        "markdown": "# Grown\n\nby a program",
        "title": "Alive",
        "url": site.url("/alive"),
        "rendered": True,
    }
    usage = mesh.finished(answer.headers["x-request-id"])["usage"]
    print(f"rendering took {usage}")
    assert usage["memoryPeakBytes"] < 400 << 20


@pytest.mark.parametrize("url", ["http://10.0.0.1/", "http://169.254.169.254/latest/", "http://[::ffff:10.0.0.1]/"])
def test_private_addresses_are_denied(mesh: Mesh, site: Website, url: str) -> None:
    """To fetches, to what they are sent on to, and to the browser."""
    site.pages["/away"] = f"<script>location = {url!r}</script>"
    for asked in (url, site.url(f"/go?to={url}"), site.url("/away")):
        assert ask(mesh, "webpage_to_markdown", {"url": asked, "render": True}, 424)["code"] == "unreachable"


def test_a_page_cant_spend_its_visitors_money(mesh: Mesh, site: Website) -> None:
    """A connection from inside says which run it is, but nothing is done without that run's key. Nor does a
    service lead a page there.
    """
    mesh.deploy("spend", SPENT)
    ways = [f"{mesh.url}/run/spend", "http://runtime.runmesh/run/spend", "http://127.0.0.2/run/spend"]
    for way in ways:
        site.pages["/away"] = f"<script>location = {way!r}</script>"
        for asked in (way, site.url(f"/go?to={way}")):
            assert ask(mesh, "webpage_to_markdown", {"url": asked}, 403)["code"] == "forbidden"
        ask(mesh, "webpage_to_markdown", {"url": site.url("/away"), "render": True}, 424)
    asking = "".join(
        f'fetch("{way}", {{method: "POST", mode: "no-cors", body: "{{}}"}}).finally(() => done++);' for way in ways
    )
    frames = "".join(f'<iframe src="{way}"></iframe><img src="{way}">' for way in ways)
    site.pages["/greedy"] = (
        f"<p id=said></p>{frames}<script>let done = 0;{asking}setInterval(() => said.textContent = done, 50)</script>"
    )
    assert ask(mesh, "webpage_to_markdown", {"url": site.url("/greedy"), "render": True})["markdown"].startswith("3\n")
    with mesh.http() as client:
        assert client.get("/requests?service_id=spend").json()["items"] == []
    # Without the service's check the page gets there, by each of the ways, and has no key.
    check, code = "    own = _own_listeners()\n", text_of(ROOT / "library" / "webpage_to_markdown.py", ROOT / "library")
    assert code.count(check) == 1
    mesh.deploy("careless", code.replace(check, "    own: set = set()\n"))
    ask(mesh, "careless", {"url": site.url("/greedy"), "render": True})
    with mesh.http() as client:
        assert client.get("/requests?service_id=spend").json()["items"] == []
        client.post("/run/spend")  # control: what is spent is seen
        until(lambda: len(client.get("/requests?service_id=spend").json()["items"]) == 1)


def test_the_vendors_own_client(mesh: Mesh, site: Website) -> None:
    home = ROOT / ".venv" / "clients" / "firecrawl-1"
    if not (home / "ready").exists():
        uv = Path(sys.executable).parent / "uv"
        subprocess.run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, home], check=True)
        package = "firecrawl-py>=4.54,<5"
        subprocess.run([uv, "pip", "install", "--quiet", "--python", home / "bin" / "python", package], check=True)
        (home / "ready").touch()
    environ = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    environ |= {
        "MESH_URL": mesh.url,
        "MESH_KEY": mesh.key,
        "PAGE": site.url("/deep/article"),
        "GONE": site.url("/slow"),
    }
    run = subprocess.run(
        [home / "bin" / "python", HERE / "scrape.py"],
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    told = json.loads(run.stdout)
    # The second one was rendered, for its picture.
    assert (told["v1"]["title"], told["v2"]["title"]) == ("On foxes & hens", "not seen")
    assert "# Foxes" in told["v1"]["markdown"]
    assert told["v1"]["markdown"] == told["v2"]["markdown"]
    assert told["v2"]["links"] == [site.url("/"), site.url("/about"), site.url("/hens?q=1")]
    assert (told["v2"]["status"], told["picture"]) == (200, "data:image/png;base64")
    assert told["late"] == "RequestTimeoutError"


def next_one(action: str, element: int = 0, text: str = "") -> dict[str, Any]:
    return {"response": {"thought": "", "action": action, "element": element, "text": text, "submit": False}}


def test_a_model_uses_a_browser_and_its_caller_pays(mesh: Mesh, site: Website, vendor: Vendor) -> None:
    vendor.script += [next_one("type", 1, "hens"), next_one("click", 2), next_one("done", text="hens")]
    task = {"url": site.url(), "instructions": "Look for hens", "max_steps": 5}
    with mesh.http() as client:
        answer = client.post("/run/web_automation_agent", json=task, timeout=120)
    told = answer.json()
    assert (answer.status_code, told["success"], told["result"]) == (200, True, "hens")
    assert told["steps"][1]["url"] == site.url("/found?q=hens")
    record = mesh.finished(answer.headers["x-request-id"])
    assert record["cost"]["nested"] > 0
    print(f"three steps took {record['usage']}")


def test_its_budget_is_a_limit(mesh: Mesh, site: Website, vendor: Vendor) -> None:
    """An answer or two of the model can be paid, and not fifty."""
    vendor.script.clear()
    vendor.script += [next_one("scroll")] * 50
    task = {"url": site.url(), "instructions": "Look for hens", "max_steps": 50}
    with mesh.http() as client:
        answer = client.post("/run/web_automation_agent", json=task, timeout=120, headers={"X-Budget": "800"})
    assert (answer.status_code, answer.json()["code"]) == (402, "payment_required"), answer.text
    record = mesh.finished(answer.headers["x-request-id"])
    assert record["cost"]["total"] <= 800


def test_without_a_model_it_says_what_to_set(mesh: Mesh, site: Website) -> None:
    task = {"url": site.url(), "instructions": "Look", "model": "gemini/x"}
    told = ask(mesh, "web_automation_agent", task, 502)
    assert told["code"] == "model_failed"
