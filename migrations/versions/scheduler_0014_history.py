"""scheduler: what lists of runs are filtered by: a filter that leaves little doesn't read all of the history."""

import sqlalchemy as sa
from alembic import op

revision = "scheduler_0014"
down_revision = "scheduler_0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index("runs_service", "runs", ["caller_id", "service_id", "created_at", "id"])
    op.create_index("runs_trace", "runs", ["caller_id", "trace_id", "created_at", "id"])
    _partial("runs_acting_service", ["acting_id", "service_id", "created_at", "id"], "acting_id <> caller_id")
    _partial("runs_acting_trace", ["acting_id", "trace_id", "created_at", "id"], "acting_id <> caller_id")
    _partial("runs_status", ["caller_id", "status", "created_at", "id"], "status <> 4")
    _partial(
        "runs_acting_status", ["acting_id", "status", "created_at", "id"], "acting_id <> caller_id AND status <> 4"
    )


def downgrade() -> None:
    for narrowed_by in ("status", "trace", "service"):
        op.drop_index(f"runs_acting_{narrowed_by}", "runs")
        op.drop_index(f"runs_{narrowed_by}", "runs")


def _partial(name: str, columns: list[str], condition: str) -> None:
    op.create_index(name, "runs", columns, sqlite_where=sa.text(condition), postgresql_where=sa.text(condition))
