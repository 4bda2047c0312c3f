"""The model services of a mesh whose operator has no keys: they are there, and say what is missing."""

import pytest

from tests.e2e.mesh import Mesh, until

pytestmark = pytest.mark.timeout(240)


@pytest.mark.parametrize("name", ["openai", "anthropic", "gemini"])
def test_what_isnt_configured_says_what_to_set(mesh: Mesh, name: str) -> None:
    with mesh.http() as client:
        until(lambda: client.get(f"/workflows/{name}").json().get("visibility") == "public", 150)
        for path in (f"/run/{name}", f"/{name}/v1/models"):
            answer = client.post(path, json={"model": "m", "prompt": "hello"})
            assert (answer.status_code, answer.json()["code"]) == (424, "missing_secret")
            assert f"RUNMESH_{name.upper()}_API_KEY" in answer.json()["detail"]
            assert answer.headers["error-origin"] == "runtime"
            assert answer.json()["error"]["message"] == answer.json()["detail"]  # where its SDK looks
