"""/api/v1/run and its stream, and what prompts are given, over fakes of the mesh."""

import json
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from edge.calls import Calls
from edge.contacts import Contacts
from edge.deltas import MAX_LINE_BYTES, Whole
from edge.diff import Diffs
from edge.direct import Direct
from edge.durable import Durable
from edge.history import History
from edge.http import Answer, Request
from edge.inputs import read_inputs
from edge.logs import Logs
from edge.model import Principal
from edge.patience import Errands
from edge.published import MAX_RESULT_BYTES
from edge.reading import Reading
from edge.replay import Replays
from edge.results import Results
from edge.run_model import AnswerHead, BodyComplete, Limits, Outcome, Status, Target
from edge.run_wire import to_spec
from edge.runs import RunHandlers
from kit.clock import FakeClock
from kit.errors import Denied, Invalid, NotFound, Problem
from kit.names import new_id
from tests.fakes.edge_runs import (
    CALLER,
    KEY,
    NOW,
    ONE_TIME,
    OWNER,
    FakeExecutor,
    FakeLogBus,
    FakeRuns,
    FakeWorkflows,
    MemoryBlobs,
    Step,
    a_request,
    body_of,
    chunks,
    nested,
)
from tests.fakes.permits import UNLIMITED

CODE = Target(OWNER, "greet", "ver_1", "public", published=True)
PROMPT = replace(CODE, service_id="wf_1", variables=("story", "mood"))
DRAFT = replace(CODE, service_id="draft", published=False)
DONE: tuple[Step, ...] = (BodyComplete(), Outcome(Status.SUCCEEDED))


def head(status: int = 200, kind: str = "application/json", **more: str) -> AnswerHead:
    return AnswerHead(status, (("content-type", kind), *more.items()))


class Mesh:
    def __init__(self, errands: Errands) -> None:
        clock, blobs = FakeClock(NOW), MemoryBlobs()
        self.runs = FakeRuns()
        self.executor = FakeExecutor(head(), b'{"result": "hi"}', *DONE)
        self.workflows = FakeWorkflows(greet=CODE, wf_1=PROMPT, draft=DRAFT)
        self.runs.after_submit = lambda record: replace(record, status=Status.RUNNING, executor="unix:one")
        reading = Reading(self.runs, clock)
        durable = Durable(self.runs, reading, self.executor, blobs, clock, errands, "http://public.test")
        self.handlers = RunHandlers(
            calls=Calls(self.workflows, UNLIMITED, clock),
            direct=Direct(self.executor, clock, errands, "http://public.test"),
            durable=durable,
            provisioning=self.runs,
            results=Results(reading, blobs, clock),
            history=History(self.runs, reading),
            logs=Logs(reading, FakeLogBus(), blobs, clock),
            contacts=Contacts(reading, blobs, clock),
            replays=Replays(reading, self.runs, self.workflows, UNLIMITED, self.workflows, durable, blobs, clock),
            diffs=Diffs(reading, blobs),
        )

    def answers(self, *script: Step) -> None:
        self.executor.script = script

    async def run(self, body: Any = None, name: str = "greet", **more: Any) -> tuple[int, dict[str, Any]]:
        answer = await self.handlers.published.run(asked(name, body, **more))
        return answer.status, json.loads(await body_of(answer))

    async def stream(self, body: Any = None, name: str = "greet", **more: Any) -> list[tuple[str, dict[str, Any]]]:
        answer = await self.handlers.published.stream(asked(name, body, **more))
        assert (answer.status, dict(answer.headers)["content-type"]) == (200, "text/event-stream")
        return events(await body_of(answer))


@pytest.fixture
async def mesh() -> AsyncIterator[Mesh]:
    async with Errands(grace=5) as errands:
        yield Mesh(errands)


def asked(name: str, body: Any = None, *, who: Principal = KEY, **headers: str) -> Request:
    raw = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
    given = {"content-length": str(len(raw)), "accept-encoding": "gzip", **headers}
    request = a_request("/", raw, who=who, headers={key.replace("_", "-"): value for key, value in given.items()})
    return replace(request, path=f"/api/v1/run/{name}", params={"workflow_id": name})


def events(raw: bytes) -> list[tuple[str, dict[str, Any]]]:
    found = []
    for block in raw.decode().split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((fields.get("event", ""), json.loads(fields["data"])))
    return found


async def test_what_the_workflow_gets(mesh: Mesh) -> None:
    status, _ = await mesh.run(b' {"a": 1}', x_mine="1", accept="image/png", content_type="text/odd")
    (spec,) = mesh.executor.specs
    assert (status, mesh.executor.bodies) == (200, [b' {"a": 1}'])
    assert (spec.request.method, spec.request.path) == ("POST", "/")
    headers = dict(spec.request.headers)
    assert headers == {
        "host": "mesh.test", "x-mine": "1", "accept": "application/json", "content-type": "application/json",
        "content-length": "9",
    }  # fmt: skip


async def test_only_success_is_charged_and_there_are_300_seconds(mesh: Mesh) -> None:
    await mesh.run()
    (spec,) = mesh.executor.specs
    assert spec.charged_on_success
    assert to_spec(spec).charged_on_success
    assert spec.deadline == NOW + timedelta(seconds=300)
    mesh.workflows.targets["greet"] = replace(CODE, limits=Limits(api_timeout=timedelta(seconds=7)))
    await mesh.run()
    assert mesh.executor.specs[1].deadline == NOW + timedelta(seconds=7)
    await mesh.run(who=nested(deadline=NOW + timedelta(seconds=3)))
    assert mesh.executor.specs[2].deadline == NOW + timedelta(seconds=3)
    await mesh.handlers.run(a_request())
    assert (mesh.executor.specs[3].charged_on_success, mesh.executor.specs[3].deadline) == (
        False,
        NOW + timedelta(seconds=120),
    )


@pytest.mark.parametrize(
    ("kind", "raw", "told"),
    [
        ("application/json", b'{"result": [1], "more": 2}', {"result": [1]}),
        ("application/json", b'{"result": "x", "citations": [1]}', {"result": "x", "citations": [1]}),
        ("application/json", b'{"citations": [1]}', {"result": {"citations": [1]}}),
        ("application/json", b"[1, 2]", {"result": [1, 2]}),
        ("application/json", b"null", {"result": None}),
        ("application/json", b'"text"', {"result": "text"}),
        ("application/json", b"{broken", {"result": "{broken"}),
        ("application/vnd.x+json", b"{}", {"result": {}}),
        ("text/plain; charset=latin-1", b"\xe9", {"result": "é"}),
        ("text/plain; charset=odd", b"a", {"result": "a"}),
        ("text/plain; charset=zlib", b"a", {"result": "a"}),
        ("text/plain; charset=punycode", b"a-b", {"result": "a-b"}),
        ("text/html", b"<p>", {"result": "<p>"}),
        ("text/plain", b"null", {"result": "null"}),
        ("text/plain", b"", {"result": ""}),
    ],
)  # fmt: skip
async def test_results(mesh: Mesh, kind: str, raw: bytes, told: dict[str, Any]) -> None:
    mesh.answers(head(kind=kind), raw, *DONE)
    assert await mesh.run() == (200, {"success": True, **told})
    assert (await mesh.stream())[-1] == ("end", {"success": True, **told})


async def test_an_answer_that_is_no_text(mesh: Mesh) -> None:
    mesh.answers(head(kind="image/png"), b"\x89PNG\xff", *DONE)
    status, told = await mesh.run()
    assert (status, told["success"], told["code"]) == (501, False, "not_supported")
    ((name, told),) = await mesh.stream()
    assert (name, told["code"], told["success"]) == ("error", "not_supported", False)


async def test_a_result_that_is_too_large(mesh: Mesh) -> None:
    mesh.answers(head(kind="text/plain"), b"x" * MAX_RESULT_BYTES, b"x", *DONE)
    status, told = await mesh.run()
    assert (status, told["code"]) == (502, "too_much_output")
    await mesh.executor.left.wait()
    assert (await mesh.stream())[-1][1]["code"] == "too_much_output"


@pytest.mark.parametrize(
    ("status", "raw", "detail", "code"),
    [
        (400, b'{"detail": "no", "code": "mine"}', "no", "mine"),
        (402, b'{"error": "pay"}', "pay", "payment_required"),
        (404, b"nothing", "nothing", "not_found"),
        (418, b"", "the workflow answered 418", "bad_request"),
        (422, b'{"detail": [{"loc": ["body"]}]}', '[{"loc": ["body"]}]', "bad_request"),
        (429, b'{"detail": "\\ud800", "code": 7}', "?", "rate_limited"),
        (500, b"\xff", "\ufffd", "workflow_crashed"),
        (503, b"[]", "[]", "unavailable"),
    ],
)
async def test_a_workflows_own_error(mesh: Mesh, status: int, raw: bytes, detail: str, code: str) -> None:
    mesh.answers(head(status, **{"retry-after": "7", "x-own": "1"}), raw, *DONE)
    for handler in (mesh.handlers.published.run, mesh.handlers.published.stream):
        answer = await handler(asked("greet"))
        headers = dict(answer.headers)
        told = json.loads(await body_of(answer))
        assert answer.status == status
        assert (headers["error-origin"], headers["retry-after"]) == ("service", "7")
        assert "x-own" not in headers
        assert told == {
            "success": False, "error": detail, "detail": detail, "code": code, "request_id": headers["x-request-id"],
        }  # fmt: skip


async def test_an_error_of_the_platforms(mesh: Mesh) -> None:
    mesh.answers(Outcome(Status.TIMED_OUT, "timeout", "the run passed its time limit"))
    status, told = await mesh.run()
    assert (status, told["success"], told["code"], told["error"]) == (504, False, "timeout", told["detail"])
    assert told["request_id"] == mesh.executor.specs[0].run_id
    mesh.answers(head(kind="text/plain"), b"some", Outcome(Status.FAILED, "workflow_crashed", "boom"))
    status, told = await mesh.run()
    assert (status, told["success"], told["code"]) == (502, False, "workflow_crashed")


@pytest.mark.parametrize("name", ["draft", "unknown", "org_x.wf_1", "wf_1@99", "../x", "x" * 400, "a b"])
async def test_what_isnt_published_isnt_there(mesh: Mesh, name: str) -> None:
    told = set()
    for wanted in (name, "unknown"):
        with pytest.raises(NotFound) as refused:
            await mesh.run(name=wanted)
        told.add(refused.value.code)
    assert told == {"not_found"}
    if name in {"draft", "org_x.wf_1"}:
        assert refused.value.message == await told_of(mesh, name)
    assert mesh.executor.specs == []


async def told_of(mesh: Mesh, name: str) -> str:
    with pytest.raises(NotFound) as refused:
        await mesh.run(name=name)
    return refused.value.message


async def test_a_draft_runs_under_its_own_name(mesh: Mesh) -> None:
    assert (await mesh.handlers.run(a_request(service="draft"))).status == 200


async def test_scopes_hold(mesh: Mesh) -> None:
    for who in (Principal("k", CALLER, "standard", frozenset({"run:other"})),):
        with pytest.raises(Denied):
            await mesh.run(who=who)
    assert (await mesh.run(who=Principal("k", CALLER, "standard", frozenset({"run:greet"}))))[0] == 200


async def test_a_one_time_key_goes_the_durable_way(mesh: Mesh) -> None:
    assert (await mesh.run(who=ONE_TIME))[1] == {"success": True, "result": "hi"}
    (submission,) = mesh.runs.submissions
    assert submission.spec.charged_on_success


async def test_one_idempotency_key_isnt_for_both_ways(mesh: Mesh) -> None:
    await mesh.run(idempotency_key="k")
    await mesh.handlers.run(a_request("/", b"{}", headers={"idempotency-key": "k"}))
    first, second = mesh.runs.submissions
    assert first.fingerprint != second.fingerprint


@pytest.mark.parametrize("raw", [b"[]", b"7", b'"x"', b"{", b"\xff", b"[" * 100_000, b'{"a":' * 100_000])
async def test_bodies_of_the_wrong_shape(mesh: Mesh, raw: bytes) -> None:
    for name in ("greet", "wf_1"):
        for attempt in (mesh.run(raw, name), mesh.stream(raw, name)):
            with pytest.raises(Invalid) as refused:
                await attempt
            assert refused.value.code == "bad_request"
    assert mesh.executor.specs == []


@pytest.mark.parametrize("raw", [b"", b" ", b"null"])
async def test_no_body_is_an_empty_object(mesh: Mesh, raw: bytes) -> None:
    assert (await mesh.run(raw))[0] == 200
    assert mesh.executor.bodies == [b"{}"]
    assert dict(mesh.executor.specs[0].request.headers)["content-length"] == "2"


# ── Prompts.


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({}, "missing: 'story', 'mood'"),
        ({"story": 1}, "missing: 'mood'"),
        ({"inputs": {"story": 1, "mood": 2, "x": 3}}, "unknown: 'x'"),
        ({"inputs": {"story": 1, "y": 3}, "mood": 2}, "missing: 'story'; unknown: 'inputs'"),
    ],
)
async def test_inputs_are_judged_before_anything_runs(mesh: Mesh, body: Any, why: str) -> None:
    for attempt in (
        mesh.run(body, "wf_1"),
        mesh.stream(body, "wf_1"),
        mesh.handlers.run(a_request("/", json.dumps(body).encode(), service="wf_1")),
        mesh.handlers.run_async(a_request("/", json.dumps(body).encode(), service="wf_1")),
    ):
        with pytest.raises(Invalid) as refused:
            await attempt
        assert why in refused.value.message
        assert refused.value.code == "bad_request"
    assert (mesh.executor.specs, mesh.runs.submissions) == ([], [])


async def test_inputs_that_match_pass_as_they_were_sent(mesh: Mesh) -> None:
    for body in ({"story": 1, "mood": None}, {"inputs": {"mood": [], "story": "x"}}):
        assert (await mesh.run(body, "wf_1"))[0] == 200
        assert (await mesh.handlers.run(a_request("/", json.dumps(body).encode(), service="wf_1"))).status == 200
        assert mesh.executor.bodies[-2:] == [json.dumps(body).encode()] * 2


async def test_a_large_body_is_judged_too() -> None:
    raw = json.dumps({"story": "x" * 200_000}).encode()
    assert await read_inputs(chunks(raw[:9], raw[9:]), ["story"]) == raw
    with pytest.raises(Invalid):
        await read_inputs(chunks(raw), ["other"])


async def test_a_body_over_the_limit_is_refused(mesh: Mesh) -> None:
    mesh.workflows.targets["greet"] = replace(CODE, limits=Limits(request_bytes=10))
    for more in ({}, {"content_length": ""}):
        with pytest.raises(Problem) as refused:
            await mesh.run({"long": "x" * 20}, **more)
        assert refused.value.code == "too_large"


# ── Streams.


async def test_events_become_deltas(mesh: Mesh) -> None:
    mesh.answers(
        head(kind="text/event-stream; charset=utf-8"),
        b'data: {"delta": "On',
        'ce é"}\r\n\r'.encode()[:6],
        'ce é"}\r\n\r'.encode()[6:],
        b'\n: comment\nid: 7\ndata: plain\ndata:text\n\ndata: {"x": 1}\n\ndata: [DONE]\n\n',
        b'event: end\ndata: {"result": "Whole", "citations": [{"url": "u", "title": "t"}]}\n\n',
        *DONE,
    )
    assert await mesh.stream() == [
        ("", {"delta": "Once é"}),
        ("", {"delta": "plain\ntext"}),
        ("", {"delta": '{"x": 1}'}),
        ("end", {"success": True, "result": "Whole", "citations": [{"url": "u", "title": "t"}]}),
    ]
    assert dict(mesh.executor.specs[0].request.headers)["accept"] == "text/event-stream"


async def test_the_end_has_all_that_was_said_where_the_workflow_says_no_more(mesh: Mesh) -> None:
    mesh.answers(head(kind="text/event-stream"), b"data: a\n\ndata: b\n\ndata: unfinished", *DONE)
    assert (await mesh.stream())[-1] == ("end", {"success": True, "result": "ab"})
    assert await mesh.run() == (200, {"success": True, "result": "ab"})


async def test_a_line_that_is_too_long_breaks_the_stream(mesh: Mesh) -> None:
    mesh.answers(head(kind="text/event-stream"), b"data: a\n\ndata: ", b"x" * MAX_LINE_BYTES, *DONE)
    status, told = await mesh.run()
    assert (status, told["success"], told["code"]) == (502, False, "too_much_output")
    first, (name, told) = await mesh.stream()
    assert first == ("", {"delta": "a"})
    assert (name, told["code"]) == ("error", "too_much_output")
    await mesh.executor.left.wait()


async def test_text_comes_as_it_is_made(mesh: Mesh) -> None:
    mesh.answers(head(kind="text/plain"), b"caf\xc3", b"\xa9 ", b"noir", *DONE)
    deltas = [("", {"delta": text}) for text in ("caf", "é ", "noir")]
    assert await mesh.stream() == [*deltas, ("end", {"success": True, "result": "café noir"})]


async def test_json_is_one_event(mesh: Mesh) -> None:
    assert await mesh.stream() == [("end", {"success": True, "result": "hi"})]


async def test_the_end_of_a_stream_is_no_work_for_the_loop(mesh: Mesh, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = []
    end = Whole.end

    def noted(whole: Whole) -> dict[str, Any]:
        threads.append(threading.current_thread())
        return end(whole)

    monkeypatch.setattr(Whole, "end", noted)
    assert await mesh.stream() == [("end", {"success": True, "result": "hi"})]
    assert threads
    assert threading.current_thread() not in threads


async def test_a_stream_that_fails_ends_with_an_error(mesh: Mesh) -> None:
    crashed = Outcome(Status.FAILED, "workflow_crashed", "boom")
    told = b'event: error\ndata: {"detail": "no credits", "code": "payment_required"}\n\n'
    for script, code, error in [
        ([b"data: a\n\n", crashed], "workflow_crashed", "the workflow crashed"),
        ([b"data: a\n\n", told, crashed], "payment_required", "no credits"),
        ([b"data: a\n\n", told, *DONE], "payment_required", "no credits"),
        ([b"data: a\n\n", b"event: error\ndata: odd\n\n", *DONE], "workflow_crashed", "odd"),
        ([b"data: a\n\n", b"event: error\ndata: {}\n\n", *DONE], "workflow_crashed", "no reason"),
        ([b"data: a\n\n", b"event: error\n\n", *DONE], "workflow_crashed", "no reason"),
    ]:
        mesh.answers(head(kind="text/event-stream"), *script)  # type: ignore[misc]
        first, last = await mesh.stream()
        assert first == ("", {"delta": "a"})
        assert (last[0], last[1]["success"], last[1]["code"]) == ("error", False, code)
        assert error in last[1]["error"]
        assert last[1]["request_id"] == mesh.executor.specs[-1].run_id
    mesh.answers(head(kind="text/event-stream"), told, *DONE)
    assert (await mesh.run())[0] == 502


async def test_leaving_a_stream_ends_the_run(mesh: Mesh) -> None:
    mesh.answers(head(kind="text/event-stream"), b"data: a\n\n", b"data: b\n\n", *DONE)
    answer: Answer = await mesh.handlers.published.stream(asked("greet", x_correlation_id=new_id("c")))
    assert isinstance(answer.body, AsyncGenerator)
    assert await anext(answer.body) == b'data: {"delta":"a"}\n\n'
    await answer.body.aclose()
    await mesh.executor.left.wait()
    assert not mesh.executor.ended.is_set()
