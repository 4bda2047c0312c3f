"""Callers: they ask for runs while things break, and keep a history of what they were told."""

import json
import queue
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import httpx

from tests.e2e.mesh import Mesh
from tests.faults.promise import ASYNCHRONOUS, DIRECT, DURABLE, History, Record, Request, Told

AT_ONCE = 6
# A caller without an answer by then has hung up.
PATIENCE_SECONDS = 30.0
REPEATS = 8
# Over 64 KiB: such a body goes through the filestore.
LARGE = 100_000
# Each run has a budget, so that it has a purse of its own.
BUDGET = {"X-Budget": "1000000"}
# More than it has taken for its first seconds pays for.
MUCH_EGRESS = 2_000_000


class Callers:
    """`ask` so many asynchronous and synchronous runs of `service`; `history` grows meanwhile."""

    def __init__(self, mesh: Mesh, service: str, rng: random.Random, history: History) -> None:
        self.history = history
        self.last_asked = 0.0
        # Whether runs need more credit than they begin with.
        self.takes_steps = False
        self.failures: list[BaseException] = []
        self.mesh = mesh
        self._service = service
        self._rng = rng
        self._last = 0

    def ask(self, asynchronous: int, synchronous: int, seconds: float) -> None:
        """Spread over so many seconds, in any order; returns when all were answered."""
        kinds = [ASYNCHRONOUS] * asynchronous + [(DIRECT, DURABLE)[number % 2] for number in range(synchronous)]
        self._rng.shuffle(kinds)
        waiting: queue.SimpleQueue[tuple[float, Request, dict[str, Any]]] = queue.SimpleQueue()
        start = time.monotonic()
        for number, kind in enumerate(kinds):
            self._last += 1
            request = Request(f"token-{self._last}", kind)
            self.history.requests.append(request)
            waiting.put((start + seconds * number / len(kinds), request, self._work(request.token)))
        failures: list[BaseException] = []
        callers = [threading.Thread(target=self._caller, args=(waiting, failures)) for _ in range(AT_ONCE)]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        self.last_asked = time.monotonic()
        self.failures += failures

    def _work(self, token: str) -> dict[str, Any]:
        """What one run is to do."""
        before, after = (round(self._rng.uniform(0, 0.3), 2) for _ in range(2))
        return {
            "token": token,
            "before": before,
            "after": after,
            "more": "x" * (LARGE if self._rng.random() < 0.1 else 0),
            **({"egress": MUCH_EGRESS, "after": 1.6} if self.takes_steps else {}),
        }

    def _caller(self, waiting: Any, failures: list[BaseException]) -> None:
        try:
            with self.mesh.http(timeout=PATIENCE_SECONDS) as client:
                while True:
                    due, request, work = waiting.get_nowait()
                    time.sleep(max(0.0, due - time.monotonic()))
                    {ASYNCHRONOUS: self._start, DIRECT: self._call, DURABLE: self._insist}[request.kind](
                        client, request, json.dumps(work).encode()
                    )
        except queue.Empty:
            return
        except BaseException as error:  # noqa: BLE001  # the test's thread raises it
            failures.append(error)

    def _start(self, client: httpx.Client, request: Request, work: bytes) -> None:
        request.told.append(told(lambda: client.post(f"/run_async/{self._service}", content=work, headers=BUDGET)))

    def _call(self, client: httpx.Client, request: Request, work: bytes) -> None:
        request.told.append(told(lambda: client.post(f"/run/{self._service}", content=work)))

    def _insist(self, client: httpx.Client, request: Request, work: bytes) -> None:
        """Until there is an answer: what a caller may do who sends an Idempotency-Key."""
        headers = {"Idempotency-Key": request.token, "X-On-Timeout": "continue", **BUDGET}
        for _ in range(REPEATS):
            answer = told(lambda: client.post(f"/run/{self._service}", content=work, headers=headers))
            request.told.append(answer)
            if answer.status not in {0, 500, 503, 504}:
                return
            time.sleep(0.5)

    def look(self) -> bool:
        """Reads the history as the platform tells it; whether all that it knows is over."""
        records = list(_listed(self.mesh))
        for record in records:
            self.history.saw(record)
            self.history.listed[record.id] = record
        known = {record.id for record in records}
        accepted = {one for each in self.history.requests if each.kind != DIRECT for one in each.accepted}
        return accepted <= known and all(record.status not in {"queued", "running"} for record in records)

    def serves(self) -> bool:
        """Whether a call goes through, and the bus works: a log can be followed to its end."""
        self._last += 1
        request = Request(f"token-{self._last}", DIRECT)
        self.history.requests.append(request)
        work = json.dumps({"token": request.token, "before": 0, "after": 0}).encode()
        with self.mesh.http() as client:
            self._call(client, request, work)
            run_id = request.told[-1].run_id
            return request.told[-1].status == 200 and client.get(f"/logs/{run_id}").status_code == 200

    def read_all(self) -> bool:
        """Each run by itself."""
        with self.mesh.http() as client:
            for run_id in self.history.listed:
                answer = client.get(f"/request/{run_id}")
                assert answer.status_code == 200, answer.text
                record = record_of(answer.json())
                self.history.records[run_id] = record
                self.history.saw(record)
        return True


def told(ask: Callable[[], httpx.Response]) -> Told:
    """What came of it."""
    try:
        answer = ask()
    except httpx.HTTPError:
        return Told(0)
    fields: dict[str, Any] = {}
    with suppress(ValueError):
        fields = answer.json()
    run_id = fields.get("request_id", "")
    if answer.status_code == 200:
        run_id = answer.headers["x-request-id"]
    return Told(answer.status_code, run_id if run_id.startswith("run_") else "", fields.get("code", ""))


def _listed(mesh: Mesh) -> list[Record]:
    records: list[Record] = []
    after = ""
    with mesh.http() as client:
        while True:
            answer = client.get("/requests", params={"limit": 1000, "after": after} if after else {"limit": 1000})
            assert answer.status_code == 200, answer.text
            page = answer.json()
            records += [record_of(item) for item in page["items"] if item["status"] != "provisioned"]
            after = page["next"]
            if not after:
                return records


def record_of(fields: dict[str, Any]) -> Record:
    """The part of a record that is promised something about."""
    usage, answered = fields.get("usage"), fields.get("responseStatus")
    return Record(
        fields["id"],
        fields["status"],
        fields.get("attempt") or 1,
        fields.get("code") or (f"answered {answered}" if answered else ""),
        fields.get("detail") or (f"it answered {answered}" if answered else ""),
        json.dumps(usage, sort_keys=True) if usage else "",
    )
