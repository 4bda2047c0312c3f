"""Schedules: by HTTP, by the library service, by those who may not; and one that fires by the real clock."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.e2e.mesh import WORKFLOWS, Mesh, until
from tests.e2e.money import by_key, settled

pytestmark = pytest.mark.timeout(240)
NIGHTLY = {"service_id": "asker", "cron_expression": "0 3 * * *", "timezone": "Europe/Berlin"}


@dataclass(frozen=True)
class Paid:
    """A schedule of another organization: its admin key, and whose budget the schedule counts against."""

    admin: str
    key_id: str
    id: str


@pytest.fixture(scope="module")
def scheduled(mesh: Mesh) -> str:
    """The id of a schedule that fires with the next minute. First of all, so that the minute passes meanwhile."""
    mesh.deploy("asker")
    with mesh.http() as client:
        wanted = {"service_id": "asker", "cron_expression": "* * * * *", "input_data": {"note": "grüße"}}
        answer = client.post("/schedules", json=wanted)
        assert answer.status_code == 200, answer.text
        until(lambda: client.get("/workflows/schedule_runs").json().get("visibility") == "public", 120)
    return str(answer.json()["id"])


@pytest.fixture(scope="module")
def paid(mesh: Mesh, scheduled: str) -> Paid:
    """Fires with the next minute, too."""
    made = mesh.new_organization("clockwork")
    mesh.deploy("asker", key=made["key"])
    with mesh.http(made["key"]) as client:
        wanted = {"kind": "standard", "scopes": ["run", "deploy"], "budget": 10**12}
        key = client.post("/keys", json=wanted).json()
    with mesh.http(key["key"]) as client:
        told = {"path": "/run/asker", "body": {}}
        answer = client.post(
            "/schedules", json={"service_id": "asker", "cron_expression": "* * * * *", "input_data": told}
        )
    assert answer.status_code == 200, answer.text
    return Paid(made["key"], key["id"], answer.json()["id"])


@pytest.fixture(autouse=True)
def kept(mesh: Mesh, scheduled: str, paid: Paid) -> Iterator[None]:
    """Whatever a test makes is deleted."""
    yield
    with mesh.http() as client:
        for item in client.get("/schedules?limit=1000").json()["items"]:
            if item["id"] != scheduled:
                assert client.delete(f"/schedules/{item['id']}").status_code == 200


def others(mesh: Mesh, scheduled: str, key: str | None = None) -> list[dict[str, Any]]:
    with mesh.http(key) as client:
        items: list[dict[str, Any]] = client.get("/schedules").json()["items"]
    return [item for item in items if item["id"] != scheduled]


def asked(mesh: Mesh, key: str, path: str, body: Any, service: str = "asker") -> tuple[int, dict[str, Any]]:
    """What the runtime answers a run of the asker that this key has started."""
    with mesh.http(key) as client:
        answer = client.post(f"/run/{service}", json={"path": path, "body": body})
    assert answer.status_code == 200, answer.text
    return answer.json()["code"], answer.json()["answer"]


def test_made_listed_deleted(mesh: Mesh, scheduled: str) -> None:
    with mesh.http() as client:
        made = client.post("/schedules", json={**NIGHTLY, "input_data": [1, {"a": None}]}).json()
        assert (made["timezone"], made["input_data"], made["last_fired_at"]) == (
            "Europe/Berlin",
            [1, {"a": None}],
            None,
        )
        assert made["next_fire_at"][14:] == "00:00.000Z"
        assert others(mesh, scheduled) == [made]
        first = client.get("/schedules?limit=1").json()
        assert [item["id"] for item in first["items"]] == [scheduled]
        rest = client.get(f"/schedules?limit=1&after={first['next']}").json()
        assert (rest["items"], rest["next"]) == ([made], None)
        assert client.delete(f"/schedules/{made['id']}").json() == {"id": made["id"], "deleted": True}
        assert client.delete(f"/schedules/{made['id']}").status_code == 404
        assert client.get(f"/schedules/{made['id']}").status_code in {404, 405}
    assert others(mesh, scheduled) == []


@pytest.mark.parametrize(
    ("change", "status", "why"),
    [
        ({"cron_expression": "61 * * * *"}, 400, "bad minute"),
        ({"cron_expression": "* * * * * *"}, 400, "6 fields"),
        ({"cron_expression": "@hourly"}, 400, "has 1 field, not five"),
        ({"timezone": "Middle/Earth"}, 400, "IANA"),
        ({"service_id": ""}, 400, "service_id is missing"),
        ({"input": {}}, 400, "unknown field 'input'"),
        ({"service_id": "nothing"}, 404, "no such workflow"),
        ({"service_id": "org_x.asker"}, 404, "no such workflow"),
        ({"input_data": "x" * 65_536}, 413, "65536"),
    ],
)
def test_what_is_refused(mesh: Mesh, scheduled: str, change: dict[str, Any], status: int, why: str) -> None:
    with mesh.http() as client:
        answer = client.post("/schedules", json={**NIGHTLY, **change})
    assert answer.status_code == status, answer.text
    assert why in answer.json()["detail"]
    assert answer.headers["error-origin"] == "runtime"
    assert others(mesh, scheduled) == []


def test_keys_without_deploy_have_nothing_to_do_with_schedules(mesh: Mesh, scheduled: str) -> None:
    with mesh.http(mesh.new_key(scopes=["run", "files", "admin"])["key"]) as client:
        for method, path in (("GET", "/schedules"), ("POST", "/schedules"), ("DELETE", f"/schedules/{scheduled}")):
            answer = client.request(method, path, json=NIGHTLY if method == "POST" else None)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")


def test_another_organizations_schedules_and_workflows_are_unknown(mesh: Mesh, scheduled: str) -> None:
    key = mesh.new_organization("schedulers")["key"]
    with mesh.http(key) as client:
        assert client.post("/schedules", json=NIGHTLY).status_code == 404
        assert client.delete(f"/schedules/{scheduled}").status_code == 404
        assert client.get("/schedules").json() == {"items": [], "next": None}
        made = client.post("/run/schedule_runs", json=NIGHTLY)
        assert (made.status_code, made.json()["code"], made.headers["error-origin"]) == (404, "not_found", "service")
        # Public ones may be called, so they may be scheduled: the caller's way to pay for it.
        assert client.post("/schedules", json={**NIGHTLY, "service_id": "schedule_runs"}).status_code == 200
    assert len(others(mesh, "", key)) == 1
    assert others(mesh, scheduled) == []


def test_the_library_service_makes_one_for_its_caller(mesh: Mesh, scheduled: str) -> None:
    with mesh.http() as client:
        answer = client.post("/run/schedule_runs", json={**NIGHTLY, "input_data": {"a": 1}})
        assert answer.status_code == 200, answer.text
        (made,) = others(mesh, scheduled)
        assert answer.json() == {"schedule_id": made["id"]}
        assert (made["created_by"], made["input_data"]) == (answer.headers["x-request-id"], {"a": 1})
        # Durably as well, and what it answers is a result like any other's.
        started = client.post("/run_async/schedule_runs", json={"service_id": "asker", "cron_expression": "1 1 1 1 *"})
        record = mesh.finished(started.json()["request_id"])
        assert record["responseJson"]["schedule_id"] in {item["id"] for item in others(mesh, scheduled)}
        assert client.post("/run/schedule_runs", json={**NIGHTLY, "cron_expression": "x"}).status_code == 400
        assert client.post("/run/schedule_runs", json={"service_id": "asker"}).status_code == 422
    assert len(others(mesh, scheduled)) == 2


def test_it_needs_the_right_of_the_key(mesh: Mesh, scheduled: str) -> None:
    with mesh.http(mesh.new_key(scopes=["run", "files", "admin"])["key"]) as client:
        assert client.post("/run/schedule_runs", json=NIGHTLY).status_code == 403
        started = client.post("/run_async/schedule_runs", json=NIGHTLY).json()["request_id"]
    assert mesh.finished(started)["responseStatus"] == 403
    with mesh.http(mesh.new_key(kind="one_time", scopes=["run"])["key"]) as client:
        assert client.post("/run/schedule_runs", json=NIGHTLY).status_code == 403
    assert others(mesh, scheduled) == []


def test_a_workflow_makes_none_by_itself_whatever_its_caller_may(mesh: Mesh, scheduled: str) -> None:
    for path, body in (("/schedules", NIGHTLY), ("/secrets/X", None), ("/deploy", {"code": "x", "name": "x"})):
        code, answer = asked(mesh, mesh.key, path, body)
        assert (code, answer["code"]) in {(403, "forbidden"), (405, "method_not_allowed")}, path
    with mesh.http() as client:
        for method, path in (("GET", "/schedules"), ("DELETE", f"/schedules/{scheduled}")):
            assert client.post("/run/asker", json={"method": method, "path": path}).json()["code"] == 403
        forged = {"X-Runmesh-Run": "a.b", "X-Scheduled-Request-Id": scheduled, "Authorization": f"Bearer {mesh.key}"}
        way: dict[str, Any] = {"path": "/schedules", "body": NIGHTLY, "headers": forged}
        assert client.post("/run/asker", json=way).json()["code"] == 403
    assert others(mesh, scheduled) == []


def test_a_workflow_of_ones_own_asks_the_library_service_with_the_right_of_the_key(mesh: Mesh, scheduled: str) -> None:
    code, answer = asked(mesh, mesh.key, "/run/schedule_runs", NIGHTLY)
    assert code == 200
    assert [item["id"] for item in others(mesh, scheduled)] == [answer["schedule_id"]]
    assert asked(mesh, mesh.new_key(scopes=["run"])["key"], "/run/schedule_runs", NIGHTLY)[0] == 403
    assert len(others(mesh, scheduled)) == 1


def test_somebody_elses_workflow_makes_none_for_its_caller_nor_for_its_owner(mesh: Mesh, scheduled: str) -> None:
    """Public, or a template that runs as its caller: the right ends where foreign code begins."""
    caller = mesh.new_organization("victims")["key"]
    mesh.deploy("asker", key=caller)
    url = mesh.deploy("asker")["url"]
    reference = url.rsplit("/", 1)[1]
    with mesh.http() as admin, mesh.http(caller) as client:
        for visibility in ("public", "template"):
            admin.patch("/workflows/asker", json={"visibility": visibility})
            for template in ("no", "yes"):
                answer = client.post(
                    f"/run/{reference}",
                    json={"path": "/run/schedule_runs", "body": NIGHTLY},
                    headers={"Run-As-Template": template},
                ).json()
                assert answer["code"] == 403, (visibility, template)
        admin.patch("/workflows/asker", json={"visibility": "private"})
    assert others(mesh, scheduled) == []
    assert others(mesh, "", caller) == []


def test_a_deleted_workflow_takes_its_schedules_along(mesh: Mesh, scheduled: str) -> None:
    mesh.deploy("passing", (WORKFLOWS / "asker.py").read_text())
    with mesh.http() as client:
        assert client.post("/schedules", json={**NIGHTLY, "service_id": "passing"}).status_code == 200
        assert client.delete("/workflows/passing").status_code == 200
    assert others(mesh, scheduled) == []


def test_it_fires_within_the_minute(mesh: Mesh, scheduled: str) -> None:
    with mesh.http() as client:

        def fired() -> dict[str, Any] | None:
            (item,) = (item for item in client.get("/schedules").json()["items"] if item["id"] == scheduled)
            return item if item["last_request_id"] else None

        item = until(fired, 70)
        assert item["last_error"] is None
        record = mesh.finished(item["last_request_id"])
        assert (record["trigger"], record["status"], record["serviceId"]) == ("schedule", "succeeded", "asker")
        assert (record["correlationId"], record["parentId"]) == (record["id"], None)
        assert len(record["traceId"]) == 32
        answer = record["responseJson"]
        assert answer["given"] == {"note": "grüße"}
        headers = answer["headers"]
        assert (headers["x-scheduled-request-id"], headers["x-request-id"]) == (scheduled, record["id"])
        assert headers["codewords-caller-id"] == record["userId"]
        assert headers["content-type"] == "application/json"
        assert client.delete(f"/schedules/{scheduled}").status_code == 200


def test_the_organization_of_the_schedule_pays_and_its_keys_budget_holds(mesh: Mesh, paid: Paid) -> None:
    """What it starts and what that calls."""
    with mesh.http(paid.admin) as client:

        def ended() -> list[dict[str, Any]]:
            runs: list[dict[str, Any]] = client.get("/requests").json()["items"]
            return runs if [run["status"] for run in runs] == ["succeeded"] * len(runs) and len(runs) > 1 else []

        until(lambda: client.get("/requests").json()["items"], 70)
        assert client.delete(f"/schedules/{paid.id}").status_code == 200
        runs = until(ended, 30)
        settled(mesh, paid.admin)
        used = {key["id"]: key["budget_used"] for key in client.get("/keys").json()["items"]}
        (root, *_) = (run for run in runs if run["parentId"] is None and run["trigger"] == "schedule")
        root = client.get(f"/request/{root['id']}").json()
    assert min(root["cost"]["own"], root["cost"]["nested"]) > 0
    spent = sum(run["cost"]["own"] for run in runs)
    assert by_key(mesh, paid.admin) == {paid.key_id: spent}
    assert used[paid.key_id] == spent
    assert spent >= root["cost"]["total"]
