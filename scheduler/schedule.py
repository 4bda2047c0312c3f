"""Schedules: their nouns, and what becomes of one when it was due. Standard library only."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from kit.errors import Exhausted, NotFound, Problem, Unavailable
from scheduler.billing import UNBILLED, Billing

MOST_EXPRESSION = 200
MOST_INPUT_BYTES = 64 * 1024
# So many times in a row without a workflow that can be called, and it stops.
MOST_FAILURES = 20
MOST_ERROR = 500
SHORTEST = timedelta(minutes=1)


@dataclass(frozen=True)
class Schedule:
    """One schedule, as its row says. `reference` is resolved anew at each fire; `workflow_id` is what it stood for when
    the schedule was made.
    """

    id: str
    # Whose it is, as whom it calls, and who pays.
    organization_id: str
    reference: str
    workflow_id: str
    cron_expression: str
    timezone: str
    # JSON: the body of each run.
    input: bytes
    created_at: datetime
    # The key, or the run of a library service, that made it.
    created_by: str
    # None: it has stopped, and `last_error` says why.
    next_fire_at: datetime | None
    # When the last run was due, and its id.
    last_fired_at: datetime | None = None
    last_run_id: str = ""
    # When it last wasn't fired although it was due: the first time, where that went on.
    last_skipped_at: datetime | None = None
    # Why the last run that was due couldn't start; empty since one has.
    last_error: str = ""
    # Of these, how many in a row that weren't for want of room.
    failures: int = 0
    # Of each of its runs: the budget of the key that made it is theirs, too.
    billing: Billing = UNBILLED

    def fired(self, run_id: str, at: datetime, following: datetime | None) -> "Schedule":
        """With the run that was due `at`."""
        ended = "" if following else "there is no later time to fire at"
        return replace(self, last_fired_at=at, last_run_id=run_id, next_fire_at=following, last_error=ended, failures=0)

    def skipped(self, following: datetime | None) -> "Schedule":
        """Without a run for what was due."""
        return replace(self, last_skipped_at=self.next_fire_at, next_fire_at=following)

    def refused(self, problem: Problem) -> "Schedule":
        """Without a run, because of `problem`. Want of room passes; anything else MOST_FAILURES times, and it stops."""
        failures = self.failures + (not isinstance(problem, Exhausted | Unavailable))
        told, following = problem.message[:MOST_ERROR], self.next_fire_at
        if failures >= MOST_FAILURES or following is None:
            told, following = f"{told} (it has stopped: delete it and make it anew)", None
        return replace(self, last_error=told, failures=failures, next_fire_at=following)


def unknown_schedule() -> NotFound:
    """Alike for unknown and somebody else's."""
    return NotFound("no such schedule: check the id; GET /schedules lists yours")
