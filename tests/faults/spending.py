"""Who spends: runs of all kinds, for several organizations, some of which have little, while things break."""

import json
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.e2e.mesh import Mesh, until
from tests.faults.outside import Outside

SERVICE = "spender"
AT_ONCE = 4
PATIENCE_SECONDS = 30.0
REPEATS = 8
PLENTY, LITTLE, KEY_BUDGET = 10**9, 4_000, 30_000
# More than a run takes for its first seconds: it has to take more.
MUCH_EGRESS = 2_000_000
_JSON = {"Content-Type": "application/json"}

# It sleeps, sends something to the internet, calls others, and fails, as it is told to. Plain ASGI: it starts fast.
WORKFLOW = """\
# /// script
# dependencies = ["uvicorn"]
# ///
import asyncio, json, os, urllib.error, urllib.request
import uvicorn

OUTSIDE = ("%s", %d)

def call(path, budget, body):
    headers = {"Authorization": os.environ["CODEWORDS_API_KEY"], "Content-Type": "application/json"}
    headers |= {"X-Budget": str(budget)} if budget else {}
    asked = urllib.request.Request(os.environ["CODEWORDS_RUNTIME_URI"] + path, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:
            return answer.status
    except urllib.error.HTTPError as refusal:
        return refusal.code
    except OSError:
        return 0

async def egress(told, size):
    reader, writer = await asyncio.open_connection(*OUTSIDE)
    content = json.dumps(told).encode() + b" " * size
    writer.write(b"POST / HTTP/1.0\\r\\nContent-Length: %%d\\r\\n\\r\\n%%s" %% (len(content), content))
    await reader.read()
    writer.close()

async def app(scope, receive, send):
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body")
    asked = json.loads(body)
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    if asked.get("egress"):
        await egress({"token": "", "run": headers["x-request-id"], "attempt": headers["x-attempt"]}, asked["egress"])
    told = [await asyncio.to_thread(call, *each) for each in asked.get("calls", ())]
    await asyncio.sleep(asked.get("seconds", 0))
    content = json.dumps({"told": told}).encode()
    status = 500 if asked.get("fail") else 200
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": content})

if __name__ == "__main__":
    uvicorn.run(app)
"""


@dataclass(frozen=True)
class Payer:
    """An organization, by one of its keys."""

    organization: str
    key: str


@dataclass
class Spenders:
    """`spend` until `end`. `told` counts what they were told, by kind and status (0: hung up)."""

    mesh: Mesh
    outside: Outside
    seed: int
    told: Counter[tuple[str, int]] = field(default_factory=Counter)
    failures: list[BaseException] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._threads: list[threading.Thread] = []
        self.service = self._deployed()
        rich, poor = (self.mesh.new_organization(name) for name in ("rich", "poor"))
        limited = self.mesh.new_key(budget=KEY_BUDGET)["key"]
        self.first = Payer(self.service.partition(".")[0], self.mesh.key)
        self.rich, self.poor = Payer(rich["id"], rich["key"]), Payer(poor["id"], poor["key"])
        self.payers = (self.first, self.rich, self.poor, Payer(self.first.organization, limited))
        self.grant(self.rich, PLENTY)
        self.grant(self.poor, LITTLE)

    def _deployed(self) -> str:
        """What everybody calls it."""
        url: str = self.mesh.deploy(SERVICE, WORKFLOW % self.outside.server_address[:2])["url"]
        with self.mesh.http() as admin:
            answer = admin.patch(f"/workflows/{SERVICE}", json={"visibility": "public"})
        assert answer.status_code == 200, answer.text
        return url.rpartition("/")[2]

    def grant(self, payer: Payer, amount: int) -> None:
        """While things break it may take a while."""
        asked = {"organization_id": payer.organization, "amount": amount, "reason": "to spend"}
        headers = {"Idempotency-Key": f"{payer.organization}-{time.monotonic_ns()}"}
        with self.mesh.http(headers=headers) as admin:
            assert until(lambda: _status(admin, "POST", "/credits", asked) == 200, 30)

    def spend(self) -> None:
        """In the background."""
        for number in range(AT_ONCE):
            self._threads.append(threading.Thread(target=self._spender, args=(random.Random(f"{self.seed}-{number}"),)))
            self._threads[-1].start()

    def over(self) -> None:
        """No more is begun, and all were answered."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def end(self) -> None:
        """The same; raises what went wrong."""
        self.over()
        for failure in self.failures:
            raise failure

    def one_that_takes_steps(self) -> None:
        """Nobody waits for it; its purse is its own."""
        with self.mesh.http(timeout=PATIENCE_SECONDS) as client:
            self._ask(client, "steps", "/run_async/", {"egress": MUCH_EGRESS, "seconds": 1.6}, {"X-Budget": "100000"})

    def serves(self) -> bool:
        """Whether a call goes through."""
        with self.mesh.http(timeout=PATIENCE_SECONDS) as client:
            return self._ask(client, "plain", "/run/", {}) is not None

    def _spender(self, rng: random.Random) -> None:
        try:
            while not self._over.is_set():
                payer = rng.choice(self.payers)
                with self.mesh.http(payer.key, timeout=PATIENCE_SECONDS) as client:
                    for _ in range(4):
                        self._one(client, rng)
                        self._over.wait(rng.uniform(0, 0.4))
        except BaseException as error:  # noqa: BLE001  # the test's thread raises it
            self.failures.append(error)

    def _one(self, client: httpx.Client, rng: random.Random) -> None:
        kind = rng.choice(("plain", "asynchronous", "budget", "durable", "cancelled", "nested", "on success", "fails"))
        work: dict[str, Any] = {"seconds": round(rng.uniform(0, 0.3), 2)}
        if rng.random() < 0.2:
            work["egress"] = MUCH_EGRESS // 4
        if kind == "budget":
            self._ask(client, kind, "/run/", work, {"X-Budget": rng.choice(("50", "300", "5000", "1000000"))})
        elif kind == "asynchronous":
            self._ask(client, kind, "/run_async/", work)
        elif kind == "cancelled":
            self._cancelled(client, work, rng.uniform(0, 1.5))
        elif kind == "durable":
            self._insist(client, work, f"{rng.random()}")
        elif kind == "on success":
            self._ask(client, kind, "/api/v1/run/", work | self._nested(rng) | {"fail": rng.random() < 0.5})
        else:
            nested = self._nested(rng) if kind == "nested" else {}
            self._ask(client, kind, "/run/", work | nested | {"fail": kind == "fails"})

    def _nested(self, rng: random.Random) -> dict[str, Any]:
        ways = (f"/run/{self.service}", f"/run_async/{self.service}")
        budgets = (None, 100, 400, 100_000)
        return {"calls": [[rng.choice(ways), rng.choice(budgets), {"seconds": 0.1}] for _ in range(rng.randint(1, 3))]}

    def _cancelled(self, client: httpx.Client, work: dict[str, Any], after: float) -> None:
        run_id = self._ask(client, "cancelled", "/run_async/", work | {"seconds": 2.0})
        if run_id:
            self._over.wait(after)
            _status(client, "DELETE", f"/request/{run_id}")

    def _insist(self, client: httpx.Client, work: dict[str, Any], key: str) -> None:
        headers = {"Idempotency-Key": key, "X-On-Timeout": "continue"}
        for _ in range(REPEATS):
            if self._ask(client, "durable", "/run/", work, headers):
                return
            if self._over.wait(0.5):
                return

    def _ask(
        self, client: httpx.Client, kind: str, way: str, work: dict[str, Any], headers: dict[str, str] | None = None
    ) -> str | None:
        """The run's id where the answer is 200."""
        try:
            answer = client.post(f"{way}{self.service}", content=json.dumps(work), headers={**_JSON, **(headers or {})})
        except httpx.HTTPError:
            self.told[kind, 0] += 1
            return None
        self.told[kind, answer.status_code] += 1
        return answer.headers["x-request-id"] if answer.status_code == 200 else None


def _status(client: httpx.Client, method: str, path: str, body: Any = None) -> int:
    """0: hung up."""
    try:
        return client.request(method, path, json=body).status_code
    except httpx.HTTPError:
        return 0
