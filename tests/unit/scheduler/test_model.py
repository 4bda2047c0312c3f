from dataclasses import replace
from datetime import timedelta

from hypothesis import given
from hypothesis import strategies as st

from scheduler.model import Asker, Outcome, Provision, Run, Status
from scheduler.result import Answer, Result
from tests.fakes.scheduling import START, a_run

ENDS = [Outcome(status, code) for status in Status if status.over for code in ("", "timeout")]
STEPS = st.one_of(
    st.tuples(st.sampled_from(["unix:a", "unix:b"]), st.sampled_from(["", "one", "two"])), st.sampled_from(ENDS)
)


def step(run: Run, what: tuple[str, str] | Outcome) -> Run:
    if isinstance(what, Outcome):
        return run.ended(what, at=START)
    return run.started(executor=what[0], incarnation=what[1], at=START)


@given(st.lists(STEPS, max_size=12))
def test_a_run_only_moves_forward_and_ends_once(steps: list[tuple[str, str] | Outcome]) -> None:
    run = a_run()
    for what in steps:
        after = step(run, what)
        assert after.status >= run.status or not run.status.over
        if run.status.over:
            assert after is run
        if run.executor:
            assert after.executor == run.executor
        assert step(after, what) is after  # redelivery changes nothing
        run = after
    ends = [what for what in steps if isinstance(what, Outcome)]
    assert run.status.over == bool(ends)
    if ends:
        assert (run.status, run.code) == (ends[0].status, ends[0].code)
        assert run.completed_at == START


def test_a_later_state_supersedes() -> None:
    queued = a_run()
    running = queued.started(executor="x", incarnation="", at=START)
    ended = running.ended(Outcome(Status.SUCCEEDED), at=START, result=Result(Answer(b"")))
    later = a_run(created_at=START + timedelta(seconds=1))
    assert queued.supersedes(None)
    assert running.supersedes(queued)
    assert ended.supersedes(running)
    assert not running.supersedes(ended)
    assert not running.supersedes(running)
    assert later.supersedes(ended)
    assert not ended.supersedes(later)


def test_a_provision_expires_unless_it_was_used() -> None:
    provision = Provision("run_p", "org_a", "", START)
    mine, theirs = frozenset({"org_a"}), frozenset({"org_b"})
    almost, hour = START + timedelta(minutes=59), START + timedelta(hours=1)
    assert provision.usable_by(mine, almost)
    assert not provision.usable_by(theirs, almost)
    assert not provision.usable_by(mine, hour)
    assert replace(provision, used_at=START).usable_by(mine, hour)
    assert not replace(provision, cancelled_at=START).usable_by(mine, START)


def test_the_first_run_takes_the_provisioned_id() -> None:
    provision = Provision("run_p", "org_a", "", START)
    first, provision = provision.use("run_1", START)
    second, provision = provision.use("run_2", START + timedelta(hours=3))
    assert (first, second) == ("run_p", "run_2")
    assert provision.used_at == START + timedelta(hours=3)


def test_who_sees_a_run() -> None:
    run = a_run(requester_id="org_parent", one_time_key_id="key_1")
    assert all(Asker(one).sees(run) for one in ("org_caller", "org_owner", "org_parent"))
    assert not Asker("org_x").sees(run)
    assert Asker("org_caller", "key_1").sees(run)
    assert not Asker("org_caller", "key_2").sees(run)
    assert not Asker("org_x", "key_1").sees(run)
