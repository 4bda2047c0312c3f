"""Turns a run's spec into an outcome: one host's sandboxes, a fresh one for every run.

Owns    the sandboxes of this host, their answers and output while they run, dependency environments. Nothing durable.
Serves  mesh.executor.v1.Executor: Run (direct way), Start and Attach (durable way), Stop, Validate.
Calls   scheduler (Workflows.GetVersion, Runs.Report), keys (Secrets.ResolveSecrets, Ledger, Prices), filestore (Blobs).
Stores  built environments and sources by digest in RUNMESH_HOME; both can be thrown away.
Sends   log.RUN_ID; listens to event.secret.changed.

Read model.py, sandbox.py (the port to a sandbox), run.py (one attempt from start to end), tab.py (what it
owes), runs.py (all of them).
"""
