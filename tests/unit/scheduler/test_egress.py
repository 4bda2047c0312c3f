"""What a version may reach, and where it is kept what a run contacted: through the scheduler unchanged."""

from dataclasses import replace

import pytest
from mesh.executor.v1 import executor_pb2
from mesh.runs.v1 import run_pb2, runs_pb2
from mesh.workflows.v1 import workflows_pb2

from scheduler import wire, workflow_wire
from scheduler.model import Outcome, Status
from tests.fakes.scheduling import START, VERSION, a_run


@pytest.mark.parametrize("rules", [None, (), ("api.example", "!*")])
def test_rules_of_a_version(rules: tuple[str, ...] | None) -> None:
    message = None if rules is None else workflows_pb2.EgressRules(entries=rules)
    assert workflow_wire.report(executor_pb2.ValidateResponse(egress=message)).egress == rules
    version = workflow_wire.version(replace(VERSION, egress=rules))
    assert version.HasField("egress") == (rules is not None)
    assert tuple(version.egress.entries) == (rules or ())


def test_what_a_run_contacted() -> None:
    outcome = run_pb2.Outcome(status=run_pb2.RUN_STATUS_SUCCEEDED)
    ended = wire.ended(runs_pb2.RunEnded(run_id="run_1", attempt=1, outcome=outcome, egress_digest="e" * 99))
    assert ended.result.egress_digest == "e" * 64
    run = a_run().ended(Outcome(Status.SUCCEEDED), at=START, result=ended.result)
    assert wire.record(run).egress_digest == "e" * 64
