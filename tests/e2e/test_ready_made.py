"""library/templates on a real mesh: each is deployed as it is, and those that need nobody else run."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.e2e.mesh import Mesh, own_address
from tests.fakes.ready_made import FILES, header

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


SECRETS = {
    "CONTACT_TO": {"value": "me@example.com"},
    "SLACK_BOT_TOKEN": {"value": "xoxb-1", "hosts": ["slack.com"]},
}


def needed(template: str) -> set[str]:
    return {variable.name for variable in header(template).env_vars if variable.default is None}


@pytest.fixture(scope="module")
def deployed(mesh: Mesh) -> Iterator[dict[str, Any]]:
    """What each deploy said, by the template; those that need secrets have them."""
    with mesh.http() as client:
        for name, secret in SECRETS.items():
            assert client.put(f"/secrets/{name}", json=secret).status_code == 200
        yield {template: mesh.deploy(template, file.read_text()) for template, file in FILES.items()}
        for name in SECRETS:
            client.delete(f"/secrets/{name}")


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


@pytest.mark.parametrize("template", FILES)
def test_it_deploys_and_its_report_passes(deployed: dict[str, Any], mesh: Mesh, template: str) -> None:
    failed = [check for check in deployed[template]["report"] if not check["passed"]]
    assert failed == []
    with mesh.http() as client:
        shown = client.get(f"/workflows/{template}").json()
    assert "post" in shown["schema"]["paths"]["/"]


@pytest.mark.parametrize("template", [template for template in FILES if needed(template)])
def test_without_its_secrets_it_deploys_and_says_what_to_set(mesh: Mesh, template: str) -> None:
    newcomer = mesh.new_organization(f"without secrets for {template}")["key"]
    report = mesh.deploy(template, FILES[template].read_text(), newcomer)["report"]
    (secrets,) = (check for check in report if check["check"] == "secrets")
    assert not secrets["passed"]
    with mesh.http(newcomer) as client:
        answer = client.post(f"/run/{template}", json={})
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
        answer = client.post("/run/csv_report", json={"csv_url": file["download_uri"]})
        assert answer.status_code == 200, answer.text
        told = answer.json()
        assert told["columns"][1]["numbers"] == {"least": 878, "mean": 1564, "most": 2250}
        # This mesh has no models; what they say of that is in the report, beside the figures.
        assert "RUNMESH_OPENAI_API_KEY" in told["findings"]
        report = anybody.get(told["report_url"])
        assert report.status_code == 200
        assert "1564" in report.text
        lines = client.get(f"/logs/{answer.headers['x-request-id']}").text
        assert "2 rows, 2 columns" in lines


def test_a_service_that_is_not_configured_is_told(deployed: dict[str, Any], mesh: Mesh) -> None:
    with mesh.http() as client:
        answer = client.post("/run/ticket_triage", json={"tickets": [{"id": "1", "body": "help"}]})
    assert answer.status_code == 424
    assert answer.headers["error-origin"] == "service"
    assert answer.json()["detail"].startswith("openai: ")
    assert "RUNMESH_OPENAI_API_KEY" in answer.json()["detail"]
