"""Fifty workflows that nobody has called, and their first calls all at once: each is answered."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.e2e.mesh import Mesh, mesh_up

COUNT = 50
CODE = """\
# /// script
# dependencies = ["fastapi", "uvicorn"]
# ///
import fastapi, uvicorn

app = fastapi.FastAPI()

@app.get("/")
def name():
    return {"name": "@NAME@"}

if __name__ == "__main__":
    uvicorn.run(app)
"""


@pytest.fixture
def idle() -> Iterator[Mesh]:
    """A mesh of its own, which has loaded none of its workflows."""
    with mesh_up() as mesh:
        mesh.deploy("idle0", CODE.replace("@NAME@", "idle0"))  # the environment, once
        with ThreadPoolExecutor(4) as pool:
            names = [f"idle{number}" for number in range(1, COUNT)]
            list(pool.map(lambda name: mesh.deploy(name, CODE.replace("@NAME@", name)), names))
        yield mesh


@pytest.mark.slow  # fifty deployments and fifty cold starts on two processors
@pytest.mark.timeout(600)
def test_fifty_first_calls_at_once_are_all_answered(idle: Mesh) -> None:
    def call(number: int) -> tuple[int, str]:
        with idle.http(timeout=150) as client:
            answer = client.get(f"/run/idle{number}")
        return answer.status_code, answer.text

    with ThreadPoolExecutor(COUNT) as pool:
        answers = list(pool.map(call, range(COUNT)))
    assert Counter(status for status, _ in answers) == {200: COUNT}, Counter(answers)
    assert [text for _, text in answers] == [f'{{"name":"idle{number}"}}' for number in range(COUNT)]
