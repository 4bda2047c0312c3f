"""The edge: the only service that the outside reaches. It gives HTTP its meaning: headers, statuses, JSON shapes,
NDJSON and server-sent events, deadlines of synchronous calls.

Owns and stores nothing. Serves mesh.edge.v1 (google.api.http, HttpBody in and out) to Envoy, which transcodes; what
the two say to each other beside the protos is in head.py and deploy/envoy/edge.lua.
Calls keys (Verify, permits, keys, secrets, webhooks), scheduler (Workflows, Runs, Schedules, Deliveries), executor
(Run, Attach), filestore (Files, Blobs). Hears event.key.revoked, event.workflow.changed, event.delivery.due, tails
log.ID. Sends the end of a refused run's log, and the records of runs to the addresses that their callers named.

Reading order: http, model; rpc, exchange, transfer, head, routes; auth, identity, rates, permits, problems; then the
handlers by noun: keys, secrets, workflows, schedules, files, platform; runs, which tells its own order; openapi/, which
describes them all, and documents.
"""
