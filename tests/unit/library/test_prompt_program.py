"""library/prompts/workflow.py, the program that a prompt workflow is: its template language, its call, its answers."""

import functools
import importlib.util
import json
import random
import sys
from types import ModuleType
from typing import Any

import httpx
import pytest

from edge.inputs import mismatch
from scheduler.prompt import source
from scheduler.workflow import Prompt
from tests.fakes.model_services import PAGE, ModelServices

TOLD = "Once upon\u2028a time"


def program(
    template: str = "Tell: {{ story }}", model: str = "openai/m", *, parameters: Any = None, search: bool = False
) -> ModuleType:
    """The program as a deploy writes it, imported; once for the same prompt."""
    return _imported(Prompt(template, model, json.dumps(parameters or {}), search))


@functools.cache
def _imported(prompt: Prompt) -> ModuleType:
    name = f"prompt_{random.getrandbits(64)}"
    spec = importlib.util.spec_from_loader(name, loader=None)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        exec(compile(source(prompt), name, "exec"), module.__dict__)
    finally:
        del sys.modules[name]
    return module


PROGRAM = program()


def filled(template: str, **inputs: Any) -> str:
    return str(PROGRAM.Filling(template)(inputs))


def fault(template: str) -> str:
    with pytest.raises(PROGRAM.InvalidTemplate) as refused:
        PROGRAM.Filling(template)
    return str(refused.value)


def misfit(template: str, **inputs: Any) -> str:
    filling = PROGRAM.Filling(template)
    with pytest.raises(PROGRAM.Refused) as refused:
        filling(inputs)
    assert refused.value.status == 400
    return str(refused.value)


# ── The template.


def test_variables_in_the_order_of_their_appearance() -> None:
    text = "{{ b }}{% for x in a if x.ok %}{{ loop.index }}{{ x.name }}{{ c|d(b) }}{% else %}{{ e[f] }}{% endfor %}"
    assert PROGRAM.Filling(text).variables == ["b", "a", "c", "e", "f"]
    assert PROGRAM.Filling("{% raw %}{{ x }}{% endraw %}{# {{ y }} #}").variables == []


def test_what_a_template_can_do() -> None:
    text = (
        "Dear {{ name|title }},{% if items %}\n{% for item in items %}{{ loop.index }}. {{ item.what }}"
        "{% if not loop.last %}; {% endif %}{% endfor %}{% endif %}{{ missing.x|default('-') }}{{ items|length }}"
    )
    items = [{"what": "tea"}, {"what": {"a": None, "b": True}}]
    assert filled(text, name="ann", items=items, missing={}) == 'Dear Ann,\n1. tea; 2. {"a": null, "b": true}-2'
    assert filled("{{ a|join(', ') }} {{ a[0] }} {{ a[1:]|tojson }}", a=["x", 2]) == "x, 2 x [2]"
    assert filled("{% for k, v in a|items %}{{ k }}={{ v }} {% endfor %}", a={"x": 1, "y": [2]}) == "x=1 y=[2] "
    assert filled("{{ 'yes' if 'a' in word and n > 3 else 'no' }}\n", word="cat", n=4) == "yes\n"
    assert filled("{{ a|replace('x', 'yy')|upper }}", a="x") == "YY"


@pytest.mark.parametrize(
    "value", ["{{ 7*7 }}", "{% include 'x' %}", "{{ config }}", "}}{{ x", "{# x", "\\", "'\"", "\x00"]
)
def test_values_are_data(value: str) -> None:
    assert filled("<{{ x }}|{{ y[0].z }}>", x=value, y=[{"z": value}]) == f"<{value}|{value}>"
    assert filled("{{ x|tojson }}", x={value: value}) == json.dumps({value: value}, ensure_ascii=False)


@pytest.mark.parametrize(
    ("template", "why"),
    [
        ("{% include 'a' %}", "include"),
        ("{% import 'a' as b %}", "import"),
        ("{% from 'a' import b %}", "import"),
        ("{% extends 'a' %}", "extends"),
        ("{% macro m() %}{{ m() }}{% endmacro %}", "a macro"),
        ("{% block b %}{% endblock %}", "a block"),
        ("{% set x = 1 %}", "set"),
        ("{% set x %}1{% endset %}", "set"),
        ("{% with x = 1 %}{% endwith %}", "with"),
        ("{% filter upper %}x{% endfilter %}", "a filter block"),
        ("{% autoescape true %}x{% endautoescape %}", "autoescape"),
        ("{% for x in y recursive %}{{ loop(x) }}{% endfor %}", "a recursive loop"),
        ("{% for i in range(1000000000) %}x{% endfor %}", "a call"),
        ("{{ 'a'.upper() }}", "a call"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "a call"),
        ("{{ cycler.__init__.__globals__.os.popen('id') }}", "a call"),
        ("{{ '%s'.format(x) }}", "a call"),
        ("{{ 'a' * 1000000000 }}", "arithmetic"),
        ("{{ 9 ** 9 ** 9 }}", "arithmetic"),
        ("{{ 1 // 0 }}", "arithmetic"),
        ("{{ a ~ a }}", "~"),
        ("{{ x|attr('__class__') }}", "no filter 'attr'"),
        ("{{ x|center(1000000000) }}", "no filter 'center'"),
        ("{{ '%1000000000d'|format(1) }}", "no filter 'format'"),
        ("{{ x|map(attribute='__class__')|list }}", "no filter"),
        ("{{ x|indent(1000000000) }}", "no filter 'indent'"),
        ("{{ x|(counted) }}", "expected"),
        ("{{ x is filter }}", "no test 'filter'"),
        ("{{ x|default(*y) }}", "* and"),
        ("{{ self }}", "'self'"),
        ("{{ self._TemplateReference__context }}", "'self'"),
        ("{{ loop.index }}", "'loop'"),
        ("{% for loop in x %}{% endfor %}", "loop"),
        ("\n\n{{ x", "line 3: "),
        ("{% if x %}", "Unexpected end"),
        ("{% nothing %}", "unknown tag"),
        ("{{ " + "(" * 5000 + "x" + ")" * 5000 + " }}", "nested too deeply"),
        ("{{ " + "-" * 5000 + "x }}", "nested too deeply"),
        ("{{ x" + ".a" * 10_000 + " }}", "nested too deeply"),
        ("{{ x" + "|trim" * 5000 + " }}", "nested too deeply"),
        ("{% if x %}" * 5000 + "{% endif %}" * 5000, "nested too deeply"),
        ("{% for x in x %}" * 30 + "{% endfor %}" * 30, "nested too deeply"),
        ("{{ " + "9" * 5000 + " }}", "4300 digits"),
    ],
    ids=lambda text: text[:40],
)  # fmt: skip
def test_what_no_template_can_have(template: str, why: str) -> None:
    found = fault(template)
    assert why in found
    assert len(found) < 500


@pytest.mark.parametrize(
    "path",
    ["__class__", "__class__.__mro__", "format", "upper", "__init__.__globals__", "__doc__", "real", "append", "keys"],
)
@pytest.mark.parametrize("value", ["text", 7, [1], {"a": 1}, True, None])
def test_a_dot_never_leads_into_python(path: str, value: Any) -> None:
    assert "has no" in misfit("{{ x." + path + " }}", x=value)
    assert "has no" in misfit("{{ x['" + path + "'] }}", x=value)
    if "." not in path:
        assert filled("{{ x." + path + "|default('nothing') }}", x=value) == "nothing"


def test_a_loop_gives_nothing_away_but_where_it_stands() -> None:
    for name in ("__class__", "_iterable", "cycle", "changed", "nextitem", "_undefined", "depth"):
        assert "has no" in misfit("{% for i in x %}{{ loop." + name + " }}{% endfor %}", x=[1])


def test_members_that_look_like_pythons_are_data() -> None:
    assert filled("{{ x.items }}{{ x.__class__ }}{{ x['keys'] }}", x={"items": 1, "__class__": 2, "keys": 3}) == "123"


def test_no_more_steps_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PROGRAM, "MAX_STEPS", 50_000)
    many = list(range(300))
    assert "steps" in misfit("{% for a in x %}{% for b in x %}{% endfor %}{% endfor %}", x=many)
    assert "steps" in misfit("{% for a in x %}{% if a in x %}{% endif %}{% endfor %}", x=many)
    assert "steps" in misfit("{% for a in x %}{{ x|join|length }}{% endfor %}", x=many)
    assert "steps" in misfit("{% for a in x %}{% if y|tojson %}{% endif %}{% endfor %}", x=many, y=[[many]])
    assert "steps" in misfit("{% for a in x %}{% for b in s %}{% endfor %}{% endfor %}", x=many, s="s" * 300)
    assert filled("{% for a in x %}{{ a }}{% endfor %}", x=[1] * 300) == "1" * 300


def test_nothing_grows_without_bounds() -> None:
    assert "larger than 1048576" in misfit("{% for a in x %}{{ s }}{% endfor %}", x=[1] * 100, s="s" * 100_000)
    assert "larger than 1048576" in misfit("{{ s }}", s="é" * 600_000)
    long = "x" * 100_000
    assert "passes" in misfit("{{ s|replace('x', s)|length }}", s=long)
    assert "passes" in misfit("{{ s|replace('', s)|length }}", s=long)
    assert "passes" in misfit("{{ x|join(s)|length }}", x=[1] * 1000, s=long)
    assert "passes" in misfit("{{ s" + "|tojson" * 30 + "|length }}", s='"')


def test_what_doesnt_fit_is_a_bad_request() -> None:
    assert "'x'" in misfit("{{ x }}")
    assert "no list" in misfit("{% for a in x %}{% endfor %}", x=7)
    assert misfit("{{ x|first }}", x=[])
    assert misfit("{{ x|sort }}", x=[1, "a"])
    assert misfit("{{ x > 3 }}", x="a")
    assert misfit("{{ x|round(1, 2, 3) }}", x=1.5)
    assert misfit("{% for a, b in x %}{% endfor %}", x=[[1]])


def test_no_value_gets_out_of_its_literal() -> None:
    for evil in ("'''\"\"\"\\", "')\nimport os\n#", "\\u0027);x=1#", "\u2028'", "\r\n", "é\U0001f600", "{{ '\\'' }}"):
        module = program("{% raw %}" + evil + "{% endraw %}", parameters={"system": evil})
        assert module.PROMPT["template"] == "{% raw %}" + evil + "{% endraw %}"
        assert module.PROMPT["parameters"] == {"system": evil}
        assert "os" not in {name for name in vars(module) if name not in vars(PROGRAM)}


# ── The call.


async def call(
    module: ModuleType, services: ModelServices, body: Any = None, content: bytes | None = None, accept: str = "*/*"
) -> httpx.Response:
    """A call of a program whose platform is `services`."""
    async with services.client() as runtime:
        module.CLIENT = runtime  # type: ignore[attr-defined]
        transport = httpx.ASGITransport(module.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://workflow") as client:
            raw = json.dumps(body).encode() if content is None else content
            return await client.post("/", content=raw, headers={"accept": accept})


STORY = {"inputs": {"story": "a fox"}}


async def test_openai() -> None:
    services = ModelServices()
    given = {"temperature": 0.5, "top_p": 1, "max_tokens": 50, "system": "Be kind", "reasoning_effort": "low"}
    reply = await call(program(parameters=given), services, STORY)
    assert (reply.status_code, reply.json()) == (200, {"result": TOLD})
    ((path, query, headers, body),) = services.asked
    assert (path, query, headers["authorization"]) == ("/run/openai/v1/responses", "", "Bearer t")
    assert body == {
        "model": "m", "input": "Tell: a fox", "stream": True, "instructions": "Be kind",
        "temperature": 0.5, "top_p": 1, "max_output_tokens": 50, "reasoning": {"effort": "low"},
    }  # fmt: skip


async def test_anthropic() -> None:
    services = ModelServices()
    given = {"temperature": 0, "top_k": 3, "stop": ["END"], "system": "Be kind"}
    reply = await call(program(model="anthropic/claude-x", parameters=given), services, STORY)
    assert (reply.status_code, reply.json()) == (200, {"result": TOLD})
    ((path, _, headers, body),) = services.asked
    assert (path, headers["anthropic-version"]) == ("/run/anthropic/v1/messages", "2023-06-01")
    assert body == {
        "model": "claude-x", "messages": [{"role": "user", "content": "Tell: a fox"}], "stream": True,
        "max_tokens": 4096, "system": "Be kind", "temperature": 0, "top_k": 3, "stop_sequences": ["END"],
    }  # fmt: skip


async def test_gemini() -> None:
    services = ModelServices()
    given = {"temperature": 1, "top_p": 0.5, "top_k": 3, "max_tokens": 9, "stop": ["END"], "system": "Be kind"}
    reply = await call(program(model="gemini/gemini-2.5-flash", parameters=given), services, STORY)
    assert (reply.status_code, reply.json()) == (200, {"result": TOLD})
    ((path, query, _, body),) = services.asked
    assert path == "/run/gemini/v1beta/models/gemini-2.5-flash:streamGenerateContent"
    assert query == "alt=sse"
    assert body == {
        "contents": [{"role": "user", "parts": [{"text": "Tell: a fox"}]}],
        "systemInstruction": {"parts": [{"text": "Be kind"}]},
        "generationConfig": {"temperature": 1, "topP": 0.5, "topK": 3, "maxOutputTokens": 9, "stopSequences": ["END"]},
    }


@pytest.mark.parametrize(
    ("model", "tool"),
    [
        ("openai/m", {"type": "web_search"}),
        ("anthropic/m", {"type": "web_search_20250305", "name": "web_search"}),
        ("gemini/m", {"google_search": {}}),
    ],
)
async def test_web_search_gives_each_citation_once(model: str, tool: Any) -> None:
    services = ModelServices()
    module = program(model=model, search=True)
    assert (await call(module, services, STORY)).json() == {"result": TOLD, "citations": [PAGE]}
    assert services.body["tools"] == [tool]
    streamed = await call(module, services, STORY, accept="text/event-stream")
    assert events(streamed.text)[-1] == ("end", {"result": TOLD, "citations": [PAGE]})


def events(text: str) -> list[tuple[str, Any]]:
    found = []
    for block in text.split("\n\n")[:-1]:
        fields = dict(line.split(": ", 1) for line in block.split("\n"))
        found.append((fields.get("event", ""), json.loads(fields["data"])))
    return found


@pytest.mark.parametrize("model", ["openai/m", "anthropic/m", "gemini/m"])
async def test_it_streams_what_is_said(model: str) -> None:
    reply = await call(program(model=model), ModelServices(), STORY, accept="text/event-stream")
    assert reply.headers["content-type"].startswith("text/event-stream")
    deltas = [("", {"delta": word}) for word in ModelServices().words]
    assert events(reply.text) == [*deltas, ("end", {"result": TOLD})]


async def test_inputs_at_the_top_level_too() -> None:
    services, module = ModelServices(), program("{{ inputs }} {{ story }}")
    for body in ({"inputs": {"a": 1}, "story": "s"}, {"inputs": {"inputs": {"a": 1}, "story": "s"}}):
        assert (await call(module, services, body)).status_code == 200
        assert services.body["input"] == '{"a": 1} s'


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({}, "missing: 'story'"),
        ({"inputs": {}}, "missing: 'story'"),
        ({"story": "x", "mood": 1}, "unknown: 'mood'"),
        ({"inputs": {"tale": "x"}}, "missing: 'story'; unknown: 'tale'"),
        ({"inputs": "x"}, "missing: 'story'; unknown: 'inputs'"),
        ([], "JSON object"),
        ("story", "JSON object"),
    ],
)
async def test_inputs_that_dont_match(body: Any, why: str) -> None:
    services = ModelServices()
    reply = await call(program(), services, body)
    assert (reply.status_code, reply.json()["code"]) == (400, "bad_request")
    assert why in reply.json()["detail"]
    assert services.asked == []


async def test_bodies_that_are_no_json() -> None:
    for content in (b"x", b'{"a"', b"[" * 100_000, b"\xff"):
        assert (await call(program(), ModelServices(), content=content)).status_code == 400


def test_the_edge_says_the_same_of_inputs() -> None:
    for inputs in ({}, {"a": 1}, {"a": 1, "b": 2, "c": 3}, {str(n): n for n in range(50)}):
        for variables in ([], ["a"], ["c", "b", "a"]):
            assert PROGRAM.mismatch(inputs, variables) == mismatch(inputs, variables)


@pytest.mark.parametrize(
    ("refusal", "status", "code", "why"),
    [
        ((402, {"detail": "no credits", "code": "payment_required"}), 402, "payment_required", "no credits"),
        ((424, {"detail": "set RUNMESH_OPENAI_API_KEY"}), 424, "missing_secret", "RUNMESH_OPENAI_API_KEY"),
        ((429, {"error": {"message": "slow down"}}), 429, "rate_limited", "slow down"),
        ((401, {"error": {"message": "bad key"}}), 502, "workflow_crashed", "401: bad key"),
        ((400, {"error": {"message": "no such model"}}), 502, "workflow_crashed", "no such model"),
        ((529, {"type": "error", "error": {"message": "overloaded"}}), 502, "workflow_crashed", "overloaded"),
        ((500, ["x"]), 502, "workflow_crashed", "500"),
    ],
)
async def test_what_the_models_service_refuses(refusal: Any, status: int, code: str, why: str) -> None:
    for accept in ("application/json", "text/event-stream"):
        reply = await call(program(), ModelServices(refusal=refusal), STORY, accept=accept)
        assert (reply.status_code, reply.json()["code"]) == (status, code)
        assert why in reply.json()["detail"]


@pytest.mark.parametrize("model", ["openai/m", "anthropic/m", "gemini/m"])
async def test_an_answer_that_breaks_is_no_success(model: str) -> None:
    reply = await call(program(model=model), ModelServices(cut=1), STORY)
    assert (reply.status_code, reply.json()["code"]) == (502, "workflow_crashed")
    reply = await call(program(model=model), ModelServices(cut=1), STORY, accept="text/event-stream")
    found = events(reply.text)
    assert found[0] == ("", {"delta": "Once "})
    assert found[-1][0] == "error"
    assert "broke off" in found[-1][1]["detail"]


@pytest.mark.parametrize(
    ("model", "event", "why"),
    [
        ("openai/m", {"type": "error", "message": "server error"}, "server error"),
        ("openai/m", {"type": "response.failed", "response": {"error": {"message": "too long"}}}, "too long"),
        ("anthropic/m", {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}, "busy"),
        ("gemini/m", {"promptFeedback": {"blockReason": "SAFETY"}}, "SAFETY"),
        ("gemini/m", {"error": {"code": 503, "message": "busy"}}, "busy"),
        ("openai/m", {"type": "response.output_text.delta"}, "KeyError"),
        ("openai/m", ["no event"], "AttributeError"),
    ],
)
async def test_failures_in_the_stream(model: str, event: Any, why: str) -> None:
    reply = await call(program(model=model), ModelServices(events=[event]), STORY)
    assert reply.status_code == 502
    assert why in reply.json()["detail"]


def test_the_document_tells_the_variables() -> None:
    schema = PROGRAM.openapi()["paths"]["/"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["properties"]["inputs"]["required"] == ["story"]
