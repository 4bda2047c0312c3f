# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34", "nats-py>=2.16,<3"]
# [tool.env-checker]
# env_vars = ["RUNMESH_CHROME_EXTENSION_NATS_URL", "RUNMESH_CHROME_EXTENSION_BYTES=268435456"]
# [tool.runmesh]
# egress = []
# ///
"""Somebody's own browser, acting on pages: /actions {"actions": [{"type": "navigate", "url": …}, …]} gives {"success",
"data": {"html", …}}. The extension in the folder chrome_extension/ fetches what is to be done by /poll, says by /renew
that it is still at it, and by /result what came of it.

Each organization has a queue in a bucket of JetStream, which is one value: whoever changes it first has changed it, so
that a job is one browser's. A browser that falls silent loses its job to the next one.
"""

import asyncio
import json
import os
import re
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import FastAPI, Request, Response
from nats.aio.client import Client
from pydantic import BaseModel, ConfigDict, Field, model_validator

from library.parts.bucket import Bucket, Entry, connected
from library.parts.refusals import Refused, organization_of, tells_refusals

NATS_URL = os.environ["RUNMESH_CHROME_EXTENSION_NATS_URL"]
MOST_BYTES = int(os.environ["RUNMESH_CHROME_EXTENSION_BYTES"])
MOST_WAITING = 20  # jobs of one organization
MOST_ACTIONS, MOST_JOB = 100, 256 << 10
MOST_RESULT, PART = 8 << 20, 700_000
MOST_BROWSERS = 50  # of one organization
MOST_KEPT = max(MOST_BYTES // 8, MOST_RESULT + (1 << 20))  # of one organization: the bucket is everybody's
LEASE_SECONDS = 20.0
# A browser that polls is there for so long besides: its worker may be asleep, and an alarm wakes it after 30 s.
GRACE_SECONDS = 40.0
KEPT_SECONDS = 60.0
LOOK_SECONDS = 5.0  # should a message be lost
NO_BROWSER = (
    "no browser of your organization is connected: load the extension (library/chrome_extension in Runmesh's source) "
    "in Chrome, and give it the platform's address and a key in its options"
)
Selector = Annotated[str, Field(min_length=1, max_length=2000)]
Queue = dict[str, Any]

app = FastAPI(title="chrome_extension")
tells_refusals(app)


class Action(BaseModel):
    """One step. `selector` is one of CSS; `ms` and `timeout` are milliseconds."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["navigate", "wait", "click", "type", "extract", "extract_html", "screenshot"]
    url: str | None = Field(None, max_length=8192, pattern="^https?://")
    selector: Selector | None = None
    text: str | None = Field(None, max_length=100_000)
    submit: bool = False  # after `type`: as Enter does
    attribute: str | None = Field(None, max_length=200)  # `extract`: this, in place of the text
    all: bool = False  # `extract`: of each that matches
    ms: int | None = Field(None, ge=0, le=60_000)
    timeout: int = Field(10_000, ge=0, le=60_000)  # for what is to be there

    @model_validator(mode="after")
    def complete(self) -> "Action":
        """Each has what it needs."""
        needs = {"navigate": ("url",), "click": ("selector",), "type": ("selector", "text")}
        missing = [name for name in needs.get(self.type, ()) if getattr(self, name) is None]
        if self.type == "wait" and (self.ms is None) == (self.selector is None):
            missing = ["ms or selector"]
        if missing:
            raise ValueError(f"{self.type} needs {' and '.join(missing)}")
        return self


class Wanted(BaseModel):
    """`timeout`: seconds until there has to be an answer; `attempts`: how many browsers may begin, one after the other,
    where one falls silent: 1 for what mustn't be done twice.
    """

    model_config = ConfigDict(extra="forbid")
    actions: list[Action] = Field(min_length=1, max_length=MOST_ACTIONS)
    timeout: float = Field(60, ge=1, le=110)
    attempts: int = Field(2, ge=1, le=5)


class Polled(BaseModel):
    """A browser, by the id it gave itself, that waits so many seconds for work."""

    session: str = Field(pattern="^[A-Za-z0-9-]{8,64}$")
    wait: float = Field(25, ge=0, le=25)


class Held(BaseModel):
    """A job that a browser has, by its lease."""

    id: str = Field(pattern="^[a-f0-9]{32}$")
    lease: str = Field(max_length=64)


class Result(Held):
    """What came of it."""

    success: bool
    data: dict[str, Any] = {}
    error: str = Field("", max_length=2000)


class Desk:
    """One organization's jobs. Errors: Refused."""

    def __init__(self, client: Client, organization: str) -> None:
        self.client = client
        self.bucket = Bucket(client, "chrome_extension", MOST_BYTES)
        # A subject has its own signs.
        self.organization = re.sub(r"[^A-Za-z0-9_-]", "=", organization)

    @property
    def _queue(self) -> str:
        return f"queue.{self.organization}"

    def of(self, kind: str, job: str) -> str:
        """The key of a job's own."""
        return f"{kind}.{self.organization}.{job}"

    async def change(self, do: Callable[[Queue, float], bool]) -> Queue:
        """The queue, as `do` leaves it: it is kept if that says so, and may be asked again."""
        result: Queue = {}

        def new(entry: Entry) -> tuple[bytes, float | None] | None:
            nonlocal result
            now = time.time()
            result = {"jobs": [], "browsers": {}, "kept": {}} | (json.loads(entry.value) if entry.value else {})
            result["kept"] = {job: each for job, each in result["kept"].items() if each[1] > now}
            result["jobs"] = [job for job in result["jobs"] if job["until"] + KEPT_SECONDS > now]
            result["browsers"] = {name: until for name, until in result["browsers"].items() if until > now}
            return (json.dumps(result).encode(), now + 86400) if do(result, now) else None

        await self.bucket.change(self._queue, new)
        return result

    def reserve(self, queue: Queue, name: str, size: int, until: float) -> None:
        """So much may lie in the bucket until then, counted before it does. Errors: Refused."""
        size = max(size, queue["kept"].get(name, (0, 0))[0])
        if size + sum(each[0] for other, each in queue["kept"].items() if other != name) > MOST_KEPT:
            told = f"what your organization's browsers did or are to do takes more than {MOST_KEPT >> 20} MiB at once"
            raise Refused(413, "too_large", f"{told}: ask for less, or try again in a minute")
        queue["kept"][name] = [size, until]

    async def held(self, held: Held, do: Callable[[Queue, dict[str, Any], float], None]) -> None:
        """Changes a job that is this browser's. Errors: Refused when it isn't any more."""

        def new(queue: Queue, now: float) -> bool:
            job = next((job for job in queue["jobs"] if job["id"] == held.id and job["lease"] == held.lease), None)
            if job is None:
                told = "this job is over, or another browser's: forget it"
                raise Refused(409, "lease_lost", told)
            do(queue, job, now)
            return True

        await self.change(new)

    @asynccontextmanager
    async def hears(self, subject: str) -> AsyncIterator[Callable[[float], Any]]:
        """Gives what waits so many seconds at most for a word of that subject."""
        heard = await self.client.subscribe(subject)
        await self.client.flush()

        async def word(seconds: float) -> None:
            try:
                async with asyncio.timeout(max(0.0, seconds)):
                    await heard.next_msg(timeout=None)
            except TimeoutError:
                pass

        try:
            yield word
        finally:
            await heard.unsubscribe()


@asynccontextmanager
async def desk(request: Request) -> AsyncIterator[Desk]:
    """The caller's. Errors: Refused."""
    async with connected(NATS_URL, "chrome_extension") as client:
        yield Desk(client, organization_of(request))


@app.post("/actions")
async def act(wanted: Wanted, request: Request) -> Response:
    """Until a browser has done it. Errors: Refused."""
    job, until, answer = secrets.token_hex(16), time.time() + wanted.timeout, None
    actions = [action.model_dump(exclude_defaults=True) | {"type": action.type} for action in wanted.actions]
    body = json.dumps(actions).encode()
    if len(body) > MOST_JOB:
        raise Refused(413, "too_large", f"actions may have {MOST_JOB} bytes in all")

    def room(queue: Queue) -> None:
        if not queue["browsers"]:
            raise Refused(424, "no_browser", NO_BROWSER)
        if len(queue["jobs"]) >= MOST_WAITING:
            told = f"{MOST_WAITING} others wait for your organization's browsers already"
            raise Refused(429, "too_many_runs", told, retry_after=5)

    def announce(queue: Queue, _: float) -> bool:
        room(queue)
        at.reserve(queue, job, len(body), until + KEPT_SECONDS)
        return True

    def add(queue: Queue, _: float) -> bool:
        room(queue)  # others may have been faster
        fresh = {"id": job, "until": until, "attempts": wanted.attempts, "attempt": 0, "lease": "", "lease_until": 0}
        queue["jobs"].append(fresh)
        return True

    async with desk(request) as at:
        async with at.hears(at.of("done", job)) as word:
            await at.change(announce)
            try:
                await at.bucket.put(at.of("job", job), body, until + KEPT_SECONDS)
                await at.change(add)
                await at.client.publish(f"wake.{at.organization}")
                while (answer := await _answer(at, job)) is None and time.time() < until:
                    await word(min(LOOK_SECONDS, until - time.time()))
            finally:
                last = await _withdraw(at, job, answered=answer is not None)
        if answer is None and not last:  # it was done just then
            answer = await _answer(at, job)
        if answer is None:
            raise Refused(504, "timeout", _why_late(last, wanted.timeout))
    return Response(answer, media_type="application/json")


async def _answer(at: Desk, job: str) -> bytes | None:
    """What a browser has said, None if nothing yet."""
    found = await at.bucket.get(at.of("result", job))
    if found.value is None:
        return None
    parts = [await at.bucket.get(at.of("part", f"{job}.{number}")) for number in range(int(found.value))]
    for number in range(len(parts)):
        await at.bucket.delete(at.of("part", f"{job}.{number}"))
    await at.bucket.delete(at.of("result", job))
    return b"".join(part.value or b"" for part in parts)


async def _withdraw(at: Desk, job: str, *, answered: bool) -> dict[str, Any]:
    """The job, as it stood; nothing if it was done. If nobody has `answered`, what comes of it may be on its way."""
    taken: dict[str, Any] = {}

    def drop(queue: Queue, _: float) -> bool:
        taken.update(next((each for each in queue["jobs"] if each["id"] == job), {}))
        queue["jobs"] = [each for each in queue["jobs"] if each["id"] != job]
        gone = [queue["kept"].pop(name, None) for name in (job, f"{job}.result")[: 1 + answered]]
        return bool(taken) or any(gone)

    await at.bucket.delete(at.of("job", job))
    await at.change(drop)
    return taken


def _why_late(job: dict[str, Any], seconds: float) -> str:
    if job.get("attempt"):
        return f"a browser began, but wasn't done within {seconds:g} s: ask for less, or give it more `timeout`"
    return f"no browser was free within {seconds:g} s: others' actions are before yours, or it has gone to sleep"


@app.post("/poll")
async def poll(polled: Polled, request: Request) -> dict[str, Any]:
    """{"job": null}, or one that is this browser's until its lease ends. Errors: Refused."""
    end = time.time() + polled.wait
    claimed: dict[str, Any] = {}

    def claim(queue: Queue, now: float) -> bool:
        claimed.clear()
        if polled.session not in queue["browsers"] and len(queue["browsers"]) >= MOST_BROWSERS:
            raise Refused(429, "too_many_runs", f"{MOST_BROWSERS} browsers are connected already", retry_after=60)
        queue["browsers"][polled.session] = max(now, end) + GRACE_SECONDS
        free = [job for job in queue["jobs"] if job["until"] > now and job["lease_until"] <= now]
        if job := next((job for job in free if job["attempt"] < job["attempts"]), None):
            lease = {"lease": secrets.token_hex(16), "lease_until": now + LEASE_SECONDS}
            job.update(lease, attempt=job["attempt"] + 1)
            claimed.update(job)
        return True

    async with desk(request) as at, at.hears(f"wake.{at.organization}") as word:
        await at.change(claim)
        while not claimed and (left := end - time.time()) > 0:
            await word(min(LOOK_SECONDS, left))
            await at.change(claim)
        if not claimed:
            return {"job": None}
        body = await at.bucket.get(at.of("job", claimed["id"]))
    if body.value is None:  # nobody waits for it any more
        return {"job": None}
    job = {
        "id": claimed["id"],
        "lease": claimed["lease"],
        "lease_seconds": LEASE_SECONDS,
        "attempt": claimed["attempt"],
    }
    return {"job": {**job, "seconds": claimed["until"] - time.time(), "actions": json.loads(body.value)}}


@app.post("/renew")
async def renew(held: Held, request: Request) -> dict[str, Any]:
    """A lease that goes on. Errors: Refused."""

    def longer(queue: Queue, job: dict[str, Any], now: float) -> None:
        job["lease_until"] = now + LEASE_SECONDS

    async with desk(request) as at:
        await at.held(held, longer)
    return {"lease_seconds": LEASE_SECONDS}


@app.post("/result")
async def result(said: Result, request: Request) -> dict[str, Any]:
    """Is told to whoever asked for it. Errors: Refused."""
    error = {} if said.success else {"error": said.error or "it failed", "detail": said.error or "it failed"}
    whole = json.dumps({"success": said.success, "data": said.data, **error}).encode()
    if len(whole) > MOST_RESULT:
        told = f"what came of it has more than {MOST_RESULT >> 20} MiB: extract less"
        whole = json.dumps({"success": False, "data": {"html": ""}, "error": told, "detail": told}).encode()
    parts = [whole[at : at + PART] for at in range(0, len(whole), PART)]

    def check(queue: Queue, job: dict[str, Any], now: float) -> None:
        job["lease_until"] = now + LEASE_SECONDS
        at.reserve(queue, f"{said.id}.result", len(whole), now + KEPT_SECONDS)

    def done(queue: Queue, _: float) -> bool:
        queue["jobs"] = [each for each in queue["jobs"] if each["id"] != said.id]
        return True

    async with desk(request) as at:
        await at.held(said, check)
        kept = time.time() + KEPT_SECONDS
        for number, part in enumerate(parts):
            await at.bucket.put(at.of("part", f"{said.id}.{number}"), part, kept)
        await at.bucket.put(at.of("result", said.id), str(len(parts)).encode(), kept)
        await at.client.publish(at.of("done", said.id))
        await at.change(done)
    return {"accepted": True}


@app.get("/status")
async def status(request: Request) -> dict[str, Any]:
    """Which browsers are there, and how many jobs wait or are under way. Errors: Refused."""
    async with desk(request) as at:
        queue = await at.change(lambda _queue, _now: False)
    return {"browsers": sorted(queue["browsers"]), "jobs": len(queue["jobs"])}


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
