"""The schema. Indexes that the queue and the reaper use are partial: what has ended costs them nothing."""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
    true,
)

from kit.db import UtcDateTime, outbox_table

metadata = MetaData()


def _only(condition: str) -> dict[str, Any]:
    """A partial index, on both engines."""
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


workflows = Table(
    "workflows",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("organization_id", String(100), nullable=False),
    Column("service_id", String(100), nullable=False),
    Column("name", String(200), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("visibility", Integer, nullable=False),
    Column("limits", JSON, nullable=False),
    # The number of the version that is served; 0: none yet.
    Column("version", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
    # Its runs still name it, so the row remains; the name is free again.
    Column("deleted_at", UtcDateTime),
    # Whether /api/v1 runs it; code is from its deploy on.
    Column("published", Boolean, nullable=False, server_default=true()),
    # [[version, per cent of the calls], …] where several are served.
    Column("traffic", JSON(none_as_null=True)),
    # What was served before; 0: nothing.
    Column("version_before", Integer, nullable=False, server_default="0"),
)
Index(
    "workflows_name",
    workflows.c.organization_id,
    workflows.c.service_id,
    unique=True,
    **_only("deleted_at IS NULL"),
)
Index("workflows_own", workflows.c.organization_id, workflows.c.id)
Index("workflows_visible", workflows.c.visibility, workflows.c.id)

versions = Table(
    "versions",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("workflow_id", String(40), ForeignKey("workflows.id"), nullable=False),
    Column("number", Integer, nullable=False),
    Column("source_digest", String(64), nullable=False),
    Column("file_name", String(110), nullable=False),
    Column("python", String(20), nullable=False),
    Column("lock", Text, nullable=False),
    Column("env_vars", JSON, nullable=False),
    Column("isolation", String(20), nullable=False),
    Column("limits", JSON, nullable=False),
    Column("openapi", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # What its runs may reach, entry by entry; NULL: the source says nothing.
    Column("egress", JSON(none_as_null=True)),
    # Of a prompt workflow.
    Column("prompt", JSON(none_as_null=True)),
    UniqueConstraint("workflow_id", "number", name="versions_number"),
)

provisions = Table(
    "provisions",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("organization_id", String(100), nullable=False),
    Column("key_id", String(40), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("used_at", UtcDateTime),
    Column("cancelled_at", UtcDateTime),
)
Index("provisions_unused", provisions.c.created_at, **_only("used_at IS NULL"))
Index("provisions_used", provisions.c.used_at, **_only("used_at IS NOT NULL"))

runs = Table(
    "runs",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("owner_id", String(100), nullable=False),
    Column("caller_id", String(100), nullable=False),
    Column("acting_id", String(100), nullable=False),
    Column("requester_id", String(100), nullable=False),
    Column("service_id", String(100), nullable=False),
    Column("version_id", String(40), nullable=False),
    Column("status", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("deadline", UtcDateTime, nullable=False),
    Column("trigger", Integer, nullable=False),
    Column("correlation_id", String(256), nullable=False),
    Column("parent_id", String(40), nullable=False),
    Column("root_id", String(40), nullable=False),
    Column("depth", Integer, nullable=False),
    Column("traceparent", String(64), nullable=False),
    Column("trace_id", String(32), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("epoch", Integer, nullable=False),
    Column("key_id", String(40), nullable=False),
    Column("synchronous", Boolean, nullable=False),
    Column("provision_id", String(40)),
    # A one-time key starts exactly one run: this is where that is true.
    Column("one_time_key_id", String(40)),
    Column("started_at", UtcDateTime),
    Column("completed_at", UtcDateTime),
    Column("code", String(40), nullable=False),
    Column("detail", Text, nullable=False),
    Column("log_tail", JSON, nullable=False),
    Column("executor", String(200), nullable=False),
    Column("incarnation", String(100), nullable=False),
    Column("log_digest", String(64), nullable=False),
    # 0: a run waits for it, so it goes first; 1: all others.
    Column("lane", Integer, nullable=False),
    Column("priority", Integer, nullable=False, server_default="0"),
    # Since when it may start; NULL in rows of before there was more than one attempt.
    Column("due_at", UtcDateTime),
    Column("claimed_at", UtcDateTime),
    # Since when it shall be over, and as which outcome, while its executor has yet to say so.
    Column("cancelled_at", UtcDateTime),
    Column("cancelled_as", JSON(none_as_null=True)),
    Column("retries", Integer, nullable=False, server_default="0"),
    Column("losses", Integer, nullable=False, server_default="0"),
    # The attempts before this one, oldest first.
    Column("earlier", JSON, nullable=False, server_default="[]"),
    # What it used: all of them with its end, or none.
    Column("cpu_seconds", Float),
    Column("wall_seconds", Float),
    Column("memory_peak_bytes", BigInteger),
    Column("egress_bytes", BigInteger),
    Column("egress_digest", String(64), nullable=False, server_default=""),
    Column("may_deploy", Boolean, nullable=False, server_default=false()),
    # On whose account it goes, and its budgets; NULL: nothing is said.
    Column("billing", JSON(none_as_null=True)),
    Column("refused", Boolean, nullable=False),
    # Who gets the record when it is over.
    Column("callback_url", Text, nullable=False, server_default=""),
    # The run whose input it has; what answers it in place of the internet; whether it is recorded, and by what.
    Column("replay_of", String(40), nullable=False, server_default=""),
    Column("offline_digest", String(64), nullable=False, server_default=""),
    Column("record", Boolean, nullable=False, server_default=false()),
    Column("recording_digest", String(64), nullable=False, server_default=""),
    Column("input_sha256", String(64), nullable=False, server_default=""),
    Column("output_sha256", String(64), nullable=False, server_default=""),
    # Micro-credits that it was charged itself, in all attempts.
    Column("cost_own", BigInteger, nullable=False, server_default="0"),
    Column("tokens_in", BigInteger),
    Column("tokens_out", BigInteger),
)
Index("runs_one_time", runs.c.one_time_key_id, unique=True, **_only("one_time_key_id IS NOT NULL"))
# Each caller's own queue, in its order.
Index(
    "runs_waiting",
    runs.c.lane,
    runs.c.caller_id,
    runs.c.priority,
    runs.c.due_at,
    runs.c.id,
    **_only("status = 2 AND claimed_at IS NULL"),
)
Index("runs_claimed", runs.c.claimed_at, **_only("claimed_at IS NOT NULL"))
Index("runs_queued", runs.c.deadline, **_only("status = 2"))
Index("runs_running", runs.c.executor, runs.c.incarnation, **_only("status = 3"))
Index("runs_cancelled", runs.c.cancelled_at, **_only("status = 3 AND cancelled_at IS NOT NULL"))
Index("runs_tree", runs.c.root_id, **_only("status < 4"))
# What was called by whom: costs are summed along it.
Index("runs_caller", runs.c.caller_id, runs.c.created_at, runs.c.id)
Index("runs_acting", runs.c.acting_id, runs.c.created_at, runs.c.id, **_only("acting_id <> caller_id"))
# What lists are filtered by. Of those that have succeeded, which most have, some are always near.
Index("runs_service", runs.c.caller_id, runs.c.service_id, runs.c.created_at, runs.c.id)
Index(
    "runs_acting_service",
    runs.c.acting_id,
    runs.c.service_id,
    runs.c.created_at,
    runs.c.id,
    **_only("acting_id <> caller_id"),
)
Index("runs_status", runs.c.caller_id, runs.c.status, runs.c.created_at, runs.c.id, **_only("status <> 4"))
Index(
    "runs_acting_status",
    runs.c.acting_id,
    runs.c.status,
    runs.c.created_at,
    runs.c.id,
    **_only("acting_id <> caller_id AND status <> 4"),
)
Index("runs_trace", runs.c.caller_id, runs.c.trace_id, runs.c.created_at, runs.c.id)
Index(
    "runs_acting_trace",
    runs.c.acting_id,
    runs.c.trace_id,
    runs.c.created_at,
    runs.c.id,
    **_only("acting_id <> caller_id"),
)
Index(
    "runs_provision",
    runs.c.provision_id,
    runs.c.created_at,
    runs.c.id,
    **_only("provision_id IS NOT NULL"),
)
Index("runs_completed", runs.c.completed_at, **_only("completed_at IS NOT NULL"))

# Apart from their runs, so that lists and the queue read small rows.
inputs = Table(
    "inputs",
    metadata,
    Column("run_id", String(40), ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("request", LargeBinary, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("body_digest", String(64), nullable=False),
)
answers = Table(
    "answers",
    metadata,
    Column("run_id", String(40), ForeignKey("runs.id", ondelete="CASCADE"), primary_key=True),
    Column("head", LargeBinary, nullable=False),
    Column("content", LargeBinary, nullable=False),
    Column("digest", String(64), nullable=False),
    Column("size", Integer, nullable=False),
)

# Who asked for a run with an Idempotency-Key, and which run that is. `fingerprint`: of all that makes requests equal.
idempotency = Table(
    "idempotency",
    metadata,
    Column("organization_id", String(100), primary_key=True),
    Column("key", String(256), primary_key=True),
    Column("fingerprint", String(64), nullable=False),
    Column("run_id", String(40), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)
Index("idempotency_created", idempotency.c.created_at)

# Executors, each with the lease of its present life. `given_up`: its runs were given to others.
executors = Table(
    "executors",
    metadata,
    Column("address", String(200), primary_key=True),
    Column("incarnation", String(100), nullable=False),
    Column("running", Integer, nullable=False),
    Column("capacity", Integer, nullable=False),
    Column("draining", Boolean, nullable=False),
    Column("expires_at", UtcDateTime, nullable=False),
    Column("given_up", Boolean, nullable=False),
)

schedules = Table(
    "schedules",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("organization_id", String(100), nullable=False),
    Column("reference", String(300), nullable=False),
    Column("workflow_id", String(40), ForeignKey("workflows.id"), nullable=False),
    Column("cron_expression", String(200), nullable=False),
    Column("timezone", String(100), nullable=False),
    Column("input", LargeBinary, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("created_by", String(40), nullable=False),
    Column("next_fire_at", UtcDateTime),
    Column("last_fired_at", UtcDateTime),
    Column("last_run_id", String(40), nullable=False),
    Column("last_skipped_at", UtcDateTime),
    Column("last_error", Text, nullable=False),
    Column("failures", Integer, nullable=False),
    # Of each of its runs.
    Column("billing", JSON(none_as_null=True)),
)
Index("schedules_own", schedules.c.organization_id, schedules.c.id)
Index("schedules_next", schedules.c.next_fire_at, **_only("next_fire_at IS NOT NULL"))

# What was fired for which time: not twice, whoever's clock says what.
fires = Table(
    "fires",
    metadata,
    Column("schedule_id", String(40), ForeignKey("schedules.id", ondelete="CASCADE"), primary_key=True),
    Column("due_at", UtcDateTime, primary_key=True),
    Column("run_id", String(40), nullable=False),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("run_id", String(40), ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
    Column("organization_id", String(100), nullable=False),
    Column("url", Text, nullable=False),
    Column("host", String(300), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # While it is pending; a sender that claims it puts it off by its lease.
    Column("next_attempt_at", UtcDateTime),
    Column("state", Integer, nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("last_status", Integer, nullable=False),
    Column("last_error", Text, nullable=False),
    Column("delivered_at", UtcDateTime),
)
Index("deliveries_run", deliveries.c.run_id)
# With all that a claim looks at.
Index(
    "deliveries_due",
    deliveries.c.state,
    deliveries.c.organization_id,
    deliveries.c.next_attempt_at,
    deliveries.c.id,
    deliveries.c.host,
    **_only("state = 1"),
)

# What the runs below a run were charged, however deep.
nested_costs = Table(
    "nested_costs",
    metadata,
    Column("run_id", String(40), primary_key=True),
    Column("root_id", String(40), nullable=False),
    Column("amount", BigInteger, nullable=False),
)
Index("nested_costs_tree", nested_costs.c.root_id)

# What attempts cost, until the ledger has it; they outlive their runs. `charge` stands over that in the payload.
bills = Table(
    "bills",
    metadata,
    Column("run_id", String(40), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("purse_id", String(40), primary_key=True),
    Column("root_id", String(40), nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Column("charge", BigInteger, nullable=False),
    # 1: on its way; 2: held until its root is over.
    Column("state", Integer, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
)
Index("bills_due", bills.c.created_at, **_only("state = 1"))
Index("bills_held", bills.c.root_id, **_only("state = 2"))

outbox = outbox_table(metadata)
