"""The run endpoints (SPEC §3), as handlers to mount. Read: calls, direct, durable, answers; reading, record, results,
loglines, logs, history; replay, diff.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Protocol

from edge.calls import Call, Calls
from edge.contacts import Contacts
from edge.diff import Diffs
from edge.direct import Direct
from edge.durable import Durable
from edge.history import History
from edge.http import Answer, Handler, Request, json_answer
from edge.logs import Logs
from edge.problems import refusal
from edge.published import Published
from edge.replay import Replays
from edge.results import Results
from edge.run_model import Trigger
from kit.errors import Problem


class Provisioning(Protocol):
    """The scheduler's ids to be."""

    async def provision(self, organization_id: str, key_id: str) -> str:
        """A new id for the organization. Errors: Unavailable."""


class RunHandlers:
    """run, run_async, accepted, provision, result, request_get, request_delete, requests, logs, steps, egress, replay,
    diff; `published` has those of /api/v1.
    """

    def __init__(
        self,
        calls: Calls,
        direct: Direct,
        durable: Durable,
        provisioning: Provisioning,
        results: Results,
        history: History,
        logs: Logs,
        contacts: Contacts,
        replays: Replays,
        diffs: Diffs,
    ) -> None:
        self._calls = calls
        self._direct = direct
        self._durable = durable
        self._provisioning = provisioning
        self._logs = logs
        self.result = results.result
        self.request_get = results.request
        self.requests = history.requests
        self.request_delete = history.cancel
        self.logs = logs.logs
        self.steps = logs.steps
        self.egress = contacts.egress
        self.replay = replays.replay
        self.diff = diffs.diff
        self.published = Published(self.called)

    async def run(self, request: Request) -> Answer:
        """The workflow's own answer, or why there is none."""
        return (await self.called(request))[1]

    async def called(self, request: Request, *, published: bool = False) -> tuple[Call, Answer]:
        """The call that was made of it, and its answer. `published`: as /api/v1 runs it."""
        async with self._told(request):
            call = await self._calls.read(request, synchronous=True, published=published)
            if not call.durable:
                return call, await self._direct.run(call)
            run_id = await self._durable.submit(call)
        try:
            return call, await self._durable.answer(call, run_id)
        except Problem as problem:  # the run goes on: its id is what the caller needs now
            answer = refusal(problem, request_id=run_id)
            answer.headers += ids(call, run_id)
            return call, answer

    def library(self, service_id: str) -> Handler:
        """`run` of a library service that has a path of its own."""

        async def run(request: Request) -> Answer:
            return await self.run(replace(request, params={"path": "/", **request.params, "service_id": service_id}))

        return run

    async def run_async(self, request: Request) -> Answer:
        """The run's id, once it is durably accepted."""
        return await self.accepted(request, Trigger.API)

    async def accepted(self, request: Request, trigger: Trigger) -> Answer:
        """`run_async`, by whatever it is that asks for it."""
        async with self._told(request):
            call = await self._calls.read(request, synchronous=False)
            if call.spec.trigger is Trigger.API:
                call = replace(call, spec=replace(call.spec, trigger=trigger))
            run_id = await self._durable.submit(call)
        return json_answer({"request_id": run_id}, headers=ids(call, run_id))

    async def provision(self, request: Request) -> Answer:
        """An id to follow a run that hasn't started."""
        who = request.who
        return json_answer({"request_id": await self._provisioning.provision(who.organization_id, who.key_id)})

    @asynccontextmanager
    async def _told(self, request: Request) -> AsyncIterator[None]:
        """A refusal ends the log of the id that was provisioned for the run."""
        try:
            yield
        except Problem as problem:
            provisioned_id = request.header("x-provisioned-request-id")
            if provisioned_id:
                await self._logs.refuse(request.who, provisioned_id, problem)
            raise


def ids(call: Call, run_id: str) -> list[tuple[str, str]]:
    """The headers that tell the caller which run this is."""
    return [("x-request-id", run_id), ("x-correlation-id", call.spec.correlation_id or run_id)]
