"""How often may be called, through the whole mesh."""

import pytest

from tests.e2e.mesh import WORKFLOWS, Mesh, at_once, until

pytestmark = pytest.mark.timeout(180)


def test_a_workflow_is_called_no_more_often_than_its_owner_allows(mesh: Mesh) -> None:
    mesh.deploy("often", (WORKFLOWS / "bare_asgi.py").read_text())
    with mesh.http() as client:

        def statuses() -> set[int]:
            return {answer.status_code for answer in at_once(client, 16, "/run/often")[0]}

        assert statuses() == {200}
        changed = client.patch("/workflows/often", json={"limits": {"calls_per_second": 2}})
        assert changed.json()["limits"]["calls_per_second"] == 2
        until(lambda: 429 in statuses())
        answers, seconds = at_once(client, 16, "/run/often")
        refused = [answer for answer in answers if answer.status_code == 429]
        assert 16 - len(refused) <= 2 * (1 + seconds)
        for answer in refused:
            assert answer.json()["code"] == "rate_limited"
            assert "may be called 2 times a second" in answer.json()["detail"]
            assert answer.headers["retry-after"] == "1"
        assert client.patch("/workflows/often", json={"limits": {"calls_per_second": 1_000_001}}).status_code == 400
        assert client.patch("/workflows/often", json={"limits": {"calls_per_second": None}}).status_code == 200
        until(lambda: statuses() == {200})


def test_api_calls_tell_what_is_left(mesh: Mesh) -> None:
    """Of a hundred a minute, unless the key, its organization or the workflow has a smaller limit."""
    mesh.deploy("often", (WORKFLOWS / "bare_asgi.py").read_text())
    made = mesh.new_organization("often called")
    with mesh.http() as admin, mesh.http(made["key"]) as client:
        owner = admin.get("/workflows/often").json()["url"].rpartition("/")[2]
        assert admin.patch("/workflows/often", json={"visibility": "public"}).status_code == 200

        def told(key: str) -> tuple[int, list[int]]:
            with mesh.http(key) as caller:
                answer = caller.post(f"/api/v1/run/{owner}", json={})
            names = ("limit", "remaining", "reset")
            assert (answer.status_code == 429) == ("retry-after" in answer.headers)
            assert answer.status_code == 200 or answer.json()["success"] is False
            return answer.status_code, [int(answer.headers[f"x-ratelimit-{name}"]) for name in names]

        status, (limit, remaining, reset) = told(made["key"])
        assert (status, limit, remaining) == (200, 100, 99)
        assert 0 < reset <= 60
        own = client.post("/keys", json={"kind": "standard", "rates": {"api_per_minute": 2}}).json()["key"]
        assert [(status, left[:2]) for status, left in (told(own) for _ in range(3))] == [
            (200, [2, 1]),
            (200, [2, 0]),
            (429, [2, 0]),
        ]
        assert client.post("/run/nothing", json={}).headers.get("x-ratelimit-limit") is None
        rates = f"/organizations/{made['id']}/rates"
        assert admin.put(rates, json={"api_per_minute": 3}).status_code == 200
        until(lambda: told(made["key"])[1][0] == 3)
        until(lambda: told(made["key"])[0] == 429)
        assert admin.put(rates, json={}).status_code == 200
        limits = {"limits": {"api_calls_per_minute": 1}}
        assert admin.patch("/workflows/often", json=limits).status_code == 200
        until(lambda: told(made["key"])[1][0] == 1)
        assert told(made["key"]) == (429, [1, 0, told(made["key"])[1][2]])
        assert admin.patch("/workflows/often", json={"limits": {"api_calls_per_minute": None}}).status_code == 200
