import pytest

from tests.fakes.scheduler_rig import Scheduler


@pytest.fixture
def scheduler() -> Scheduler:
    return Scheduler()
