"""The scheduler: what is to run, what runs, what has run; and the workflows and versions that can.

Owns: workflows and their immutable versions; runs, provisioned ids, one-time uses; the queue of the durable way in;
executors' leases; schedules; deliveries of records.
Serves: mesh.workflows.v1.Workflows, mesh.runs.v1.Runs, mesh.runs.v1.Deliveries, mesh.schedules.v1.Schedules.
Calls: executors (Validate, Start, Stop, health), filestore (PutBlob, for a workflow's source), keys (Ledger.Settle).
Stores: workflows, versions, provisions, runs, inputs, answers, idempotency, executors, schedules, fires, deliveries,
bills, outbox. Sends: event.runs.queued, event.runs.ended, event.delivery.due, event.workflow.changed.
A run only ever moves forward, whoever reports and however often: queued → running → one of the ends, or back to queued
for another attempt (`model.py`).
Read: model, retry, submit, place, fleet, shares, dispatch, report, cancel, watch, estimate, recall, renew, reap, sweep;
delivery, deliver; bill, charge, bills; workflow, deploy, catalog, stock; schedule, cron, plan, fire; rpc, main.
"""
