import json
from typing import Any

import pytest
from mesh.events.v1 import events_pb2
from mesh.workflows.v1 import workflows_pb2

from kit.errors import Conflict, Invalid, NotFound
from kit.rpc_client import unary
from tests.integration.scheduler.rig import Service


async def test_the_life_of_a_workflow(service: Service) -> None:
    stub = service.workflows
    version_id = await service.deploy("org_life", "mine")
    version = (await unary(stub.GetVersion, workflows_pb2.GetVersionRequest(version_id=version_id))).version
    assert service.neighbours.blobs[version.source_digest] == b"app = 1\n"
    assert (version.number, version.python, version.isolation) == (1, "3.11", "cold")

    change = workflows_pb2.UpdateWorkflowRequest(
        organization_id="org_life", service_id="mine", visibility=workflows_pb2.VISIBILITY_PUBLIC
    )
    assert (await unary(stub.UpdateWorkflow, change)).workflow.visibility == workflows_pb2.VISIBILITY_PUBLIC
    asked = workflows_pb2.GetWorkflowRequest(organization_id="org_b", reference="org_life.mine")
    assert (await unary(stub.GetWorkflow, asked)).workflow.openapi == "{}"
    listed = workflows_pb2.ListWorkflowsRequest(organization_id="org_b", visibility=workflows_pb2.VISIBILITY_PUBLIC)
    found = (await unary(stub.ListWorkflows, listed)).workflows
    assert [(one.organization_id, one.service_id) for one in found] == [("org_life", "mine")]

    gone = workflows_pb2.DeleteWorkflowRequest(organization_id="org_life", service_id="mine")
    await unary(stub.DeleteWorkflow, gone)
    with pytest.raises(NotFound):
        await unary(stub.Resolve, workflows_pb2.ResolveRequest(organization_id="org_life", reference="mine"))

    async with service.bus.tail("event.workflow.changed") as following:
        changed: list[str] = []
        while len(changed) < 3 and (payload := await following(5)):
            event = events_pb2.WorkflowChanged.FromString(payload)
            if event.organization_id == "org_life":
                changed.append(event.service_id)
    assert changed == ["mine", "mine", "mine"]


async def test_limits_from_header_to_executor(service: Service) -> None:
    """What the header sets, what the owner sets over it, and what an executor is told."""
    service.neighbours.limits = workflows_pb2.Limits(memory_bytes=64 << 20, cpu_millis=100, processes=9)
    version_id = await service.deploy("org_limits", "mine")
    change = workflows_pb2.UpdateWorkflowRequest(
        organization_id="org_limits",
        service_id="mine",
        limits=workflows_pb2.Limits(memory_bytes=32 << 20, disk_bytes=1 << 20),
    )
    wanted = workflows_pb2.Limits(memory_bytes=32 << 20, cpu_millis=100, processes=9, disk_bytes=1 << 20)
    assert (await unary(service.workflows.UpdateWorkflow, change)).workflow.limits == wanted
    asked = workflows_pb2.GetVersionRequest(version_id=version_id)
    assert (await unary(service.workflows.GetVersion, asked)).version.limits == wanted
    change.limits.processes = 1 << 30
    with pytest.raises(Invalid, match="processes must be 8 to 4096"):
        await unary(service.workflows.UpdateWorkflow, change)


async def test_a_prompt_from_its_deploy_to_its_publishing(service: Service) -> None:
    schema = {"properties": {"inputs": {"required": ["story"]}}}
    body = {"requestBody": {"content": {"application/json": {"schema": schema}}}}
    service.neighbours.openapi = json.dumps({"paths": {"/": {"post": body}}})
    prompt = workflows_pb2.Prompt(template="{{ story }}", model="openai/m", parameters='{"top_p": 1}', web_search=True)
    deploy = workflows_pb2.DeployRequest(organization_id="org_prompt", name="Teller", publish=True, prompt=prompt)
    made = (await unary(service.workflows.Deploy, deploy)).workflow
    assert (made.kind, made.version, made.published) == ("prompt", 1, False)

    resolve = workflows_pb2.ResolveRequest(organization_id="org_prompt", reference=made.service_id)
    prompt.variables.append("story")
    resolved = await unary(service.workflows.Resolve, resolve)
    assert (resolved.version.prompt, resolved.workflow.published) == (prompt, False)
    assert b'\'{"template": "{{ story }}"' in service.neighbours.blobs[resolved.version.source_digest]
    for published in (True, True, False, False):
        change = workflows_pb2.PublishWorkflowRequest(
            organization_id="org_prompt", service_id=made.service_id, published=published
        )
        assert (await unary(service.workflows.PublishWorkflow, change)).workflow.published == published
        assert (await unary(service.workflows.Resolve, resolve)).workflow.published == published
    change.organization_id = "org_b"
    with pytest.raises(NotFound):
        await unary(service.workflows.PublishWorkflow, change)


async def test_a_workflow_that_fails_its_checks_isnt_deployed(service: Service) -> None:
    service.neighbours.checks = [workflows_pb2.Check(check="syntax", passed=False, detail="invalid syntax", line=2)]
    with pytest.raises(Invalid, match=r"syntax \(line 2\): invalid syntax") as refused:
        await service.deploy()
    assert refused.value.code == "invalid_workflow"
    told = await unary(
        service.workflows.Deploy,
        workflows_pb2.DeployRequest(organization_id="org_a", code="x", name="x", publish=True, tell_refusal=True),
    )
    assert (list(told.report), told.version) == (service.neighbours.checks, 0)
    assert told.refusal == refused.value.message
    request = workflows_pb2.ValidateRequest(organization_id="org_a", code="x")
    response = await unary(service.workflows.Validate, request)
    assert not response.all_passed
    assert list(response.report) == service.neighbours.checks
    assert service.neighbours.blobs == {}


async def test_what_is_served(service: Service) -> None:
    """Versions listed, calls split between two of them, and back."""
    stub = service.workflows
    which: dict[str, Any] = {"organization_id": "org_served", "service_id": "mine"}
    first, second = [await service.deploy("org_served", "mine") for _ in range(2)]
    listed = await unary(stub.ListVersions, workflows_pb2.ListVersionsRequest(**which, limit=1))
    assert ([one.id for one in listed.versions], listed.next, listed.workflow.version) == ([second], "2", 2)
    rest = await unary(stub.ListVersions, workflows_pb2.ListVersionsRequest(**which, limit=1, after=listed.next))
    assert ([one.id for one in rest.versions], rest.next) == ([first], "")

    split = await unary(stub.SplitTraffic, workflows_pb2.SplitTrafficRequest(**which, traffic={1: 25, 2: 75}))
    assert (split.workflow.version, dict(split.workflow.traffic)) == (2, {1: 25, 2: 75})
    assert service.neighbours.warmed == [(first, "org_served")]
    asked = workflows_pb2.ResolveRequest(organization_id="org_served", reference="mine")
    resolved = await unary(stub.Resolve, asked)
    assert {one.version.id: one.percent for one in resolved.shares} == {first: 25, second: 75}
    assert resolved.version.id in {first, second}

    back = await unary(stub.RollBack, workflows_pb2.RollBackRequest(**which))
    assert (back.workflow.version, dict(back.workflow.traffic)) == (1, {})
    resolved = await unary(stub.Resolve, asked)
    assert (resolved.version.id, len(resolved.shares)) == (first, 0)
    with pytest.raises(Conflict):
        await unary(stub.RollBack, workflows_pb2.RollBackRequest(**which))
    with pytest.raises(NotFound):
        await unary(stub.RollBack, workflows_pb2.RollBackRequest(**which, version=3))
    with pytest.raises(Invalid):
        await unary(stub.SplitTraffic, workflows_pb2.SplitTrafficRequest(**which, traffic={1: 25}))
