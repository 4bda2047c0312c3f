"""The scheduler's store: one suite, on SQLite, on PostgreSQL and on the fake that the unit tests use."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from kit.db import open_db
from kit.errors import NotFound
from scheduler.billing import Billing, Budget
from scheduler.model import CANCELLED, Asker, History, Input, Outcome, Provision, Run, RunEnded, RunQueued, Status
from scheduler.result import Answer, Result
from scheduler.store.database import open_store
from scheduler.usage import Usage
from scheduler.workflow import EnvVar, Limits, Prompt, Visibility
from tests.databases import database_url
from tests.fakes.memory_runs import MemoryStore
from tests.fakes.scheduling import INPUT, START, VERSION, WORKFLOW, a_run

DONE = Outcome(Status.SUCCEEDED)
ME = Asker("org_caller")


@dataclass
class Rig:
    store: Any
    changed: list[Run]


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Of the database; empty for the fake."""
    return "" if request.param == "memory" else database_url(request, request.param, tmp_path, "scheduler")


@pytest.fixture
async def rig(url: str) -> AsyncIterator[Rig]:
    changed: list[Run] = []
    if not url:
        memory = MemoryStore()
        memory.listeners.append(changed.append)
        yield Rig(memory, changed)
        return
    async with AsyncExitStack() as stack:
        db = await stack.enter_async_context(open_db(url))
        store = await stack.enter_async_context(open_store(db))
        store.listeners.append(changed.append)
        yield Rig(store, changed)


async def accepted(rig: Rig, *these: Run) -> None:
    async def work(tx: Any) -> None:
        for run in these:
            await tx.accept(run, INPUT)

    await rig.store.write(work)


async def moved(rig: Rig, *these: Run) -> None:
    await rig.store.write(lambda tx: tx.save(these))


async def test_a_run_comes_back_as_it_was(rig: Rig) -> None:
    run = a_run(
        provision_id="run_p",
        one_time_key_id="key_1",
        depth=2,
        log_tail=("a", "b"),
        traceparent="00-a-b-01",
        attempt=3,
        may_deploy=True,
        billing=Billing((Budget("key:key_0", 2**53 - 1), Budget("run:run_0", 0)), "key_0", charged_on_success=True),
    )
    await accepted(rig, run)
    assert await rig.store.find_run(ME, run.id) == run
    assert await rig.store.find_run(ME, "run_other") is None
    assert rig.changed == [run]


async def test_the_answer_is_kept_with_the_end(rig: Rig) -> None:
    run = a_run()
    await accepted(rig, run)
    answer = Answer(b"head", b"content", "", 7)
    await moved(rig, run.ended(DONE, at=START, result=Result(answer)))
    whole = await rig.store.find_run(ME, run.id)
    assert whole.status is Status.SUCCEEDED
    assert whole.answer == answer
    assert (await rig.store.find_run(ME, run.id, content=False)).answer == replace(answer, content=b"")
    assert rig.changed[-1].answer == answer


async def test_a_run_can_be_inserted_at_its_end(rig: Rig) -> None:
    run = a_run().ended(DONE, at=START, result=Result(Answer(b"", b"x", "", 1), usage=Usage()))
    await rig.store.write(lambda tx: tx.insert([run]))
    found = await rig.store.find_run(ME, run.id)
    assert (found.answer.content, found.usage) == (b"x", Usage())


async def test_what_a_run_used_is_kept_with_its_end(rig: Rig) -> None:
    run, unknown = a_run(), a_run()
    await accepted(rig, run, unknown)
    used = Usage(cpu_seconds=0.125, wall_seconds=2.5, memory_peak_bytes=5 << 30, egress_bytes=1 << 40)
    assert (await rig.store.find_run(ME, run.id)).usage is None
    await moved(rig, run.ended(DONE, at=START, result=Result(usage=used)), unknown.ended(CANCELLED, at=START))
    assert (await rig.store.find_run(ME, run.id)).usage == used
    assert (await rig.store.find_run(ME, unknown.id)).usage is None
    assert {one.usage for one in await rig.store.history(History("org_caller"))} == {used, None}


async def test_a_provisioned_id_reads_the_newest_of_its_runs(rig: Rig) -> None:
    first = a_run(id="run_p", provision_id="run_p", one_time_key_id="key_1")
    second = a_run(provision_id="run_p", created_at=START + timedelta(seconds=1))
    await accepted(rig, first)
    assert (await rig.store.find_run(ME, "run_p")).id == "run_p"
    await accepted(rig, second)
    assert (await rig.store.find_run(ME, "run_p")).id == second.id
    assert (await rig.store.find_run(ME, second.id)).id == second.id
    assert (await rig.store.find_run(replace(ME, exact=True), "run_p")).id == "run_p"
    assert (await rig.store.find_run(replace(ME, one_time_key_id="key_1"), "run_p")).id == "run_p"
    assert await rig.store.find_run(replace(ME, one_time_key_id="key_2"), "run_p") is None


async def test_provisions_are_kept(rig: Rig) -> None:
    provision = Provision("run_p", "org_caller", "key_1", START)
    await rig.store.write(lambda tx: tx.add_provision(provision))
    assert await rig.store.find_provision("run_p") == provision
    used = replace(provision, used_at=START, cancelled_at=START)
    await rig.store.write(lambda tx: tx.save_provision(used))
    assert await rig.store.find_provision("run_p") == used
    assert await rig.store.find_provision("run_q") is None


async def test_a_work_that_fails_leaves_nothing(rig: Rig) -> None:
    run = a_run()

    async def refused(tx: Any) -> None:
        raise NotFound("no")

    async def broken(tx: Any) -> None:
        await tx.accept(run, INPUT)
        raise NotFound("too late")

    works = [refused, broken, lambda tx: tx.insert([a_run(id="run_kept")])]
    results = await asyncio.gather(*(rig.store.write(work) for work in works), return_exceptions=True)
    assert [type(result) for result in results] == [NotFound, NotFound, type(None)]
    assert await rig.store.find_run(ME, run.id) is None
    assert await rig.store.find_run(ME, "run_kept") is not None
    assert [one.id for one in rig.changed] == ["run_kept"]


async def test_one_time_keys_are_unique(rig: Rig) -> None:
    await accepted(rig, a_run(one_time_key_id="key_1"), a_run(), a_run())
    assert await rig.store.write(lambda tx: tx.one_time_used("key_1"))
    assert not await rig.store.write(lambda tx: tx.one_time_used("key_2"))
    with pytest.raises(Exception, match=r"UNIQUE|unique|twice"):
        await accepted(rig, a_run(one_time_key_id="key_1"))


async def test_what_is_overdue(rig: Rig) -> None:
    run = a_run(deadline=START + timedelta(seconds=10))
    await accepted(rig, run, a_run())
    assert await rig.store.overdue(Status.QUEUED, START + timedelta(seconds=10), 10) == []
    assert await rig.store.overdue(Status.QUEUED, START + timedelta(seconds=11), 10) == [run]
    assert await rig.store.overdue(Status.RUNNING, START + timedelta(seconds=11), 10) == []


async def test_history_is_newest_first_in_pages(rig: Rig) -> None:
    runs = [a_run(created_at=START + timedelta(seconds=number // 2)) for number in range(6)]
    theirs = a_run(caller_id="org_x", acting_id="org_x")
    secrets = a_run(caller_id="org_x", acting_id="org_caller", created_at=START + timedelta(minutes=1))
    await accepted(rig, *runs, theirs, secrets)
    wanted = [one.id for one in sorted([*runs, secrets], key=lambda run: (run.created_at, run.id), reverse=True)]
    found: list[str] = []
    while page := await rig.store.history(History("org_caller", limit=3, after=found[-1] if found else "")):
        found += [run.id for run in page]
    assert found == wanted
    assert await rig.store.history(History("org_caller", after="run_gone")) == []


async def test_history_is_filtered(rig: Rig) -> None:
    done, other = a_run().ended(DONE, at=START, result=Result(Answer(b"", b"x", "", 1))), a_run(service_id="bye")
    await rig.store.write(lambda tx: tx.insert([done, other]))
    assert [run.id for run in await rig.store.history(History("org_caller", service_id="bye"))] == [other.id]
    found = await rig.store.history(History("org_caller", status=Status.SUCCEEDED))
    assert [run.id for run in found] == [done.id]
    assert found[0].answer.content == b""
    traced = a_run(trace_id="0" * 31 + "1")
    theirs = replace(traced, id="run_theirs", caller_id="org_b", acting_id="org_b")
    await rig.store.write(lambda tx: tx.insert([traced, theirs]))
    assert [run.id for run in await rig.store.history(History("org_caller", trace_id=traced.trace_id))] == [traced.id]
    for status in Status:
        for run in await rig.store.history(History("org_caller", status=status)):
            assert run.status is status
    assert await rig.store.history(History("org_nobody")) == []


async def test_old_runs_and_ids_are_deleted(rig: Rig) -> None:
    old = [
        a_run().ended(DONE, at=START + timedelta(seconds=n), result=Result(Answer(b"", b"x", "", 1))) for n in range(3)
    ]
    for run in old:
        await accepted(rig, run)
    await accepted(rig, waiting := a_run())
    cut = START + timedelta(seconds=2)
    assert await rig.store.write(lambda tx: tx.delete_runs(cut, 1)) == 1
    assert await rig.store.find_run(ME, old[0].id) is None
    assert await rig.store.write(lambda tx: tx.delete_runs(cut, 10)) == 1
    assert await rig.store.write(lambda tx: tx.delete_runs(cut, 10)) == 0
    assert await rig.store.find_run(ME, waiting.id) == waiting

    for name, used in (("run_fresh", None), ("run_stale", None), ("run_used", START)):
        made = START if name != "run_fresh" else START + timedelta(hours=2)
        provision = Provision(name, "org_caller", "", made, used)
        await rig.store.write(lambda tx, it=provision: tx.add_provision(it))
    hour = START + timedelta(hours=1)
    assert await rig.store.write(lambda tx: tx.delete_provisions(hour, START, 10)) == 1
    assert await rig.store.find_provision("run_stale") is None
    assert await rig.store.write(lambda tx: tx.delete_provisions(hour, hour, 10)) == 1
    assert await rig.store.find_provision("run_fresh") is not None


async def test_where_it_is_kept_what_a_run_contacted(rig: Rig) -> None:
    run = a_run()
    await accepted(rig, run)
    assert (await rig.store.find_run(ME, run.id)).egress_digest == ""
    await moved(rig, run.ended(DONE, at=START, result=Result(egress_digest="e" * 64)))
    assert (await rig.store.find_run(ME, run.id)).egress_digest == "e" * 64


@pytest.mark.parametrize("rules", [None, (), ("api.example", "!10.0.0.0/8")])
async def test_what_a_version_may_reach(rig: Rig, rules: tuple[str, ...] | None) -> None:
    await rig.store.write(lambda tx: tx.insert_workflow(WORKFLOW))
    await rig.store.write(lambda tx: tx.insert_version(replace(VERSION, egress=rules)))
    assert (await rig.store.version_by_id(VERSION.id)).egress == rules


async def test_which_cancels_wait_for_their_executor(rig: Rig) -> None:
    def running(**changes: Any) -> Run:
        return a_run(**changes).started(executor="unix:a", incarnation="inc_1", at=START)

    wish = Outcome(Status.TIMED_OUT, "timeout", "its caller waits no longer", ("a", "b"))
    first, second = running(), running()
    ended, alone, waiting = running(), running(), a_run()
    await accepted(rig, first, second, ended, alone, waiting)
    first = first.cancelled(wish, at=START)
    second, ended = (run.cancelled(CANCELLED, at=START + timedelta(seconds=1)) for run in (second, ended))
    await moved(rig, second, first, ended)
    await moved(rig, ended := ended.ended(CANCELLED, at=START), waiting.cancelled(CANCELLED, at=START))
    assert await rig.store.find_run(ME, ended.id) == ended
    assert await rig.store.cancelled(START, 10) == []
    assert await rig.store.cancelled(START + timedelta(seconds=1), 10) == [first]
    assert await rig.store.cancelled(START + timedelta(seconds=2), 10) == [first, second]
    assert await rig.store.cancelled(START + timedelta(seconds=2), 1) == [first]


async def test_events_are_told(rig: Rig) -> None:
    run = a_run()
    await rig.store.write(lambda tx: tx.tell([RunQueued(run.id), RunEnded(run.ended(CANCELLED, at=START))]))
    await rig.store.write(lambda tx: tx.tell([]))


async def test_workflows_and_versions_come_back(rig: Rig) -> None:
    workflow = replace(WORKFLOW, limits=Limits(sync_timeout_ms=5))
    version = replace(
        VERSION,
        env_vars=(EnvVar("A"), EnvVar("B", "")),
        limits=Limits(sync_timeout_ms=1, concurrency=2),
        lock="a==1",
        openapi="{}",
    )
    await rig.store.write(lambda tx: tx.insert_workflow(workflow))
    assert await rig.store.write(lambda tx: tx.last_version(workflow.id)) == 0
    await rig.store.write(lambda tx: tx.insert_version(version))
    assert await rig.store.write(lambda tx: tx.last_version(workflow.id)) == 1
    assert await rig.store.write(lambda tx: tx.version_exists(version.id))
    assert await rig.store.find_workflow("org_owner", "hello") == workflow
    assert await rig.store.find_workflow("org_caller", "hello") is None
    effective = replace(version, limits=Limits(sync_timeout_ms=5, concurrency=2))
    assert await rig.store.find_version(workflow.id, 1) == effective
    assert await rig.store.version_by_id(version.id) == effective
    assert await rig.store.find_version(workflow.id, 2) is None


async def test_prompts_come_back(rig: Rig) -> None:
    prompt = Prompt("Tell: {{ story }}", "openai/m", '{"system": "é\\u0000"}', web_search=True, variables=("b", "a"))
    version = replace(VERSION, prompt=prompt)
    workflow = replace(WORKFLOW, kind="prompt", published=True)
    await rig.store.write(lambda tx: tx.insert_workflow(workflow))
    await rig.store.write(lambda tx: tx.insert_version(version))
    assert await rig.store.find_version(workflow.id, 1) == version
    assert (await rig.store.find_workflow("org_owner", "hello")).published
    await rig.store.write(lambda tx: tx.save_workflow(replace(workflow, published=False)))
    assert not (await rig.store.find_workflow("org_owner", "hello")).published


async def test_what_is_served_comes_back(rig: Rig) -> None:
    split = replace(WORKFLOW, version=2, version_before=1, traffic=((2, 90), (3, 10)), limits=Limits(concurrency=4))
    await rig.store.write(lambda tx: tx.insert_workflow(split))
    for number in (1, 2, 3):
        version = replace(VERSION, id=f"ver_{number}", number=number)
        await rig.store.write(lambda tx: tx.insert_version(version))  # noqa: B023
    assert await rig.store.find_workflow("org_owner", "hello") == split
    assert await rig.store.write(lambda tx: tx.version_numbers(split.id, {1, 3, 9})) == {1, 3}
    assert await rig.store.write(lambda tx: tx.version_numbers("wfl_other", {1})) == set()
    newest = await rig.store.list_versions(split.id, below=(1 << 31) - 1, limit=2)
    assert [(one.number, one.limits.concurrency) for one in newest] == [(3, 4), (2, 4)]
    assert [one.number for one in await rig.store.list_versions(split.id, below=2, limit=2)] == [1]
    plain = split.serving((1, 100))
    await rig.store.write(lambda tx: tx.save_workflow(plain))
    assert await rig.store.find_workflow("org_owner", "hello") == plain


async def test_a_deleted_name_is_free(rig: Rig) -> None:
    await rig.store.write(lambda tx: tx.insert_workflow(WORKFLOW))
    await rig.store.write(lambda tx: tx.save_workflow(replace(WORKFLOW, deleted_at=START)))
    assert await rig.store.find_workflow("org_owner", "hello") is None
    await rig.store.write(lambda tx: tx.insert_workflow(replace(WORKFLOW, id="wfl_2")))
    assert (await rig.store.find_workflow("org_owner", "hello")).id == "wfl_2"


async def test_workflows_are_listed(rig: Rig) -> None:
    public = replace(WORKFLOW, id="wfl_2", service_id="two", visibility=Visibility.PUBLIC)
    unpublished = replace(public, id="wfl_3", service_id="three", version=0)
    theirs = replace(public, id="wfl_4", organization_id="org_x")
    for one in (WORKFLOW, public, unpublished, theirs):
        await rig.store.write(lambda tx, it=one: tx.insert_workflow(it))
    own = await rig.store.list_own("org_owner", None, limit=2, after="")
    assert [one.id for one in own] == ["wfl_1", "wfl_2"]
    assert [one.id for one in await rig.store.list_own("org_owner", None, limit=2, after="wfl_2")] == ["wfl_3"]
    private = await rig.store.list_own("org_owner", Visibility.PRIVATE, limit=9, after="")
    assert [one.id for one in private] == ["wfl_1"]
    visible = await rig.store.list_visible(Visibility.PUBLIC, limit=9, after="")
    assert [one.id for one in visible] == ["wfl_2", "wfl_4"]


async def test_whatever_a_sandbox_printed_is_kept(database: Callable[[str], str]) -> None:
    """PostgreSQL's text has no U+0000, and a report that can't be written is never taken."""
    run = a_run().ended(Outcome(Status.FAILED, "workflow_crashed", "a\0b"), at=START)
    run = replace(run, log_tail=("\0", "\ud800"), answer=Answer(b"\0", b"\xff\0", "", 2))
    async with open_db(database("scheduler")) as db, open_store(db) as store:
        await store.write(lambda tx: tx.insert([run]))
        assert await store.find_run(ME, run.id) == replace(run, detail="a\ufffdb")


async def test_an_input_is_kept_as_long_as_its_run(rig: Rig) -> None:
    durable, direct = a_run(), a_run()
    await accepted(rig, durable)
    given = Input(b"head", b"body", "")

    async def insert(tx: Any) -> None:
        await tx.insert([direct])
        await tx.keep_inputs({})
        await tx.keep_inputs({direct.id: given})

    await rig.store.write(insert)
    assert await rig.store.find_input(durable.id) == INPUT
    assert await rig.store.find_input(direct.id) == given
    assert await rig.store.find_input("run_other") is None
    await moved(rig, direct.ended(DONE, at=START))
    await rig.store.write(lambda tx: tx.delete_runs(START + timedelta(days=1), 10))
    assert await rig.store.find_input(direct.id) is None


async def test_what_a_run_replays_and_its_recording_come_back(rig: Rig) -> None:
    run = a_run(replay_of="run_before", offline_digest="a" * 64, record=True)
    await accepted(rig, run)
    assert await rig.store.find_run(ME, run.id) == run
    await moved(rig, run.ended(DONE, at=START, result=Result(recording_digest="b" * 64)))
    assert (await rig.store.find_run(ME, run.id)).recording_digest == "b" * 64
