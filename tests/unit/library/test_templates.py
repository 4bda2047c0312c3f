"""library/templates: each ready-made workflow is what GET /templates and its callers need, and does what it says."""

import ast
import re
import runpy
from typing import Any

import httpx
import pytest
import uvicorn

from tests.fakes.library_services import LibraryServices
from tests.fakes.ready_made import FILES, ROOT, Post, header, html, loaded

pytestmark = pytest.mark.usefixtures("environment")
SERVICES = "searchapi|hunter|github|reddit|webpage_to_markdown|send_email|redis_coordinator|slack_trigger"


def docstring(template: str) -> str:
    return ast.get_docstring(ast.parse(FILES[template].read_text())) or ""


# ── What each of them is.


def test_there_are_more_than_a_dozen() -> None:
    assert len(FILES) >= 14
    assert {"person_finder", "company_enrichment", "site_monitor", "ticket_triage"} <= set(FILES)


@pytest.mark.parametrize("template", FILES)
def test_it_has_all_parts(template: str) -> None:
    text, head, told = FILES[template].read_text(), header(template), docstring(template)
    assert len(text.splitlines()) <= 120
    assert head.requires_python == ">=3.11"
    assert {re.split("[>[]", needed)[0] for needed in head.dependencies} == {"fastapi", "uvicorn", "httpx"}
    assert "# [tool.env-checker]\n# env_vars = [" in text
    summary, *rest = told.split("\n\n")
    assert 40 < len(summary) <= 200
    assert summary.endswith(".")
    assert f'"service_id": "{template}"' in told or f"{template} -H" in told or f".{template}" in told
    # What it calls is named, so that its reader knows what an operator has to configure.
    called = set(re.findall(rf'call\(\s*"({SERVICES})[/"]', text))
    assert called == set(re.findall(SERVICES, "\n".join(rest)))
    # Only what reads addresses that a caller names may reach everything.
    reads = {"csv_report", "invoice_extractor", "link_checker", "rss_digest", "site_monitor"}
    assert (head.options.egress is None) == (template in reads)


@pytest.mark.parametrize("template", FILES)
def test_its_schema_tells_callers_what_it_takes_and_gives(template: str) -> None:
    schema = loaded(template).app.openapi()
    assert schema["info"]["title"] not in {"", "FastAPI"}
    operation = schema["paths"]["/"]["post"]
    assert "schema" in operation["requestBody"]["content"]["application/json"]
    assert "$ref" in operation["responses"]["200"]["content"]["application/json"]["schema"]
    models = {name: model for name, model in schema["components"]["schemas"].items() if "Validation" not in name}
    assert all(model.get("description") for model in models.values()), models


@pytest.mark.parametrize("template", FILES)
def test_it_runs_by_hand(template: str, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(uvicorn, "run", lambda app, **how: started.append((app.title, how)))
    monkeypatch.setenv("PORT", "8123")
    runpy.run_path(str(FILES[template]), run_name="__main__")
    assert started == [(loaded(template).app.title, {"host": "0.0.0.0", "port": 8123})]


@pytest.mark.parametrize("template", FILES)
def test_the_page_about_templates_has_it(template: str) -> None:
    row = re.search(rf"^\| `{template}` \|.*$", (ROOT / "docs" / "templates.md").read_text(), re.MULTILINE)
    assert row is not None
    needed = [variable.name for variable in header(template).env_vars if variable.default is None]
    assert all(f"`{name}`" in row[0] for name in needed)


@pytest.mark.parametrize(
    ("template", "body", "field"),
    [
        ("company_enrichment", {"domain": "no domain"}, "domain"),
        ("csv_report", {"csv_url": "file:///etc/passwd"}, "csv_url"),
        ("daily_briefing", {"email_to": "nobody"}, "email_to"),
        ("form_to_email", {"email": "a@b", "message": ""}, "message"),
        ("invoice_extractor", {}, "file_url"),
        ("link_checker", {"url": "https://example.com:99999"}, "url"),
        ("meeting_summary", {"transcript": "x", "email_to": "not a list"}, "email_to"),
        ("person_finder", {"name": "Ada"}, "name"),
        ("price_watch", {"products": []}, "products"),
        ("rss_digest", {"feeds": ["x"]}, "feeds"),
        ("site_monitor", {"sites": [{"url": "example.com"}]}, "url"),
        ("slack_answer_bot", {"type": "event_callback"}, "event"),
        ("ticket_triage", {"tickets": [{"id": "1"}]}, "body"),
        ("web_research", {"question": "what?", "model": "gpt"}, "model"),
    ],
)
async def test_bad_inputs_are_named(
    post: Post, services: LibraryServices, template: str, body: Any, field: str
) -> None:
    answer = await post(template, body)
    assert answer.status_code == 422
    assert field in str(answer.json()["detail"])
    assert services.calls == []


MESSAGE = {"type": "app_mention", "text": "<@U1> what?", "channel": "C1", "ts": "1.0"}
PAGE = "https://example.com/"


@pytest.mark.parametrize(
    ("template", "body", "service"),
    [
        ("company_enrichment", {"domain": "example.com"}, "openai"),
        ("daily_briefing", {"email_to": "a@b", "topics": ["x"]}, "redis_coordinator"),
        ("form_to_email", {"email": "a@b", "message": "hi"}, "send_email"),
        ("invoice_extractor", {"file_url": "https://files.example/a.pdf"}, "openai/v1/chat/completions"),
        ("meeting_summary", {"transcript": "Ann: hello", "model": "anthropic/m"}, "anthropic"),
        ("rss_digest", {"feeds": ["https://files.example/feed"]}, "redis_coordinator"),
        ("site_monitor", {"sites": [{"url": PAGE}]}, "redis_coordinator"),
        ("slack_answer_bot", {"event": MESSAGE}, "openai"),
        ("ticket_triage", {"tickets": [{"id": "1", "body": "help"}], "model": "gemini/m"}, "gemini"),
        ("web_research", {"question": "what is it?"}, "searchapi"),
    ],
)
async def test_the_status_and_the_words_of_a_service_that_fails_are_passed_on(
    post: Post, services: LibraryServices, template: str, body: Any, service: str
) -> None:
    services.down[service] = (424, "set RUNMESH_X_API_KEY")
    services.pages = {
        PAGE: html("Home"),
        PAGE.rstrip("/"): html("Home"),
        "https://files.example/a.pdf": httpx.Response(200, content=b"%PDF-1.7"),
        "https://files.example/feed": httpx.Response(200, text="<rss/>"),
    }
    answer = await post(template, body)
    assert answer.status_code == 424
    assert answer.json() == {"detail": f"{service}: set RUNMESH_X_API_KEY"}


async def test_a_runtime_that_cannot_be_reached_is_told(post: Post, services: LibraryServices) -> None:
    services.down["searchapi"] = httpx.ConnectError("gone")
    answer = await post("web_research", {"question": "what is it?"})
    assert (answer.status_code, answer.json()["detail"]) == (502, "searchapi gave no answer: ConnectError('gone')")
