"""The scheduler: what is to run, what runs, what has run; and the workflows and versions that can.

Owns: workflows and their immutable versions; runs, provisioned ids, one-time uses; the queue of the durable way in.
Serves: mesh.workflows.v1.Workflows, mesh.runs.v1.Runs.
Calls: executors (Validate, Start, Stop, health), filestore (PutBlob, for a workflow's source).
Stores: workflows, versions, provisions, runs, inputs, answers, outbox.
Sends: event.run.queued, event.runs.ended, event.workflow.changed.
A run only ever moves forward, queued → running → one of the ends, whoever reports and however often (`model.py`).
Read: model, submit, place, fleet, dispatch, report, cancel, watch, recall, reap; workflow, deploy, catalog; rpc, main.
"""
