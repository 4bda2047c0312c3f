"""library/templates on a real mesh: each is deployed by its name, and some do their work with the library's services,
whose providers are on this machine.
"""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.e2e.mesh import Mesh, library_of, mesh_up, own_address, until
from tests.e2e.test_hooks import slack as signed
from tests.fakes.ready_made import FILES, header
from tests.mail_server import MailServer, mail_server
from tests.providers import slack
from tests.providers.apis import World, apis
from tests.providers.provider import provider

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
SERVICES = (
    "openai",
    "anthropic",
    "searchapi",
    "github",
    "hunter",
    "slack_trigger",
    "redis_coordinator",
    "send_email",
    "webpage_to_markdown",
)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """The providers of searches, addresses, profiles; Slack."""
    with apis(own_address()) as running:
        yield running


@pytest.fixture(scope="module")
def mails() -> Iterator[MailServer]:
    """The operator's."""
    with mail_server(login=False) as server:
        yield server


@pytest.fixture(scope="module")
def mesh(world: World, mails: MailServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """Its operator has an account everywhere but at Anthropic; workflows may reach this machine's own address."""
    with provider() as vendor:
        settings = {name: value for name, value in vendor.settings().items() if name != "RUNMESH_ANTHROPIC_API_KEY"}
        env = {
            "RUNMESH_LIBRARY": str(library_of(tmp_path_factory.mktemp("library"), *SERVICES)),
            "RUNMESH_EGRESS_ALLOW_PRIVATE": own_address(),
            "RUNMESH_SEND_EMAIL_SMTP_URL": f"smtp://127.0.0.1:{mails.port}",
            "RUNMESH_SEND_EMAIL_FROM": "Runmesh <runmesh@example.com>",
            **settings,
            **world.settings(),
        }
        with mesh_up(env=env) as running:
            with running.http() as client:
                for name in SERVICES:
                    until(lambda: client.get(f"/workflows/{name}").json().get("visibility") == "public", 150)  # noqa: B023
            yield running


@pytest.fixture(scope="module")
def deployed(mesh: Mesh, world: World) -> dict[str, Any]:
    """What each deploy said, by the template; those that need secrets have them."""
    secrets: dict[str, dict[str, Any]] = {
        "CONTACT_TO": {"value": "me@example.com"},
        "SLACK_BOT_TOKEN": {"value": slack.TOKEN, "hosts": [f"http://{world.host}:{world.port}"]},
    }
    said = {}
    with mesh.http() as client:
        for name, secret in secrets.items():
            assert client.put(f"/secrets/{name}", json=secret).status_code == 200
        for template in FILES:
            answer = client.post("/deploy", json={"template_id": template}, timeout=180)
            assert answer.status_code == 200, answer.text
            said[template] = answer.json()
    return said


@pytest.fixture
def site() -> Iterator[str]:
    """The address of a website with a dead link."""

    class Pages(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            is_home = self.path == "/"
            self.send_response(200 if is_home else 404)
            self.send_header("content-type", "text/html")
            self.end_headers()
            self.wfile.write(b'<a href="/gone">x</a>' if is_home else b"")

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer((own_address(), 0), Pages) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{own_address()}:{server.server_port}/"
        server.shutdown()


def needed(template: str) -> set[str]:
    return {variable.name for variable in header(template).env_vars if variable.default is None}


def test_all_are_listed(mesh: Mesh) -> None:
    with mesh.http() as client:
        items = {item["id"]: item for item in client.get("/templates?limit=100").json()["items"]}
    assert set(items) == set(FILES)
    assert {name: set(item["secrets"]) for name, item in items.items()} == {name: needed(name) for name in FILES}
    assert items["person_finder"]["name"] == "Person finder"
    assert all(item["description"].endswith(".") for item in items.values())


@pytest.mark.parametrize("template", FILES)
def test_it_deploys_and_its_report_passes(deployed: dict[str, Any], mesh: Mesh, template: str) -> None:
    assert deployed[template]["service_id"] == template
    assert [check for check in deployed[template]["report"] if not check["passed"]] == []
    with mesh.http() as client:
        shown = client.get(f"/workflows/{template}").json()
    assert "post" in shown["schema"]["paths"]["/"]


@pytest.mark.parametrize("template", [template for template in FILES if needed(template)])
def test_without_its_secrets_it_deploys_and_says_what_to_set(mesh: Mesh, template: str) -> None:
    newcomer = mesh.new_organization(f"without secrets for {template}")["key"]
    with mesh.http(newcomer) as client:
        report = client.post("/deploy", json={"template_id": template}, timeout=180).json()["report"]
        answer = client.post(f"/run/{template}", json={})
    (secrets,) = (check for check in report if check["check"] == "secrets")
    assert not secrets["passed"]
    assert (answer.status_code, answer.json()["code"]) == (424, "missing_secret")
    assert all(name in secrets["detail"] and name in answer.json()["detail"] for name in needed(template))


def test_dead_links_are_found(deployed: dict[str, Any], mesh: Mesh, site: str) -> None:
    with mesh.http() as client:
        told = client.post("/run/link_checker", json={"url": site}).json()
    broken = [{"url": f"{site}gone", "problem": "status 404", "refused": False, "pages": [site]}]
    assert told == {"pages": 1, "links": 2, "complete": True, "broken": broken}


def test_a_report_of_a_file_is_a_file(deployed: dict[str, Any], mesh: Mesh) -> None:
    with mesh.http() as client, mesh.http("") as anybody:
        file = client.post("/file?filename=rain.csv").json()
        anybody.put(file["upload_uri"], content="city,rain\nBergen,2250\nRome,878\n", headers=file["upload_headers"])
        answer = client.post("/run/csv_report", json={"csv_url": file["download_uri"], "question": "Where?"})
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert told["columns"][1]["numbers"] == {"least": 878, "mean": 1564, "most": 2250}
        assert told["findings"].startswith("You said: Where?")
        report = anybody.get(told["report_url"])
        assert (report.status_code, "1564" in report.text, "You said: Where?" in report.text) == (200, True, True)
        assert "2 rows, 2 columns" in client.get(f"/logs/{answer.headers['x-request-id']}").text


def test_a_person_is_found_by_all_sources_and_by_those_that_answer(deployed: dict[str, Any], mesh: Mesh) -> None:
    with mesh.http() as client:
        told = client.post("/run/person_finder", json={"name": "Ada Lovelace", "company": "Cats"}).json()
        assert (told["email"], told["email_score"]) == ("ada@cats.example", 97)
        assert (told["position"], told["linkedin"]) == ("Engineer", "https://www.linkedin.com/in/ada")
        assert (len(told["github"]), len(told["pages"]), told["problems"]) == (3, 10, {})
        answer = client.post("/run/person_finder", json={"name": "Ada Fast", "domain": "cats.example"})
    assert answer.status_code == 200
    assert (answer.json()["email"], list(answer.json()["problems"])) == ("", ["email"])


def test_tickets_are_sorted_and_a_service_that_is_not_configured_is_told(deployed: dict[str, Any], mesh: Mesh) -> None:
    tickets = {"tickets": [{"id": "1", "body": "help"}, {"id": "2", "body": "[status=429]"}]}
    with mesh.http() as client:
        first, second = client.post("/run/ticket_triage", json=tickets).json()["tickets"]
        assert (first["id"], first["category"], first["summary"]) == ("1", "other", "text")
        assert second["error"].startswith("openai: ")
        answer = client.post("/run/ticket_triage", json={**tickets, "model": "anthropic/claude-haiku-4-5"})
    assert (answer.status_code, answer.headers["error-origin"]) == (424, "service")
    assert "RUNMESH_ANTHROPIC_API_KEY" in answer.json()["detail"]


def test_slack_is_answered(deployed: dict[str, Any], mesh: Mesh, world: World) -> None:
    """From the signed event to the answer in the thread; the token stays out of the sandbox."""
    message = {"type": "app_mention", "text": "<@U1> what?", "channel": "C1", "ts": "2.0"}
    body = json.dumps({"type": "event_callback", "event_id": "Ev1", "event": message}).encode()
    with mesh.http() as client, mesh.http("") as sender:
        app = {"service_id": "slack_answer_bot", "signing_secret": "slack-secret"}
        made = client.post("/run/slack_trigger", json=app).json()
        run_id = sender.post(made["url"], content=body, headers=signed("slack-secret", body)).json()["request_id"]
        result = client.get(f"/result/{run_id}?timeout=60").json()
    assert result["answered"] is True, result
    said = world.last.body
    assert (said["channel"], said["thread_ts"]) == ("C1", "2.0")
    assert said["text"].startswith("You said: You help a team in Slack.")
    assert said["text"].endswith("what?")


def ran(mesh: Mesh, template: str, body: Any) -> Any:
    """Its answer, as a schedule runs it: those that watch run one at a time, and wait their turn."""
    with mesh.http() as client:
        run_id = client.post(f"/run_async/{template}", json=body).json()["request_id"]
        record = client.get(f"/result/{run_id}?timeout=60").json()
    assert record["responseStatus"] == 200, record
    return record["responseJson"]


def test_changes_of_a_site_are_mailed_once(deployed: dict[str, Any], mesh: Mesh, mails: MailServer, site: str) -> None:
    watch = {"sites": [{"url": f"{site}gone"}, {"url": site}], "alert_to": "ops@example.com"}
    first, second = (ran(mesh, "site_monitor", watch) for _ in range(2))
    assert [state["up"] for state in first["sites"]] == [False, True]
    assert (first["mailed"], second["mailed"]) == (True, False)
    assert [each["since"] for each in first["sites"]] == [each["since"] for each in second["sites"]]
    (mail,) = (each for each in mails.delivered if each.recipients == ["ops@example.com"])
    assert f"{site}gone is down" in mail.message.get_content().replace("\r\n", " ")


def test_anybody_posts_to_the_open_form(deployed: dict[str, Any], mesh: Mesh, mails: MailServer) -> None:
    form = {"name": "Bob", "email": "bob@example.com", "message": "Grüße"}
    with mesh.http() as owner, mesh.http("") as anybody:
        owner.patch("/workflows/form_to_email", json={"visibility": "open"})
        address = deployed["form_to_email"]["url"]
        answer = anybody.post(address, data=form)
        refused = anybody.post(address, data={**form, "email": "nobody"})
    assert (answer.status_code, answer.json()) == (200, {"sent": True}), answer.text
    assert (refused.status_code, refused.headers["error-origin"]) == (422, "service")
    (mail,) = (each for each in mails.delivered if each.recipients == ["me@example.com"])
    assert (mail.message["Reply-To"], "Grüße" in mail.message.get_content()) == ("bob@example.com", True)


def test_prices_are_watched(deployed: dict[str, Any], mesh: Mesh, mails: MailServer, site: str) -> None:
    """The model says 0.5 of every page here."""
    watch = {"products": [{"url": site, "target": 25}], "alert_to": "buyer@example.com"}
    first, second = (ran(mesh, "price_watch", watch) for _ in range(2))
    assert (first["products"][0]["price"], first["mailed"]) == (0.5, True)
    assert (second["products"][0]["last"], second["mailed"]) == (0.5, False)
    assert len([each for each in mails.delivered if each.recipients == ["buyer@example.com"]]) == 1
