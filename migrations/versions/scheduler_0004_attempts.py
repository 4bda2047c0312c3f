"""Attempts, leases and the queue of each caller; idempotency keys."""

import sqlalchemy as sa
from alembic import op

from kit.db import UtcDateTime

revision = "scheduler_0004"
down_revision = "scheduler_0003"
branch_labels = None
depends_on = None

_WAITING = sa.text("status = 2 AND claimed_at IS NULL")
_CLAIMED = sa.text("claimed_at IS NOT NULL")
_QUEUED = sa.text("status = 2")
_LIVE = sa.text("status < 4")


def upgrade() -> None:
    for column in (
        sa.Column("priority", sa.Integer, nullable=False, server_default="0"),
        sa.Column("due_at", UtcDateTime),
        sa.Column("claimed_at", UtcDateTime),
        sa.Column("retries", sa.Integer, nullable=False, server_default="0"),
        sa.Column("losses", sa.Integer, nullable=False, server_default="0"),
        sa.Column("earlier", sa.JSON, nullable=False, server_default="[]"),
    ):
        op.add_column("runs", column)
    op.execute("UPDATE runs SET due_at = created_at WHERE status = 2")
    op.drop_index("runs_queue", "runs")
    for name, columns, condition in (
        ("runs_waiting", ["lane", "caller_id", "priority", "due_at", "id"], _WAITING),
        ("runs_claimed", ["claimed_at"], _CLAIMED),
        ("runs_queued", ["deadline"], _QUEUED),
        ("runs_tree", ["root_id"], _LIVE),
    ):
        op.create_index(name, "runs", columns, sqlite_where=condition, postgresql_where=condition)
    op.create_table(
        "idempotency",
        sa.Column("organization_id", sa.String(100), primary_key=True),
        sa.Column("key", sa.String(256), primary_key=True),
        sa.Column("fingerprint", sa.String(64), nullable=False),
        sa.Column("run_id", sa.String(40), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
    )
    op.create_index("idempotency_created", "idempotency", ["created_at"])
    op.create_table(
        "executors",
        sa.Column("address", sa.String(200), primary_key=True),
        sa.Column("incarnation", sa.String(100), nullable=False),
        sa.Column("running", sa.Integer, nullable=False),
        sa.Column("capacity", sa.Integer, nullable=False),
        sa.Column("draining", sa.Boolean, nullable=False),
        sa.Column("expires_at", UtcDateTime, nullable=False),
        sa.Column("given_up", sa.Boolean, nullable=False),
    )


def downgrade() -> None:
    op.drop_table("executors")
    op.drop_table("idempotency")
    for name in ("runs_tree", "runs_queued", "runs_claimed", "runs_waiting"):
        op.drop_index(name, "runs")
    op.create_index("runs_queue", "runs", ["lane", "created_at", "id"], sqlite_where=_QUEUED, postgresql_where=_QUEUED)
    for column in ("earlier", "losses", "retries", "claimed_at", "due_at", "priority"):
        op.drop_column("runs", column)
