"""The library: deployed when it has changed, as everybody's, however long an executor or the index stays away."""

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kit.clock import FakeClock
from kit.errors import Unavailable
from scheduler.catalog import Catalog
from scheduler.deploy import Deploy
from scheduler.library import text_of
from scheduler.settings import Settings
from scheduler.stock import Stock
from scheduler.workflow import RESERVED, SYSTEM, Check, Report, Visibility
from tests.fakes.scheduler_rig import Scheduler
from tests.fakes.scheduling import START, FakeBlobs, FakeExecutors, settled

GOOD = FakeExecutors().report


class Library:
    def __init__(self, scheduler: Scheduler, directory: Path) -> None:
        self.directory, self.clock = directory, FakeClock(START)
        self.executors, self.store = scheduler.executors, scheduler.store
        self.catalog = Catalog(scheduler.store, self.clock)
        deploy = Deploy(scheduler.store, scheduler.executors, FakeBlobs(), self.clock)
        self.stock = Stock(directory, deploy, self.catalog, self.clock)
        self.write("schedule_runs", "app = 1\n")

    def write(self, name: str, code: str) -> None:
        (self.directory / f"{name}.py").write_text(code)

    async def version(self, name: str = "schedule_runs") -> int:
        """As somebody sees it who has nothing to do with the system."""
        return (await self.catalog.resolve("org_caller", name))[1].number


@pytest.fixture
def library(scheduler: Scheduler, tmp_path: Path) -> Library:
    return Library(scheduler, tmp_path)


async def test_everybody_may_call_it_and_only_a_change_deploys_it_again(library: Library) -> None:
    assert await library.stock.once()
    assert await library.version() == 1
    workflow, _ = await library.catalog.resolve("org_caller", "schedule_runs")
    assert (workflow.organization_id, workflow.visibility) == (SYSTEM, Visibility.PUBLIC)
    assert await library.stock.once()
    assert await library.version() == 1
    assert len(library.executors.validated) == 1
    library.write("schedule_runs", "app = 2\n")
    assert await library.stock.once()
    assert await library.version() == 2


async def test_what_services_share_is_written_into_each(library: Library) -> None:
    (library.directory / "common").mkdir()
    (library.directory / "common" / "nouns.py").write_text("NOUN = 1\n")
    library.write("schedule_runs", "import os\nfrom library.common.nouns import NOUN\n\napp = NOUN\n")
    library.write("several", "from library.common.nouns import (\n    NOUN,\n    VERB,\n)\n\napp = NOUN\n")
    assert text_of(library.directory / "schedule_runs.py", library.directory) == "import os\nNOUN = 1\n\n\napp = NOUN\n"
    assert text_of(library.directory / "several.py", library.directory) == "NOUN = 1\n\n\napp = NOUN\n"
    assert await library.stock.once()
    assert await library.version() == 1
    (library.directory / "common" / "verbs.py").write_text("from library.common.nouns import NOUN\n\nVERB = NOUN\n")
    twice = "from library.common.verbs import VERB\nfrom library.common.nouns import NOUN\n\napp = NOUN\n"
    library.write("nested", twice)
    nested = text_of(library.directory / "nested.py", library.directory)
    assert (nested.count("NOUN = 1"), nested.count("VERB = NOUN"), nested.count("import")) == (1, 1, 0)
    (library.directory / "common" / "nouns.py").write_text("NOUN = 2\n")
    assert await library.stock.once()
    assert await library.version() == 2
    (library.directory / "common" / "nouns.py").unlink()
    assert not await library.stock.once()
    assert await library.version() == 2


async def test_a_start_that_was_killed_before_it_was_shared(library: Library) -> None:
    await library.stock.once()
    state = library.store.state
    (workflow,) = (one for one in state.workflows.values() if one.organization_id == SYSTEM)
    state.workflows[workflow.id] = type(workflow)(**{**vars(workflow), "visibility": Visibility.PRIVATE})
    await library.stock.once()
    assert await library.version() == 1
    assert len(library.executors.validated) == 1


async def test_without_an_executor_or_an_index_it_waits(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object, **__: object) -> Report:
        raise Unavailable("no executor is known")

    monkeypatch.setattr(library.executors, "validate", away)
    working = asyncio.create_task(library.stock.run())
    await settled()
    monkeypatch.undo()
    library.executors.report = Report((Check("dependencies", passed=False, detail="the index can't be reached"),))
    await library.clock.advance(1)
    await settled()
    assert len(library.executors.validated) == 1
    library.executors.report = GOOD
    await library.clock.advance(1)
    await settled()
    assert len(library.executors.validated) == 1  # it waits longer each time
    await library.clock.advance(1)
    await settled()
    assert await library.version() == 1
    assert not working.done()
    working.cancel()


async def test_what_waits_for_the_same_is_told_in_one_line(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: object, **__: object) -> Report:
        raise Unavailable("no executor is known")

    library.write("a", "app = 3\n")
    monkeypatch.setattr(library.executors, "validate", away)
    with capture_logs() as told:
        assert not await library.stock.once()
    assert [(line["event"], line["services"], line["reason"]) for line in told] == [
        ("library.waiting", ["a", "schedule_runs"], "no executor is known")
    ]


async def test_one_that_fails_doesnt_stop_the_others(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    library.write("a", "app = 3\n")
    validate = library.executors.validate

    async def some(organization_id: str, code: str, name: str, *, preload: bool = False, log_id: str = "") -> Report:
        if name == "a.py":
            raise RuntimeError("a bug")
        return await validate(organization_id, code, name, preload=preload)

    monkeypatch.setattr(library.executors, "validate", some)
    assert not await library.stock.once()
    assert await library.version() == 1


async def test_its_names_are_reserved() -> None:
    names = {path.stem for path in Settings().library.glob("*.py")}
    assert "schedule_runs" in names
    assert names <= RESERVED
