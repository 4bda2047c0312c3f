"""redis_coordinator with a real Redis: a workflow uses the published client's `redis_client()` in its sandbox."""

from collections.abc import Iterator

import pytest

from tests.e2e.mesh import Mesh, library_of, mesh_up, own_address, until
from tests.library_rig import Redis, redis_with_tls

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]
CODE = """# /// script
# requires-python = ">=3.11"
# dependencies = ["codewords-client==0.4.11"]
# ///
from codewords_client import redis_client, run_service
from fastapi import FastAPI

app = FastAPI()


@app.post("/")
async def count(body: dict) -> dict:
    async with redis_client() as (redis, ns):
        await redis.hset(f"{ns}:user:1", mapping={"name": "Ada"})
        try:
            await redis.get(body["steal"])
        except Exception as error:
            refused = type(error).__name__
        ada, number = await redis.hgetall(f"{ns}:user:1"), await redis.incr(f"{ns}:count")
        return {"count": number, "ns": ns, "ada": ada, "refused": refused}


if __name__ == "__main__":
    run_service(app)
"""


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    with redis_with_tls(own_address()) as server:
        yield server


@pytest.fixture(scope="module")
def mesh(redis: Redis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    env = {
        "RUNMESH_LIBRARY": str(library_of(tmp_path_factory.mktemp("library"), "redis_coordinator")),
        "RUNMESH_REDIS_COORDINATOR_REDIS_URL": redis.url,
        "RUNMESH_EGRESS_ALLOW_PRIVATE": own_address(),
    }
    with mesh_up(env=env) as running:
        with running.http() as client:
            until(lambda: client.get("/workflows/redis_coordinator").json().get("visibility") == "public", 150)
        running.deploy("counter", CODE)
        yield running


def test_the_published_client_in_a_workflow(mesh: Mesh, redis: Redis) -> None:
    other = mesh.new_organization("other")
    mesh.deploy("counter", CODE, key=other["key"])
    with mesh.http() as client, mesh.http(other["key"]) as theirs:
        assert (
            theirs.post("/run/redis_coordinator", json={"operation": "set", "key": "s", "value": "x"}).status_code
            == 200
        )
        stolen = {"steal": f"{other['id']}:s"}
        first = client.post("/run/counter", json=stolen)
        assert first.status_code == 200, first.text
        found = first.json()
        assert (found["count"], found["ada"], found["refused"]) == (1, {"name": "Ada"}, "NoPermissionError")
        assert client.post("/run/counter", json=stolen).json()["count"] == 2
        assert theirs.post("/run/counter", json={"steal": f"{found['ns']}:count"}).json()["count"] == 1
        read = client.post("/run/redis_coordinator", json={"operation": "get", "key": "count"})
        assert read.json() == {"success": True, "value": 2}
        given = client.post("/run/redis_coordinator").json()
        assert (given["redis_host"], given["redis_port"]) == (own_address(), redis.port)
        assert given["namespace"] == f"{found['ns']}:*"
        reset = client.post("/run/redis_coordinator", json={"operation": "reset_password"}).json()
        assert reset["redis_password"] != given["redis_password"]
        assert client.post("/run/counter", json=stolen).json()["count"] == 3
    assert not any(redis.password in line for line in mesh.output)
