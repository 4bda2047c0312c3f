"""Who pays for an attempt (docs/decisions/0020). Pure."""

from dataclasses import replace
from datetime import datetime, timedelta

from scheduler.bill import Bill
from scheduler.model import Outcome, Run, Status
from scheduler.retry import OURS

# What goes on for longer after a root that failed has outlived it: an asynchronous run, or what that has called. What
# the root waited for is stopped with it.
OUTLIVES = timedelta(seconds=10)


def charged(
    after: Run, bill: Bill, outcome: Outcome, root: Run | None, at: datetime, *, handed_back: bool = False
) -> tuple[Run, Bill]:
    """The run with what it is charged for an attempt that ended so, `at` that time, and the bill as it goes to the
    ledger. `root` as it stands, of a run that isn't one. Nobody pays for what the platform failed.
    """
    if handed_back or (outcome.status is Status.FAILED and outcome.code in OURS):
        bill = bill.free()
    if after.billing.charged_on_success:
        root = after if after.decides else root
        if root is None or not root.status.over:
            bill = replace(bill, held=True)
        elif not root.pays and at <= (root.completed_at or at) + OUTLIVES:
            bill = bill.free()
    return replace(after, cost_own=after.cost_own + bill.charge), bill
