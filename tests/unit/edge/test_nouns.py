"""The handlers that start no run: edge.keys, secrets, workflows, files, platform."""

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from edge.files import FileHandlers
from edge.http import MAX_JSON_BYTES, Answer, Request
from edge.keys import KeyHandlers
from edge.model import LIMITS, ApiKey, Binding, Check, KeyWish, Principal, Prompt, Rates, SecretInfo, Upload, Workflow
from edge.platform import PlatformHandlers, merged
from edge.secrets import SecretHandlers
from edge.workflows import MAX_CODE_LENGTH, WorkflowHandlers
from kit.errors import Exhausted, Invalid, NotFound
from tests.fakes.edge_runs import CALLER, OWNER, nested
from tests.fakes.templates import MemoryTemplates

WHO = Principal("key_1", "org_1", "standard", frozenset({"admin", "deploy", "files"}))
THEN = datetime(2030, 1, 2, 3, 4, 5, 678900, tzinfo=UTC)
KEY = ApiKey("key_2", "mine", "standard", "cwk-abc", ("run", "files"), THEN)


async def sent(content: bytes) -> AsyncIterator[bytes]:
    yield content


def request(body: Any = None, query: str = "", **params: str) -> Request:
    raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
    return Request("POST", "/", query=query, body=sent(raw), principal=WHO, params=params)


def body(answer: Answer) -> Any:
    assert isinstance(answer.body, bytes)
    return json.loads(answer.body)


class FakeKeys:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    async def issue(self, *arguments: Any) -> tuple[ApiKey, str]:
        self.calls.append(arguments)
        return KEY, "cwk-secret"

    async def list_keys(self, *arguments: Any) -> tuple[list[ApiKey], str]:
        self.calls.append(arguments)
        return [KEY], "more"

    async def revoke(self, *arguments: Any) -> None:
        self.calls.append(arguments)

    async def rotate(self, *arguments: Any) -> tuple[ApiKey, str]:
        self.calls.append(arguments)
        return KEY, "cwk-next"

    async def create_organization(self, who: Principal, name: str) -> tuple[str, str]:
        return "org_2", f"cwk-of-{name}"

    async def set_rates(self, *arguments: Any) -> None:
        self.calls.append(arguments)


async def test_issuing_a_key() -> None:
    keys = FakeKeys()
    given = {"kind": "one_time", "name": "n", "scopes": ["run"], "expires_at": "2031-01-01T00:00:00Z"}
    assert body(await KeyHandlers(keys).issue(request(given))) == {
        "id": "key_2",
        "key": "cwk-secret",
        "kind": "standard",
        "prefix": "cwk-abc",
        "scopes": ["run", "files"],
        "expires_at": None,
        "bind": None,
        "budget": None,
        "rates": None,
    }
    assert keys.calls == [(WHO, KeyWish("one_time", "n", ("run",), datetime(2031, 1, 1, tzinfo=UTC)))]


async def test_a_key_with_a_binding_a_budget_and_rates() -> None:
    keys = FakeKeys()
    bind = {"service_id": "greet", "path": "/a", "body_sha256": "AB" * 32}
    given = {"kind": "one_time", "bind": bind, "budget": 0, "rates": {"per_second": 5}}
    await KeyHandlers(keys).issue(request(given))
    wish = KeyWish("one_time", bind=Binding("greet", "/a", "ab" * 32), budget=0, rates=Rates(5, None))
    assert keys.calls == [(WHO, wish)]


async def test_a_list_shows_what_a_key_is_for() -> None:
    class Bound(FakeKeys):
        async def list_keys(self, *arguments: Any) -> tuple[list[ApiKey], str]:
            bind = Binding(path="/a")
            return [replace(KEY, bind=bind, budget=5, budget_used=3, rates=Rates(None, 7)), KEY], ""

    bound, plain = body(await KeyHandlers(Bound()).list_keys(request()))["items"]
    assert (bound["bind"], bound["budget"], bound["budget_used"]) == ({"path": "/a"}, 5, 3)
    assert bound["rates"] == {"per_second": None, "api_per_minute": 7}
    assert (plain["bind"], plain["budget"], plain["budget_used"], plain["rates"]) == (None,) * 4


async def test_rates_of_an_organization() -> None:
    keys = FakeKeys()
    answer = body(await KeyHandlers(keys).set_rates(request({"per_second": 9}, organization_id="org_2")))
    assert answer == {"id": "org_2", "per_second": 9, "api_per_minute": None}
    assert keys.calls == [(WHO, "org_2", Rates(9, None))]
    for given in ({"per_second": 0}, {"per_second": True}, {"per_second": 1.5}, {"more": 1}, {"api_per_minute": 10**7}):
        with pytest.raises(Invalid):
            await KeyHandlers(keys).set_rates(request(given, organization_id="org_2"))


NO_KEYS: list[dict[str, Any]] = [
    {},
    {"kind": "other"},
    {"kind": "standard", "quota": 5},
    {"kind": 1},
    {"kind": "standard", "budget": -1},
    {"kind": "standard", "budget": 2**53},
    {"kind": "standard", "budget": 1.0},
    {"kind": "standard", "budget": True},
    {"kind": "standard", "budget": "5"},
    {"kind": "one_time", "bind": "greet"},
    {"kind": "one_time", "bind": {"method": "GET"}},
    {"kind": "one_time", "bind": {"path": 1}},
    {"kind": "standard", "rates": {"per_second": 0}},
    {"kind": "standard", "rates": {"organization_per_second": 1}},
]


@pytest.mark.parametrize("given", NO_KEYS)
async def test_keys_of_a_kind_that_is_not_known(given: dict[str, Any]) -> None:
    with pytest.raises(Invalid):
        await KeyHandlers(FakeKeys()).issue(request(given))


async def test_the_other_calls_on_keys() -> None:
    keys = FakeKeys()
    handlers = KeyHandlers(keys)
    listed = body(await handlers.list_keys(request(query="limit=5&after=key_0")))
    assert listed["next"] == "more"
    assert listed["items"][0]["created_at"] == "2030-01-02T03:04:05.678Z"
    assert "key" not in listed["items"][0]
    assert body(await handlers.revoke(request(key_id="key_9"))) == {"id": "key_9", "revoked": True}
    rotated = body(await handlers.rotate(request({"overlap_seconds": 60}, key_id="key_9")))
    assert rotated == {"id": "key_2", "key": "cwk-next"}
    assert body(await handlers.create_organization(request({"name": "b"}))) == {
        "id": "org_2",
        "name": "b",
        "key": "cwk-of-b",
    }
    assert keys.calls == [
        ("org_1", 5, "key_0"),
        (WHO, "key_9"),
        (WHO, "key_9", timedelta(seconds=60)),
    ]


class FakeSecrets:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    async def put(self, *arguments: Any) -> None:
        self.calls.append(arguments)

    async def list_secrets(self, *arguments: Any) -> tuple[list[SecretInfo], str]:
        return [SecretInfo("TOKEN", THEN, ("api.example",))], ""

    async def delete(self, *arguments: Any) -> None:
        self.calls.append(arguments)


async def test_secrets() -> None:
    secrets = FakeSecrets()
    handlers = SecretHandlers(secrets)
    await handlers.put(request({"value": "", "hosts": ["a.b"]}, name="TOKEN"))
    await handlers.delete(request(name="TOKEN"))
    assert secrets.calls == [(WHO, "TOKEN", "", ("a.b",)), (WHO, "TOKEN")]
    listed = body(await handlers.list_secrets(request()))
    assert listed == {
        "items": [{"name": "TOKEN", "updated_at": "2030-01-02T03:04:05.678Z", "hosts": ["api.example"]}],
        "next": None,
    }
    for bad in ({}, {"value": 1}, {"value": "v", "name": "x"}, {"value": "x" * 70_000}):
        with pytest.raises(Invalid):
            await handlers.put(request(bad, name="TOKEN"))


class FakeFiles:
    async def create(self, organization_id: str, file_name: str, *, without_credit: bool) -> Upload:
        if without_credit:
            raise Exhausted("no credits", code="payment_required")
        return Upload(f"up/{organization_id}/{file_name}", "down", {"x": "y"})


@pytest.mark.parametrize("content", [b"", b"null", b" {} "])
async def test_a_place_for_a_file(content: bytes) -> None:
    answer = await FileHandlers(FakeFiles()).create(request(content, query="filename=a%20b.txt"))
    assert body(answer) == {"upload_uri": "up/org_1/a b.txt", "download_uri": "down", "upload_headers": {"x": "y"}}


async def test_a_file_of_a_run_is_its_callers() -> None:
    who = nested()
    asked = Request("POST", "/", query="filename=a", body=sent(b""), principal=who)
    assert who.organization_id == OWNER != CALLER
    assert body(await FileHandlers(FakeFiles()).create(asked))["upload_uri"] == f"up/{CALLER}/a"


@pytest.mark.parametrize(("credit", "told"), [(None, False), (1, False), (0, True)])
async def test_the_filestore_hears_of_an_organization_without_credit(credit: int | None, told: bool) -> None:
    asked = Request("POST", "/", query="filename=a", body=sent(b""), principal=replace(WHO, credit=credit))
    with pytest.raises(Exhausted) if told else nullcontext():
        await FileHandlers(FakeFiles()).create(asked)


async def test_the_bytes_of_a_file_go_elsewhere() -> None:
    with pytest.raises(Invalid, match="upload_uri"):
        await FileHandlers(FakeFiles()).create(request(b"content", query="filename=a"))


def workflow(**more: Any) -> Workflow:
    given: dict[str, Any] = {
        "organization_id": "org_1",
        "service_id": "s",
        "name": "S",
        "kind": "code",
        "version": 2,
        "visibility": "private",
        "limits": dict.fromkeys(LIMITS, 0),
        "openapi": '{"paths": {}}',
        "created_at": THEN,
        "updated_at": THEN,
    }
    return Workflow(**(given | more))


class FakeWorkflows:
    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.found: dict[str, Any] = {}
        self.asked: list[str] = []
        # How many calls there had been when a change was told of.
        self.changes: list[int] = []

    def note_change(self) -> None:
        self.changes.append(len(self.calls))

    async def validate(self, organization_id: str, code: str, log_id: str) -> tuple[bool, Sequence[Check]]:
        return False, [Check("syntax", False, "bad", 3), Check("header", True, "", 0)]

    async def deploy(self, *arguments: Any) -> tuple[Workflow, int, Sequence[Check]]:
        self.calls.append(arguments)
        return workflow(), 7, []

    async def get(self, organization_id: str, reference: str) -> Workflow:
        return workflow(openapi="", **self.found)

    async def prompt(self, organization_id: str, reference: str) -> Prompt:
        self.asked.append(reference)
        if self.found.get("version") == 0:
            raise NotFound("none is served")
        return Prompt("Tell: {{ story }}", "openai/m", '{"top_p": 1}', web_search=True, variables=("story",))

    async def publish(self, organization_id: str, service_id: str, published: bool) -> Workflow:
        self.calls.append((organization_id, service_id, published))
        return workflow(published=published)

    async def list_workflows(self, *arguments: Any) -> tuple[list[Workflow], str]:
        self.calls.append(arguments)
        return [workflow(organization_id="org_2")], ""

    async def update(self, *arguments: Any) -> Workflow:
        self.calls.append(arguments)
        return workflow()

    async def delete(self, *arguments: Any) -> None:
        self.calls.append(arguments)


@pytest.fixture
def catalogue() -> FakeWorkflows:
    return FakeWorkflows()


@pytest.fixture
def workflows(catalogue: FakeWorkflows) -> WorkflowHandlers:
    return WorkflowHandlers(
        catalogue, MemoryTemplates(), "https://mesh.example", catalogue.note_change, lambda _: nullcontext("")
    )


async def test_validating(workflows: WorkflowHandlers) -> None:
    assert body(await workflows.validate(request({"code": "x"}))) == {
        "all_passed": False,
        "report": [
            {"check": "syntax", "passed": False, "detail": "bad", "line": 3},
            {"check": "header", "passed": True, "detail": "", "line": None},
        ],
    }


PROMPT: dict[str, Any] = {"name": "n", "kind": "prompt", "template": "{{ x }}", "model": "openai/m"}


async def test_deploying_a_prompt(workflows: WorkflowHandlers, catalogue: FakeWorkflows) -> None:
    await workflows.deploy(request(PROMPT))
    more = {"parameters": {"system": "é"}, "web_search": True, "service_id": "wf_1"}
    await workflows.deploy(request({**PROMPT, **more}, query="publish=false"))
    assert catalogue.calls == [
        ("org_1", Prompt("{{ x }}", "openai/m"), "n", "", True, ""),
        ("org_1", Prompt("{{ x }}", "openai/m", '{"system": "é"}', web_search=True), "n", "wf_1", False, ""),
    ]
    wrong: tuple[dict[str, Any], ...] = (
        {"template": ""}, {"template": None}, {"template": 1}, {"template": "x" * 1_048_577}, {"model": None},
        {"model": ["m"]}, {"name": None}, {"code": "x"}, {"parameters": []}, {"parameters": "{}"}, {"web_search": 1},
        {"web_search": "yes"}, {"kind": "chain"}, {"kind": "code"}, {"colour": "red"},
    )  # fmt: skip
    for bad in wrong:
        with pytest.raises(Invalid):
            await workflows.deploy(request({**PROMPT, **bad}))
    with pytest.raises(Invalid):
        await workflows.deploy(request({"code": "x", "name": "n", "template": "t"}))
    assert len(catalogue.calls) == 2


async def test_a_prompt_is_shown_to_its_owner(workflows: WorkflowHandlers, catalogue: FakeWorkflows) -> None:
    told = {"variables": ["story"], "model": "openai/m", "web_search": True}
    own = {"template": "Tell: {{ story }}", "parameters": {"top_p": 1}}
    catalogue.found = {"kind": "prompt", "published": True}
    shown = body(await workflows.get(request(service_id="s")))
    assert shown.items() >= {"kind": "prompt", "published": True, **told, **own}.items()
    catalogue.found |= {"organization_id": "org_2", "visibility": "public"}
    shown = body(await workflows.get(request(service_id="s")))
    assert shown.items() >= told.items()
    assert not set(own) & set(shown)
    catalogue.found |= {"visibility": "template"}
    assert body(await workflows.get(request(service_id="s"))).items() >= own.items()
    catalogue.found |= {"version": 0}
    assert "model" not in body(await workflows.get(request(service_id="s")))
    catalogue.found = {}
    assert "model" not in body(await workflows.get(request(service_id="s")))


async def test_the_prompt_that_is_shown_is_that_of_the_version_that_is_told(
    workflows: WorkflowHandlers, catalogue: FakeWorkflows
) -> None:
    """Where several are served a bare name stands for any of them."""
    for version, reference, asked in ((2, "s", "s@2"), (2, "s@1", "s@1"), (0, "s", "s")):
        catalogue.found = {"kind": "prompt", "version": version}
        await workflows.get(request(service_id=reference))
        assert catalogue.asked[-1] == asked


async def test_a_change_is_known_here_before_its_answer(workflows: WorkflowHandlers, catalogue: FakeWorkflows) -> None:
    """Else the next call of whoever made it would be of what there was before."""
    await workflows.deploy(request({"code": "x", "name": "n"}))
    await workflows.update(request({"visibility": "public"}, service_id="s"))
    await workflows.publish(request(b"", service_id="s"))
    await workflows.unpublish(request(b"", service_id="s"))
    await workflows.delete(request(service_id="s"))
    assert (len(catalogue.calls), catalogue.changes) == (5, [1, 2, 3, 4, 5])
    await workflows.validate(request({"code": "x"}))
    await workflows.list_workflows(request())
    await workflows.get(request(service_id="s"))
    assert len(catalogue.changes) == 5


async def test_publishing(workflows: WorkflowHandlers, catalogue: FakeWorkflows) -> None:
    assert body(await workflows.publish(request(b"", service_id="s")))["published"] is True
    assert body(await workflows.unpublish(request(b"", service_id="s")))["published"] is False
    assert catalogue.calls == [("org_1", "s", True), ("org_1", "s", False)]


async def test_deploying(workflows: WorkflowHandlers, catalogue: FakeWorkflows) -> None:
    answer = await workflows.deploy(request({"code": "x", "name": "n", "service_id": None}, query="publish=false"))
    assert body(answer) == {"service_id": "s", "version": 7, "url": "https://mesh.example/run/org_1.s", "report": []}
    await workflows.deploy(request({"code": "x", "service_id": "s", "kind": "code"}))
    assert catalogue.calls == [("org_1", "x", "n", "", False, ""), ("org_1", "x", "s", "s", True, "")]


@pytest.mark.parametrize(
    ("given", "query"),
    [
        ({"name": "n"}, ""),
        ({"code": "x"}, ""),
        ({"code": "x", "name": "n", "kind": "prompt"}, ""),
        ({"code": "x", "name": "n", "template_id": "t"}, ""),
        ({"code": "x", "name": "n"}, "publish=maybe"),
    ],
)
async def test_what_cannot_be_deployed(workflows: WorkflowHandlers, given: dict[str, Any], query: str) -> None:
    with pytest.raises(Invalid):
        await workflows.deploy(request(given, query=query))


@pytest.mark.parametrize("code", ["x" * (MAX_CODE_LENGTH + 1), "\n" * MAX_JSON_BYTES])
async def test_code_that_is_too_long(workflows: WorkflowHandlers, code: str) -> None:
    """Both as text and with all that its JSON adds."""
    for handler in (workflows.deploy, workflows.validate):
        with pytest.raises(Invalid, match=f"at most {MAX_CODE_LENGTH} bytes.*must be smaller") as refused:
            await handler(request({"code": code}))
        assert refused.value.code == "too_large"


async def test_reading_and_changing_workflows(workflows: WorkflowHandlers, catalogue: FakeWorkflows) -> None:
    listed = body(await workflows.list_workflows(request(query="visibility=public")))
    assert listed["items"] == [
        {
            "service_id": "s",
            "name": "S",
            "kind": "code",
            "version": 2,
            "visibility": "private",
            "url": "https://mesh.example/run/org_2.s",
        }
    ]
    assert body(await workflows.get(request(service_id="s")))["schema"] is None
    limits = {
        "sync_timeout_ms": 5000,
        "memory_bytes": 64 << 20,
        "cpu_millis": 500,
        "processes": 9,
        "disk_bytes": 1 << 40,
        "concurrency": None,
    }
    changed = {"visibility": "public", "limits": limits}
    assert body(await workflows.update(request(changed, service_id="s")))["schema"] == {"paths": {}}
    assert body(await workflows.delete(request(service_id="s"))) == {"service_id": "s", "deleted": True}
    assert catalogue.calls == [
        ("org_1", "public", 100, ""),
        ("org_1", "s", None, "public", limits | {"concurrency": 0}),
        ("org_1", "s"),
    ]
    for bad in (
        {"visibility": "closed"},
        {"limits": {"memory": 1}},
        {"limits": {"concurrency": 0}},
        {"limits": {"concurrency": 1 << 31}},
        {"limits": {"processes": 1 << 31}},
        {"limits": {"cpu_millis": 0.5}},
        {"version": 1},
    ):
        with pytest.raises(Invalid):
            await workflows.update(request(bad, service_id="s"))
    with pytest.raises(Invalid):
        await workflows.list_workflows(request(query="visibility=all"))


class FakePeer:
    def __init__(self, ready: bool, text: str = "") -> None:
        self._ready = ready
        self._text = text

    async def ready(self) -> bool:
        return self._ready

    async def metrics(self) -> str:
        return self._text


async def test_readiness_names_who_is_missing() -> None:
    assert (await PlatformHandlers({"a": FakePeer(True)}).ready(request())).status == 200
    answer = await PlatformHandlers({"a": FakePeer(True), "b": FakePeer(False)}).ready(request())
    assert (answer.status, body(answer)["detail"]) == (503, "not ready: b")


def test_metrics_of_all_services_in_one() -> None:
    text = '# HELP n_total N.\n# TYPE n_total counter\nn_total 1.0\nn_total{method="/a{b"} 2.0\n'
    assert merged({"a": text, "b": "# HELP n_total N.\n# TYPE n_total counter\nn_total 3.0\n", "c": ""}) == (
        "# HELP n_total N.\n"
        "# TYPE n_total counter\n"
        'n_total{service="a"} 1.0\n'
        'n_total{service="a",method="/a{b"} 2.0\n'
        'n_total{service="b"} 3.0\n'
    )
