"""Who pays for what, and what stops where the credit ends: runs, what they call, and models, through the whole mesh."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.e2e import money
from tests.e2e.mesh import ROOT, Mesh, mesh_up, until
from tests.e2e.money import FEE
from tests.providers.provider import provider

pytestmark = pytest.mark.timeout(200)
# A call of the model service, and a token in and out.
CALL, IN, OUT = 50, 3, 5
PLENTY = 1_000_000
# Asks the model, then the next workflow of the path; answers as it is told.
LINK = """\
# /// script
# dependencies = ["uvicorn"]
# ///
import asyncio, json, os, time, urllib.error, urllib.request


def post(path, body):
    url, key = os.environ["CODEWORDS_RUNTIME_URI"], os.environ["CODEWORDS_API_KEY"]
    headers = {"Authorization": "Bearer " + key, "Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url + path, json.dumps(body).encode(), headers)) as answer:
            return {"status": answer.status, "body": json.load(answer)}
    except urllib.error.HTTPError as refusal:
        return {"status": refusal.code, "body": json.load(refusal)}


def work(given):
    until = time.process_time() + given.get("burn", 0)
    while time.process_time() < until:
        pass
    told = {}
    if "ask" in given:
        told["model"] = post("/run/openai", {"model": "gpt-test", "prompt": given["ask"]})
    if given.get("path"):
        told["below"] = post("/run/" + given["path"][0], {**given, "path": given["path"][1:], "status": 200})
    return told


async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    more, body = True, b""
    while more:
        message = await receive()
        body, more = body + message["body"], message["more_body"]
    given = json.loads(body or b"{}")
    if "wait" in given:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"data: begun\\n\\n", "more_body": True})
        await asyncio.sleep(given["wait"])
    answer = json.dumps(await asyncio.to_thread(work, given)).encode()
    headers = [(b"content-type", given.get("kind", "application/json").encode())]
    await send({"type": "http.response.start", "status": given.get("status", 200), "headers": headers})
    await send({"type": "http.response.body", "body": answer})


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(app)
"""


@dataclass(frozen=True)
class World:
    """A mesh whose links a, b and c, of an organization without any credit, everybody may call."""

    mesh: Mesh
    owner: dict[str, Any]

    def path(self, way: str, name: str = "a") -> str:
        return f"{way}/{self.owner['id']}.{name}"

    def run(
        self, client: httpx.Client, told: dict[str, Any], runs: int = 1, budget: int = 0, way: str = "/run"
    ) -> "Ran":
        """`a`, and its record once it is over, with so many `runs` in its tree."""
        headers = {"X-Budget": str(budget)} if budget else {}
        answer = client.post(self.path(way), json=told, headers=headers)
        return Ran(answer, over(client, answer.headers["x-request-id"], runs))


@dataclass(frozen=True)
class Ran:
    """A run and what it answered."""

    answer: httpx.Response
    record: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.record["id"])

    @property
    def cost(self) -> dict[str, int]:
        found: dict[str, int] = self.record["cost"]
        return found


def over(client: httpx.Client, run_id: str, runs: int = 1) -> dict[str, Any]:
    """The record of a run, once all of its tree, which has at least so many `runs`, are over: a caller has its answer
    somewhat before what the run has called is reported.
    """

    def found() -> bool:
        records = tree(client, run_id)
        return len(records) >= runs and all(record.get("completedAt") for record in records)

    until(found, 60)
    ended: dict[str, Any] = client.get(f"/request/{run_id}").json()
    return ended


def tree(client: httpx.Client, run_id: str) -> list[dict[str, Any]]:
    """The records of a run and of all below it."""
    records: list[dict[str, Any]] = client.get("/requests?limit=1000").json()["items"]
    found = [record for record in records if record["id"] == run_id]
    for each in found:
        found += [record for record in records if record["parentId"] == each["id"]]
    return found


def new_key(mesh: Mesh, admin: str, **fields: Any) -> dict[str, Any]:
    """Of this admin key's organization."""
    with mesh.http(admin) as client:
        answer = client.post("/keys", json={"kind": "standard", **fields})
    assert answer.status_code == 200, answer.text
    made: dict[str, Any] = answer.json()
    return made


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    library = tmp_path_factory.mktemp("library")
    library.chmod(0o755)
    shutil.copy(ROOT / "library" / "openai.py", library)
    shutil.copytree(ROOT / "library" / "models", library / "models")
    many = {"RUNMESH_ORGANIZATION_RUNS": "200", "RUNMESH_EXECUTOR_RUNS": "200"}
    env = {"RUNMESH_LIBRARY": str(library), "RUNMESH_INITIAL_CREDITS": "0", "RUNMESH_RUN_FEE": "0", **many}
    with provider() as vendor, mesh_up(env={**env, **vendor.settings()}) as mesh:
        tokens = {"tokens:openai/gpt-test:in": IN, "tokens:openai/gpt-test:out": OUT}
        money.set_prices(mesh, **money.NOTHING, **tokens, **{"call:openai": CALL})
        owner = mesh.new_organization("owner")
        with mesh.http(owner["key"]) as client:
            for name in "abc":
                mesh.deploy(name, LINK, owner["key"])
                assert client.patch(f"/workflows/{name}", json={"visibility": "public"}).status_code == 200
            until(lambda: client.get("/workflows/openai").json().get("visibility") == "public", 120)
            until(lambda: client.post("/run/a", json={}).status_code == 200, 15)
        yield World(mesh, owner)
        assert money.credits_of(mesh, owner["key"]) == (0, 0)
        assert money.faults(mesh) == {}


def test_without_credit_all_is_to_be_had_that_costs_nothing(world: World) -> None:
    """Prices are 0 but for models."""
    mesh, key = world.mesh, world.owner["key"]
    with mesh.http(key) as client, mesh.http(new_key(mesh, key, budget=0)["key"]) as without:
        for caller in (client, without):
            assert caller.post("/run/a", json={"path": ["b"]}).json() == {"below": {"status": 200, "body": {}}}
            assert caller.post("/api/v1/run/a", json={}).json()["result"] == {}
            accepted = caller.post("/run_async/a", json={})
            assert accepted.status_code == 200, accepted.text
            result = caller.get(f"/result/{accepted.json()['request_id']}?timeout=30").json()
            assert result["run"]["status"] == "succeeded"
        told = client.post("/run/a", json={"ask": "hello"}).json()["model"]
        assert (told["status"], told["body"]["code"]) == (402, "payment_required")
    assert money.by_key(mesh, key) == {}


@pytest.fixture(scope="module")
def priced(world: World) -> World:
    """From here on a run costs FEE."""
    money.set_prices(world.mesh, run=FEE)
    probe = money.funded(world.mesh, "probe", PLENTY)
    with world.mesh.http(probe["key"]) as client:
        until(lambda: world.run(client, {}).cost["own"] == FEE, 15)
    return world


def test_credit_for_fifty_of_two_hundred_at_once(priced: World) -> None:
    money.fifty_of_two_hundred(priced.mesh, priced.path("/run"))
    assert money.faults(priced.mesh) == {}


# Of six runs.
CHAIN = {"path": ["b", "c"], "ask": "hello"}


@pytest.fixture(scope="module")
def payer(priced: World) -> dict[str, Any]:
    return money.funded(priced.mesh, "payer", PLENTY)


def test_each_level_of_a_chain_costs_what_the_ledger_says(priced: World, payer: dict[str, Any]) -> None:
    """The caller pays, and not the owner: he has no credit at all."""
    mesh = priced.mesh
    before = money.settled(mesh, payer["key"])
    with mesh.http(payer["key"]) as client:
        root = priced.run(client, CHAIN, 6)
        said = {"status": 200, "body": {"response": "You said: hello"}}
        level = {"model": said}
        assert root.answer.json() == {
            **level,
            "below": {"status": 200, "body": {**level, "below": {"status": 200, "body": level}}},
        }
        records = {record["id"]: over(client, record["id"]) for record in tree(client, root.id)}
    assert sorted(record["serviceId"] for record in records.values()) == ["a", "b", "c", *["openai"] * 3]
    for record in records.values():
        cost, usage = record["cost"], record["usage"]
        below = [each["cost"]["total"] for each in records.values() if each["parentId"] == record["id"]]
        used = CALL + usage["tokensIn"] * IN + usage["tokensOut"] * OUT
        assert cost["own"] == (used if record["serviceId"] == "openai" else FEE)
        assert (cost["nested"], cost["total"]) == (sum(below), cost["own"] + sum(below))
        assert record["serviceId"] != "openai" or min(usage["tokensIn"], usage["tokensOut"]) > 0
    assert before - money.settled(mesh, payer["key"]) == root.cost["total"]
    assert money.booked(mesh, root.id) == {run_id: record["cost"]["own"] for run_id, record in records.items()}


def test_a_budget_stops_the_third_level(priced: World, payer: dict[str, Any]) -> None:
    mesh = priced.mesh
    with mesh.http(payer["key"]) as client:
        whole = priced.run(client, CHAIN, 6).cost["total"]
        budget = whole - whole // 3 + FEE - 1
        root = priced.run(client, CHAIN, 4, budget)
        third = root.answer.json()["below"]["body"]["below"]
        assert (root.answer.status_code, third["status"], third["body"]["code"]) == (200, 402, "payment_required")
        assert root.cost["total"] == budget - FEE + 1
        enough = priced.run(client, {"path": ["b", "c"]}, 3, 3 * FEE)
        assert (enough.cost["total"], enough.answer.json()["below"]["body"]["below"]["status"]) == (3 * FEE, 200)
        # The worst case of the last call of the model doesn't fit, though what it would have cost does.
        last = priced.run(client, CHAIN, 5, whole).answer.json()["below"]["body"]["below"]["body"]["model"]
        assert (last["status"], last["body"]["code"]) == (402, "payment_required")
        refused = client.post(priced.path("/run"), json={}, headers={"X-Budget": str(FEE - 1)})
        assert (refused.status_code, refused.json()["code"]) == (402, "payment_required")
    money.settled(mesh, payer["key"])
    assert sum(money.booked(mesh, root.id).values()) == root.cost["total"]


def test_under_api_only_success_is_charged(priced: World, payer: dict[str, Any]) -> None:
    """What was called has ended well and been answered before."""
    mesh, told = priced.mesh, {"path": ["b"], "ask": "hello"}
    before = money.settled(mesh, payer["key"])
    with mesh.http(payer["key"]) as client:
        found = {
            status: priced.run(client, {**told, "status": status}, 4, way="/api/v1/run") for status in (200, 404, 500)
        }
        elsewhere = priced.run(client, {**told, "status": 500}, 4)
        whole = elsewhere.cost["total"]
        assert before - money.settled(mesh, payer["key"]) == 2 * whole > 4 * FEE
        for status, ran in found.items():
            assert (ran.answer.status_code, ran.answer.json()["success"]) == (status, status == 200)
            costs = {record["id"]: over(client, record["id"])["cost"] for record in tree(client, ran.id)}
            assert money.booked(mesh, ran.id) == {run_id: cost["own"] for run_id, cost in costs.items()}
            assert len(costs) == 4
            assert costs[ran.id]["total"] == (whole if status == 200 else 0)


def test_under_api_a_caller_that_hangs_up_pays_nothing(priced: World, payer: dict[str, Any]) -> None:
    """It never had a success (SPEC §6), though it has read a part of an answer."""
    mesh = priced.mesh
    before = money.settled(mesh, payer["key"])
    with mesh.http(payer["key"]) as client:
        with client.stream("POST", f"{priced.path('/api/v1/run')}/stream", json={"wait": 60}) as answer:
            assert "begun" in next(answer.iter_text())
            run_id = answer.headers["x-request-id"]
        record = over(client, run_id)
    assert (record["status"], record["cost"]["total"]) == ("cancelled", 0)
    assert money.settled(mesh, payer["key"]) == before


def test_under_api_an_answer_that_is_no_result_is_free(priced: World, payer: dict[str, Any]) -> None:
    """The run succeeds, as the scheduler has it; its caller is told of a failure."""
    mesh, told = priced.mesh, {"path": ["b"], "kind": "text/html; charset=none-such"}
    before = money.settled(mesh, payer["key"])
    with mesh.http(payer["key"]) as client:
        ran = priced.run(client, told, way="/api/v1/run")
        assert (ran.answer.status_code, ran.answer.json()["code"]) == (501, "not_supported")
        assert (ran.record["status"], ran.cost["total"]) == ("succeeded", 0)
    assert money.settled(mesh, payer["key"]) == before


def test_the_key_at_the_root_answers_for_all_below(priced: World, payer: dict[str, Any]) -> None:
    """A one-time key with a budget, a replay by another key, and an asynchronous run."""
    mesh, admin = priced.mesh, payer["key"]
    once, other = new_key(mesh, admin, kind="one_time", budget=PLENTY), new_key(mesh, admin)
    with mesh.http(once["key"]) as client:
        answer = client.post(priced.path("/run"), json=CHAIN)
        assert answer.json()["below"]["body"]["below"]["status"] == 200
        assert client.post(priced.path("/run"), json=CHAIN).status_code == 401
    with mesh.http(admin) as client:
        whole = over(client, answer.headers["x-request-id"], 6)["cost"]["total"]
    with mesh.http(other["key"]) as client:
        again = client.post(f"/request/{answer.headers['x-request-id']}/replay")
        assert again.status_code == 200, again.text
        replayed = over(client, again.json()["request_id"], 6)
        accepted = client.post(priced.path("/run_async"), json=CHAIN)
        later = over(client, accepted.json()["request_id"], 6)
    assert whole == replayed["cost"]["total"] == later["cost"]["total"] > 6 * CALL
    money.settled(mesh, admin)
    found = money.by_key(mesh, admin)
    assert (found[once["id"]], found[other["id"]]) == (whole, 2 * whole)
    with mesh.http(admin) as client:
        keys = {key["id"]: key for key in client.get("/keys?limit=1000").json()["items"]}
    assert keys[once["id"]]["budget_used"] == whole


def test_a_keys_budget_holds_for_what_its_runs_call(priced: World, payer: dict[str, Any]) -> None:
    mesh = priced.mesh
    key = new_key(mesh, payer["key"], budget=3 * FEE - 1)
    with mesh.http(key["key"]) as client:
        ran = client.post(priced.path("/run"), json={"path": ["b", "c"]})
        assert ran.json()["below"]["body"]["below"]["status"] == 402
        assert client.post(priced.path("/run"), json={}).status_code == 402
    money.settled(mesh, payer["key"])
    assert money.by_key(mesh, payer["key"])[key["id"]] == 2 * FEE


def test_a_run_that_uses_up_its_budget_is_stopped(priced: World, payer: dict[str, Any]) -> None:
    """Last: from here on a processor costs 1 a millisecond, and `a` has a fifth of one."""
    mesh, step = priced.mesh, 1000  # the most that it can use in five seconds, which it has to have before it begins
    with mesh.http(priced.owner["key"]) as owner:
        assert owner.patch("/workflows/a", json={"limits": {"cpu_millis": 200}}).status_code == 200
    money.set_prices(mesh, cpu=1)
    with mesh.http(payer["key"]) as client:
        until(lambda: priced.run(client, {"burn": 0.01}).cost["own"] > FEE, 15)
        budget = FEE + step + 100
        assert priced.run(client, {}, budget=budget).cost["own"] < FEE + step / 2
        stopped = priced.run(client, {"burn": 60}, budget=budget)
        assert (stopped.answer.status_code, stopped.answer.json()["code"]) == (402, "payment_required")
        assert (stopped.record["status"], stopped.record["code"]) == ("failed", "payment_required")
        assert budget - step / 5 < stopped.cost["total"] <= budget
    money.settled(mesh, payer["key"])
    assert money.booked(mesh, stopped.id) == {stopped.id: stopped.cost["total"]}
