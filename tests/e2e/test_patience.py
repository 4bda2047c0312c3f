"""Long waits, in real time: minutes of silence break nothing, and the real limits hold. `make test-all` only."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.mesh import Mesh

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_a_result_waits_eleven_minutes_and_a_log_is_silent_for_as_long(mesh: Mesh) -> None:
    with mesh.http(timeout=None) as client, mesh.http(timeout=None) as reader, ThreadPoolExecutor(1) as pool:
        run = client.post("/run_async/probe/sleep", json={"seconds": 660}).json()["request_id"]
        lines = pool.submit(lambda: reader.get(f"/logs/{run}"))
        started = time.monotonic()
        done = client.get(f"/result/{run}?timeout=700")
        assert time.monotonic() - started > 600
        assert (done.status_code, done.json()["ok"]) == (200, True)
        assert lines.result(30).status_code == 200


@pytest.mark.parametrize(("way", "status"), [("continue", "succeeded"), ("kill", "timed_out")])
def test_the_default_synchronous_limit_is_two_minutes(mesh: Mesh, way: str, status: str) -> None:
    with mesh.http(timeout=None) as client:
        started = time.monotonic()
        answer = client.post("/run/probe/sleep", json={"seconds": 125}, headers={"X-On-Timeout": way})
        assert 119 < time.monotonic() - started < 124
        assert (answer.status_code, answer.json()["code"]) == (504, "timeout")
    assert mesh.finished(answer.json()["request_id"])["status"] == status
