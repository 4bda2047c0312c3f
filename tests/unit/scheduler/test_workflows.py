from dataclasses import replace

import pytest

from kit.clock import FakeClock
from kit.errors import Invalid, NotFound
from kit.settings import BadSettings, load
from scheduler.catalog import Catalog, Change
from scheduler.deploy import Deploy, Deployed, Deployment, FailedChecks
from scheduler.model import WorkflowChanged
from scheduler.settings import Settings
from scheduler.workflow import RESERVED, SYSTEM, Check, Limits, Reference, Report, Visibility, name_service
from tests.fakes.scheduler_rig import Scheduler
from tests.fakes.scheduling import START, FakeBlobs

CODE = "app = FastAPI()\n"


class Workflows:
    """Deploy and catalog over fakes."""

    def __init__(self, scheduler: Scheduler) -> None:
        self.blobs = FakeBlobs()
        self.executors = scheduler.executors
        self.state = scheduler.store
        self.deploying = Deploy(scheduler.store, scheduler.executors, self.blobs, scheduler.clock)
        self.catalog = Catalog(scheduler.store, scheduler.clock)

    async def deploy(self, organization: str = "org_a", service_id: str = "svc", **rest: object) -> Deployed:
        wanted = Deployment(organization, CODE, "My service", service_id)
        return await self.deploying(replace(wanted, **rest))  # type: ignore[arg-type]

    async def share(self, organization: str, visibility: Visibility, service_id: str = "svc") -> None:
        await self.catalog.update(organization, service_id, Change(visibility=visibility))


@pytest.fixture
def workflows(scheduler: Scheduler) -> Workflows:
    scheduler.store.state.workflows.clear()
    scheduler.store.state.versions.clear()
    return Workflows(scheduler)


async def test_the_first_deploy_makes_version_1_and_serves_it(workflows: Workflows) -> None:
    result = await workflows.deploy(service_id="")
    assert (result.workflow.service_id, result.number, result.workflow.version) == ("my-service", 1, 1)
    workflow, version = await workflows.catalog.resolve("org_a", "my-service")
    assert workflow == result.workflow
    assert workflows.blobs.blobs[version.source_digest] == CODE.encode()
    assert version.file_name == "my_service.py"
    assert workflows.executors.validated == [("org_a", "my_service.py")]
    assert workflows.state.state.events == [WorkflowChanged("org_a", "my-service")]


async def test_the_same_again_makes_the_next_version(workflows: Workflows) -> None:
    first = await workflows.deploy()
    second = await workflows.deploy(name="Renamed")
    assert (second.number, second.workflow.id, second.workflow.name) == (2, first.workflow.id, "Renamed")
    draft = await workflows.deploy(publish=False)
    assert (draft.number, draft.workflow.version) == (3, 2)
    assert (await workflows.catalog.resolve("org_a", "svc"))[1].number == 2
    assert (await workflows.catalog.resolve("org_a", "svc@1"))[1].number == 1
    assert (await workflows.catalog.resolve("org_a", "svc@3"))[1].number == 3


async def test_a_version_that_isnt_there(workflows: Workflows) -> None:
    """Told only to those who may know of the workflow."""
    await workflows.deploy()
    for ask in (workflows.catalog.resolve, workflows.catalog.get):
        with pytest.raises(NotFound, match="workflow 'svc' has no version 99"):
            await ask("org_a", "svc@99")
        with pytest.raises(NotFound, match="no such workflow"):
            await ask("org_b", "org_a.svc@99")


async def test_an_unpublished_workflow_is_there_but_doesnt_run(workflows: Workflows) -> None:
    await workflows.deploy(publish=False)
    assert (await workflows.catalog.get("org_a", "svc"))[0].version == 0
    with pytest.raises(NotFound, match="a draft is called as svc@VERSION"):
        await workflows.catalog.resolve("org_a", "svc")
    assert (await workflows.catalog.resolve("org_a", "svc@1"))[1].number == 1


async def test_a_failed_check_refuses_the_deploy(workflows: Workflows) -> None:
    checks = (Check("syntax", passed=False, detail="invalid syntax", line=3), Check("secrets", False, "X", 0, True))
    workflows.executors.report = Report(checks)
    with pytest.raises(FailedChecks, match=r"syntax \(line 3\): invalid syntax$") as refused:
        await workflows.deploy()
    assert (refused.value.code, refused.value.report.checks) == ("invalid_workflow", checks)
    assert workflows.blobs.blobs == {}
    assert workflows.state.state.workflows == {}
    workflows.executors.report = Report(checks[1:])
    assert (await workflows.deploy()).number == 1


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"code": "x" * ((1 << 20) + 1)}, "too_large"),
        ({"name": "n" * 201}, "too_large"),
        ({"code": " "}, "bad_request"),
        ({"name": "", "service_id": ""}, "bad_request"),
        ({"name": "!!", "service_id": ""}, "bad_request"),
        ({"service_id": "-x"}, "bad_request"),
        ({"service_id": "a.b"}, "bad_request"),
        ({"service_id": "../x"}, "bad_request"),
        ({"service_id": "x" * 101}, "bad_request"),
        ({"service_id": "openai"}, "bad_request"),
        ({"name": "Perplexity", "service_id": ""}, "bad_request"),
        ({"organization": ""}, "bad_request"),
    ],
)
async def test_what_cant_be_deployed(workflows: Workflows, changes: dict[str, str], code: str) -> None:
    with pytest.raises(Invalid) as refused:
        await workflows.deploy(**changes)
    assert refused.value.code == code
    assert workflows.executors.validated == []


def test_names() -> None:
    assert name_service("org_a", "", "Ünï  Service, the 2nd!") == "uni-service-the-2nd"
    # Not both "gr-e": the second deploy would be the first one's next version.
    assert [name_service("org_a", "", name) for name in ("Größe", "grüße ☃")] == ["grosse", "grusse"]
    for lossy in ("日本 1", "Łódź 1", "नमस्ते"):
        with pytest.raises(Invalid, match="set `service_id`"):
            name_service("org_a", "", lossy)
    assert name_service("org_a", "My_Svc-1", "x") == "My_Svc-1"
    assert len(RESERVED) == 21
    assert name_service(SYSTEM, "openai", "x") == "openai"


def test_references() -> None:
    assert Reference.parse("a-b_1@12") == Reference("", "a-b_1", 12)
    assert Reference.parse("org_x.hello") == Reference("org_x", "hello")
    for garbage in ("", "a@", "a@0", "a@-1", "a@x", ".a", "a.b.c", "a b", "a/b", "a\0", "x" * 300, "a\n", "é"):
        with pytest.raises(NotFound):
            Reference.parse(garbage)


async def test_a_bare_name_is_ones_own_else_the_librarys(workflows: Workflows) -> None:
    await workflows.deploy(SYSTEM, "openai")
    with pytest.raises(NotFound):
        await workflows.catalog.resolve("org_a", "openai")
    await workflows.share(SYSTEM, Visibility.PUBLIC, "openai")
    assert (await workflows.catalog.resolve("org_a", "openai"))[0].organization_id == SYSTEM
    await workflows.deploy(SYSTEM, "svc")
    await workflows.share(SYSTEM, Visibility.PUBLIC)
    await workflows.deploy("org_a", "svc")
    assert (await workflows.catalog.resolve("org_a", "svc"))[0].organization_id == "org_a"
    await workflows.deploy("org_b", "other")
    await workflows.share("org_b", Visibility.PUBLIC, "other")
    with pytest.raises(NotFound):
        await workflows.catalog.resolve("org_a", "other")


@pytest.mark.parametrize(("visibility", "visible"), [(1, False), (2, True), (3, True)])
async def test_anybody_elses_needs_to_be_visible(workflows: Workflows, visibility: int, visible: bool) -> None:
    await workflows.deploy("org_b")
    await workflows.share("org_b", Visibility(visibility))
    if visible:
        assert (await workflows.catalog.resolve("org_a", "org_b.svc"))[0].organization_id == "org_b"
    else:
        with pytest.raises(NotFound):
            await workflows.catalog.resolve("org_a", "org_b.svc@1")
    assert (await workflows.catalog.resolve("org_b", "org_b.svc"))[1].number == 1


async def test_limits_of_the_owner_go_before_those_of_the_source(workflows: Workflows) -> None:
    workflows.executors.report = replace(workflows.executors.report, limits=Limits(sync_timeout_ms=1, concurrency=2))
    await workflows.deploy()
    changed = await workflows.catalog.update("org_a", "svc", Change(limits=Limits(sync_timeout_ms=9)))
    workflow, openapi = await workflows.catalog.get("org_a", "svc")
    assert changed == (workflow, openapi)
    assert (workflow.limits, openapi) == (Limits(sync_timeout_ms=9, concurrency=2), "{}")
    version = (await workflows.catalog.resolve("org_a", "svc"))[1]
    assert version.limits == (await workflows.catalog.version(version.id)).limits == workflow.limits
    reset = Change(limits=Limits(concurrency=3), reset=frozenset({"sync_timeout_ms"}))
    workflow, _ = await workflows.catalog.update("org_a", "svc", reset)
    assert workflow.limits == Limits(sync_timeout_ms=1, concurrency=3)


@pytest.mark.parametrize(
    "change",
    [
        Change(name=" "),
        Change(name="n" * 201),
        Change(limits=Limits(sync_timeout_ms=-1)),
        Change(limits=Limits(async_timeout_ms=1 << 40)),
        Change(limits=Limits(memory_bytes=1 << 20)),
        Change(limits=Limits(memory_bytes=1 << 51)),
        Change(limits=Limits(cpu_millis=10)),
        Change(limits=Limits(processes=-5)),
        Change(limits=Limits(disk_bytes=1)),
    ],
)
async def test_changes_that_make_no_sense(workflows: Workflows, change: Change) -> None:
    await workflows.deploy()
    with pytest.raises(Invalid):
        await workflows.catalog.update("org_a", "svc", change)


async def test_limits_are_the_operators_to_allow(workflows: Workflows) -> None:
    settings = load(Settings, {"RUNMESH_MAX_MEMORY_BYTES": str(1 << 30), "RUNMESH_MAX_CPU": "1.5"})
    catalog = Catalog(workflows.state, FakeClock(START), settings.most)
    await workflows.deploy()
    with pytest.raises(Invalid, match=r"memory_bytes must be 16777216 to 1073741824$"):
        await catalog.update("org_a", "svc", Change(limits=Limits(memory_bytes=2 << 30)))
    with pytest.raises(Invalid, match=r"cpu_millis must be 50 to 1500$"):
        await catalog.update("org_a", "svc", Change(limits=Limits(cpu_millis=1501)))
    allowed = Limits(memory_bytes=1 << 30, cpu_millis=1500, processes=4096, disk_bytes=100 << 30)
    assert (await catalog.update("org_a", "svc", Change(limits=allowed)))[0].limits == allowed
    assert (await catalog.resolve("org_a", "svc"))[1].limits == allowed


@pytest.mark.parametrize("name", ["MEMORY_BYTES", "CPU", "PROCESSES", "DISK_BYTES"])
@pytest.mark.parametrize("value", ["0", "-1", "many"])
def test_ceilings_that_make_no_sense(name: str, value: str) -> None:
    with pytest.raises(BadSettings, match=f"RUNMESH_MAX_{name}"):
        load(Settings, {f"RUNMESH_MAX_{name}": value})


async def test_only_ones_own_can_be_changed(workflows: Workflows) -> None:
    await workflows.deploy()
    await workflows.share("org_a", Visibility.PUBLIC)
    with pytest.raises(NotFound):
        await workflows.catalog.update("org_b", "svc", Change(name="mine"))
    with pytest.raises(NotFound):
        await workflows.catalog.delete("org_b", "svc")
    assert len(workflows.state.state.events) == 2


async def test_a_deleted_workflow_is_gone_and_its_version_stays(workflows: Workflows) -> None:
    result = await workflows.deploy()
    version = (await workflows.catalog.resolve("org_a", "svc"))[1]
    await workflows.catalog.delete("org_a", "svc")
    with pytest.raises(NotFound):
        await workflows.catalog.resolve("org_a", "svc@1")
    assert (await workflows.catalog.version(version.id)).service_id == "svc"
    again = await workflows.deploy()
    assert (again.number, again.workflow.id == result.workflow.id) == (1, False)
    with pytest.raises(NotFound):
        await workflows.catalog.version("ver_x")


async def test_lists(workflows: Workflows) -> None:
    for organization in ("org_a", "org_b"):
        for service_id in ("one", "two"):
            await workflows.deploy(organization, service_id)
    await workflows.share("org_b", Visibility.PUBLIC, "one")
    page, after = await workflows.catalog.page("org_a", None, limit=1, after="")
    rest, end = await workflows.catalog.page("org_a", None, limit=1, after=after)
    assert {one.service_id for one in (*page, *rest)} == {"one", "two"}
    assert end == ""
    public, _ = await workflows.catalog.page("org_a", Visibility.PUBLIC, limit=10, after="")
    assert [(one.organization_id, one.service_id) for one in public] == [("org_b", "one")]


async def test_validate_only_checks(workflows: Workflows) -> None:
    assert (await workflows.deploying.validate("org_a", CODE)).all_passed
    assert workflows.blobs.blobs == {}
    with pytest.raises(Invalid):
        await workflows.deploying.validate("org_a", "")
