"""Bills: protobuf ⇄ model. Pure."""

from collections.abc import Iterable

from mesh.ledger.v1 import ledger_pb2
from mesh.runs.v1 import runs_pb2

from scheduler.bill import Bill

MOST_PURSE_ID = 40


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
