"""What a run may use: set by the header, changed by the owner, bounded by the operator; and what it used."""

from typing import Any

import pytest

from tests.e2e.mesh import Mesh

pytestmark = pytest.mark.timeout(180)
CODE = """\
# /// script
# dependencies = ["uvicorn"]
# [tool.runmesh]
# memory = "256MiB"
# cpu = 0.5
# processes = 64
# disk = "64MiB"
# ///
async def app(scope, receive, send):
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app)
"""
OURS = ("memory_bytes", "cpu_millis", "processes", "disk_bytes")


def limits(workflow: dict[str, Any]) -> tuple[int, ...]:
    return tuple(workflow["limits"][name] for name in OURS)


def test_limits_from_the_header_to_the_record(mesh: Mesh) -> None:
    mesh.deploy("bounded", CODE)
    with mesh.http() as client:
        assert limits(client.get("/workflows/bounded").json()) == (256 << 20, 500, 64, 64 << 20)
        changed = client.patch("/workflows/bounded", json={"limits": {"memory_bytes": 300 << 20, "processes": 128}})
        assert limits(changed.json()) == (300 << 20, 500, 128, 64 << 20)
        changed = client.patch("/workflows/bounded", json={"limits": {"memory_bytes": None}})
        assert limits(changed.json()) == (256 << 20, 500, 128, 64 << 20)
        answer = client.post("/run/bounded")
        assert (answer.status_code, answer.text) == (200, "done")
        record = mesh.finished(answer.headers["x-request-id"])
        measured = {"cpuSeconds", "wallSeconds", "memoryPeakBytes"}
        assert set(record["usage"]) == measured | {"egressBytes", "tokensIn", "tokensOut"}
        assert [record["usage"].pop(name) for name in sorted(set(record["usage"]) - measured)] == [0, 0, 0]
        assert min(record["usage"].values()) > 0
        unused = client.post("/provision-request").json()["request_id"]
        assert client.get(f"/request/{unused}").json()["usage"] is None


def test_more_than_the_operator_allows_is_refused(mesh: Mesh) -> None:
    with mesh.http() as client:
        code = CODE.replace("256MiB", "900TiB")
        refused = client.post("/deploy", json={"code": code, "name": "greedy"})
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_workflow")
        assert "(line 4): [tool.runmesh] memory: 943,718,400 MiB is more than the" in refused.json()["detail"]
        mesh.deploy("modest", CODE)
        for change in ({"cpu_millis": 1_000_001}, {"memory_bytes": 1 << 20}, {"processes": 1 << 40}):
            answer = client.patch("/workflows/modest", json={"limits": change})
            assert (answer.status_code, answer.json()["code"]) == (400, "bad_request"), change
        assert limits(client.get("/workflows/modest").json()) == (256 << 20, 500, 64, 64 << 20)


@pytest.mark.parametrize("isolation", ["run", "instance", "cold"])
def test_who_needs_more_memory_than_its_limit_is_told_so(mesh: Mesh, isolation: str) -> None:
    code = CODE.replace('"256MiB"', f'"128MiB"\n# isolation = "{isolation}"').replace(
        '    if scope["type"] == "http":\n', '    if scope["type"] == "http":\n        kept = bytearray(300 << 20)\n'
    )
    mesh.deploy("hungry", code)
    with mesh.http() as client:
        answer = client.post("/run/hungry")
        assert (answer.status_code, answer.json()["code"]) == (502, "out_of_memory")
        assert answer.headers["error-origin"] == "runtime"
        assert mesh.finished(answer.headers["x-request-id"])["usage"]["memoryPeakBytes"] > 100 << 20


@pytest.mark.parametrize("isolation", ["run", "instance", "cold"])
def test_who_fills_the_disk_is_told_so(mesh: Mesh, isolation: str) -> None:
    """More files than the limit allows together, each within it; one that isn't is refused where it is written."""
    code = CODE.replace("cpu = 0.5", f'cpu = 1\n# isolation = "{isolation}"').replace(
        '    if scope["type"] == "http":\n',
        """    if scope["type"] == "http":
        import asyncio
        try:
            with open("/tmp/long", "wb") as file:
                file.truncate(65 << 20)
            os._exit(9)
        except OSError as error:
            assert error.errno == 27
        for number in range(10):
            with open(f"/var/tmp/{number}", "wb") as file:
                file.write(bytes(10 << 20))
        await asyncio.sleep(60)
""",
    )
    mesh.deploy("filling", code.replace("\nasync def app", "\nimport os\nasync def app"))
    with mesh.http() as client:
        answer = client.post("/run/filling")
        assert (answer.status_code, answer.json()["code"]) == (502, "disk_full"), answer.text
        assert "64 MiB" in answer.json()["detail"]
