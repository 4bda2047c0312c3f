"""How often may be called, as the operator's settings say."""

import pytest

from tests.e2e.mesh import at_once, mesh_up

# It needs a mesh of its own; tests/e2e/test_rates.py has the rest in that of all.
pytestmark = [pytest.mark.timeout(180), pytest.mark.slow]


def test_a_key_calls_no_more_often_than_the_operator_allows() -> None:
    with mesh_up(env={"RUNMESH_KEY_RATE_PER_SECOND": "5"}) as mesh, mesh.http() as client:
        answers, seconds = at_once(client, 40, "/requests")
        served = [answer for answer in answers if answer.status_code == 200]
        assert 5 <= len(served) <= 5 * (1 + seconds)
        assert {answer.status_code for answer in answers} == {200, 429}
        assert client.get("/healthz").status_code == 200
