"""scheduler: schedules, what they fired when, and whether a run's key may deploy. Going back forgets them."""

import sqlalchemy as sa
from alembic import op

revision = "scheduler_0006"
down_revision = "scheduler_0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("may_deploy", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "schedules",
        sa.Column("id", sa.String(length=40), nullable=False),
        sa.Column("organization_id", sa.String(length=100), nullable=False),
        sa.Column("reference", sa.String(length=300), nullable=False),
        sa.Column("workflow_id", sa.String(length=40), nullable=False),
        sa.Column("cron_expression", sa.String(length=200), nullable=False),
        sa.Column("timezone", sa.String(length=100), nullable=False),
        sa.Column("input", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("created_by", sa.String(length=40), nullable=False),
        sa.Column("next_fire_at", sa.DateTime(), nullable=True),
        sa.Column("last_fired_at", sa.DateTime(), nullable=True),
        sa.Column("last_run_id", sa.String(length=40), nullable=False),
        sa.Column("last_skipped_at", sa.DateTime(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["workflow_id"], ["workflows.id"]),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_index("schedules_own", "schedules", ["organization_id", "id"])
    op.create_index(
        "schedules_next",
        "schedules",
        ["next_fire_at"],
        sqlite_where=sa.text("next_fire_at IS NOT NULL"),
        postgresql_where=sa.text("next_fire_at IS NOT NULL"),
    )
    op.create_table(
        "fires",
        sa.Column("schedule_id", sa.String(length=40), nullable=False),
        sa.Column("due_at", sa.DateTime(), nullable=False),
        sa.Column("run_id", sa.String(length=40), nullable=False),
        sa.ForeignKeyConstraint(["schedule_id"], ["schedules.id"], ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("schedule_id", "due_at"),
    )


def downgrade() -> None:
    op.drop_table("fires")
    op.drop_table("schedules")
    op.drop_column("runs", "may_deploy")
