"""Prompt workflows: what is refused, what is deployed in their place, what is published."""

import json
from dataclasses import replace
from typing import Any

import pytest

from kit.clock import FakeClock
from kit.errors import Invalid, NotFound
from scheduler import workflow_wire
from scheduler.catalog import Catalog
from scheduler.deploy import Deploy, Deployed, Deployment
from scheduler.model import WorkflowChanged
from scheduler.prompt import check, judged, source
from scheduler.workflow import Check, Prompt, Report
from tests.fakes.scheduler_rig import Scheduler
from tests.fakes.scheduling import FakeBlobs

PROMPT = Prompt("Tell: {{ story }} {{ mood }}", "openai/gpt-4o-mini", '{"temperature": 0.5}', web_search=True)


def document(*variables: Any) -> str:
    schema = {"properties": {"inputs": {"required": list(variables)}}}
    return json.dumps(
        {"paths": {"/": {"post": {"requestBody": {"content": {"application/json": {"schema": schema}}}}}}}
    )


class Workflows:
    """Deploy and catalog over fakes; the executor finds these variables."""

    def __init__(self, scheduler: Scheduler) -> None:
        scheduler.store.state.workflows.clear()
        scheduler.store.state.versions.clear()
        self.blobs, self.executors, self.state = FakeBlobs(), scheduler.executors, scheduler.store.state
        self.store = scheduler.store
        self.executors.report = replace(self.executors.report, openapi=document("story", "mood"))
        self.deploying = Deploy(scheduler.store, scheduler.executors, self.blobs, scheduler.clock)
        self.catalog = Catalog(scheduler.store, scheduler.clock)
        self.clock: FakeClock = scheduler.clock

    async def deploy(self, prompt: Prompt | None = PROMPT, service_id: str = "", **rest: Any) -> Deployed:
        code = "" if prompt else "app = 1\n"
        return await self.deploying(Deployment("org_a", code, "Teller", service_id, prompt=prompt, **rest))


@pytest.fixture
def workflows(scheduler: Scheduler) -> Workflows:
    return Workflows(scheduler)


async def test_a_prompt_is_deployed_as_a_program(workflows: Workflows) -> None:
    made = await workflows.deploy()
    workflow, version = await workflows.catalog.resolve("org_a", made.workflow.service_id)
    assert workflow.service_id.startswith("wf_")
    assert (workflow.kind, workflow.version, workflow.published) == ("prompt", 1, False)
    assert version.prompt == replace(PROMPT, variables=("story", "mood"))
    assert workflows.blobs.blobs[version.source_digest] == source(PROMPT).encode()
    assert version.file_name == f"{workflow.service_id}.py"
    told = workflow_wire.version(version).prompt
    assert (told.template, list(told.variables)) == (PROMPT.template, ["story", "mood"])


async def test_the_same_id_makes_the_next_version(workflows: Workflows) -> None:
    first = (await workflows.deploy()).workflow.service_id
    await workflows.catalog.publish("org_a", first, published=True)
    second = await workflows.deploy(replace(PROMPT, template="{{ mood }}"), first)
    assert (second.number, second.workflow.version, second.workflow.published) == (2, 2, True)
    assert (await workflows.deploy()).workflow.service_id != first


async def test_an_id_is_of_one_kind(workflows: Workflows) -> None:
    with pytest.raises(NotFound):
        await workflows.deploy(service_id="wf_unknown")
    made = await workflows.deploy()
    with pytest.raises(Invalid, match="of kind prompt"):
        await workflows.deploy(None, made.workflow.service_id)
    await workflows.deploy(None, "teller")
    with pytest.raises(Invalid, match="of kind code"):
        await workflows.deploy(service_id="teller")
    assert len(workflows.store.state.versions) == 2


async def test_a_template_that_doesnt_parse_is_told_with_its_line(workflows: Workflows) -> None:
    detail = (
        "InvalidTemplate: line 3: unexpected '}'. It is raised while the file is imported: try.\nIt printed: Traceback"
    )
    workflows.executors.report = Report((Check("syntax", True), Check("imports", False, detail, line=500)))
    with pytest.raises(Invalid, match=r"template \(line 3\): unexpected '}'$") as refused:
        await workflows.deploy()
    assert refused.value.code == "invalid_workflow"
    assert (workflows.blobs.blobs, workflows.store.state.workflows) == ({}, {})


def test_other_faults_of_the_program_stay_as_they_are() -> None:
    report = Report((Check("imports", False, "MemoryError"), Check("syntax", True, "InvalidTemplate: x")))
    assert judged(report) == report


@pytest.mark.parametrize("openapi", ["", "{}", "[]", "x", document(1), json.dumps({"paths": []})])
async def test_a_document_without_variables_is_refused(workflows: Workflows, openapi: str) -> None:
    workflows.executors.report = replace(workflows.executors.report, openapi=openapi)
    with pytest.raises(Invalid) as refused:
        await workflows.deploy()
    assert refused.value.code == "invalid_workflow"


@pytest.mark.parametrize(
    ("changes", "code", "why"),
    [
        ({"template": " \n"}, "bad_request", "template"),
        ({"template": "a\0b"}, "bad_request", "template"),
        ({"template": "é" * 40_000}, "too_large", "65536"),
        ({"model": "gpt-4o"}, "bad_request", "VENDOR/NAME"),
        ({"model": "mistral/x"}, "bad_request", "openai, anthropic, gemini"),
        ({"model": "openai/"}, "bad_request", "VENDOR"),
        ({"model": "openai/../keys"}, "bad_request", "VENDOR"),
        ({"model": "openai/a\n"}, "bad_request", "VENDOR"),
        ({"model": "openai/a?b"}, "bad_request", "VENDOR"),
        ({"parameters": "[]"}, "bad_request", "JSON object"),
        ({"parameters": "{"}, "bad_request", "JSON object"),
        ({"parameters": "[" * 10_000}, "bad_request", "JSON object"),
        ({"parameters": json.dumps({"system": "x" * 20_000})}, "too_large", "16384"),
        ({"parameters": '{"n": 3}'}, "bad_request", "'n' for openai; there are system"),
        ({"parameters": '{"stop": ["x"]}'}, "bad_request", "'stop' for openai"),
        ({"parameters": '{"temperature": true}'}, "bad_request", "from 0 to 2"),
        ({"parameters": '{"temperature": 2.1}'}, "bad_request", "from 0 to 2"),
        ({"parameters": '{"temperature": NaN}'}, "bad_request", "from 0 to 2"),
        ({"parameters": '{"top_p": "1"}'}, "bad_request", "from 0 to 1"),
        ({"parameters": '{"max_tokens": 0}'}, "bad_request", "whole number"),
        ({"parameters": '{"max_tokens": 1.5}'}, "bad_request", "whole number"),
        ({"parameters": '{"system": ""}'}, "bad_request", "text"),
        ({"parameters": '{"reasoning_effort": []}'}, "bad_request", "minimal"),
        ({"model": "gemini/x", "parameters": '{"stop": []}'}, "bad_request", "a list of 1"),
        ({"model": "anthropic/x", "parameters": '{"top_k": 1001}'}, "bad_request", "from 1 to 1000"),
    ],
)
async def test_what_is_no_prompt(workflows: Workflows, changes: dict[str, str], code: str, why: str) -> None:
    with pytest.raises(Invalid) as refused:
        await workflows.deploy(replace(PROMPT, **changes))  # type: ignore[arg-type]
    assert refused.value.code == code
    assert why in refused.value.message
    assert workflows.executors.validated == []


def test_names_of_models() -> None:
    for model in ("openai/gpt-4o-mini", "openai/ft:gpt-4o:org::id", "gemini/gemini-2.5-flash", "anthropic/claude@2025"):
        check(Prompt("x", model))


async def test_code_is_published_with_its_first_served_version(workflows: Workflows) -> None:
    assert (await workflows.deploy(None, "one")).workflow.published
    assert not (await workflows.deploy(None, "two", publish=False)).workflow.published
    assert (await workflows.deploy(None, "two")).workflow.published
    await workflows.catalog.publish("org_a", "one", published=False)
    assert not (await workflows.deploy(None, "one")).workflow.published


async def test_publishing_is_idempotent_and_serves_what_there_is(workflows: Workflows) -> None:
    made = await workflows.deploy(publish=False)
    service_id = made.workflow.service_id
    assert made.workflow.version == 0
    workflows.store.state.events.clear()
    for _ in range(2):
        workflow, _document = await workflows.catalog.publish("org_a", service_id, published=True)
        assert (workflow.published, workflow.version) == (True, 1)
    assert workflows.store.state.events == [WorkflowChanged("org_a", service_id)]
    for _ in range(2):
        workflow, _document = await workflows.catalog.publish("org_a", service_id, published=False)
        assert (workflow.published, workflow.version) == (False, 1)
    for organization, name in (("org_b", service_id), ("org_a", "unknown")):
        with pytest.raises(NotFound):
            await workflows.catalog.publish(organization, name, published=True)
