"""Bills and budgets: protobuf ⇄ model. Pure."""

from collections.abc import Iterable

from mesh.ledger.v1 import ledger_pb2
from mesh.runs.v1 import run_pb2, runs_pb2

from kit.errors import Invalid
from scheduler.bill import Bill, Budget

# A key's, and one of each run above it (SPEC §3: at most 16 deep).
MOST_BUDGETS = 17
MOST_BUDGET_ID = 100
MOST_PURSE_ID = 40


def budgets(spec: run_pb2.RunSpec) -> tuple[Budget, ...]:
    """Errors: Invalid."""
    if len(spec.budgets) > MOST_BUDGETS or any(len(budget.id) > MOST_BUDGET_ID for budget in spec.budgets):
        raise Invalid(f"a run has at most {MOST_BUDGETS} budgets")
    return told_budgets(spec)


def told_budgets(spec: run_pb2.RunSpec) -> tuple[Budget, ...]:
    """Of a run that has begun: whatever they are, its report is taken."""
    return tuple(Budget(budget.id[:MOST_BUDGET_ID], budget.limit) for budget in spec.budgets[:MOST_BUDGETS])


def to_budgets(these: Iterable[Budget]) -> list[ledger_pb2.Budget]:
    return [ledger_pb2.Budget(id=budget.id, limit=budget.limit) for budget in these]


def bill(message: runs_pb2.RunEnded) -> Bill | None:
    """Of this attempt, whatever it says itself. None without a purse: the ledger could do nothing with it."""
    if not message.HasField("bill"):
        return None
    its = ledger_pb2.Bill()
    its.CopyFrom(message.bill)
    its.run_id, its.attempt, its.root_id = message.run_id, message.attempt, its.root_id or message.run_id
    charge = max(0, min(its.charge, its.reserved))
    if not 0 < len(its.purse_id) <= MOST_PURSE_ID or len(its.root_id) > MOST_PURSE_ID:
        return None
    return Bill(its.run_id, its.attempt, its.purse_id, its.root_id, charge, its.SerializeToString())


def settlement(bills: Iterable[Bill]) -> ledger_pb2.SettleRequest:
    request = ledger_pb2.SettleRequest()
    for bill in bills:
        message = request.bills.add()
        message.ParseFromString(bill.payload)
        message.charge = bill.charge
    return request
