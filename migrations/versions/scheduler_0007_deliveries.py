"""scheduler: who gets the record of a run that has ended, and how its delivery goes. Going back forgets both."""

import sqlalchemy as sa
from alembic import op

revision = "scheduler_0007"
down_revision = "scheduler_0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("callback_url", sa.Text(), nullable=False, server_default=""))
    op.create_table(
        "deliveries",
        sa.Column("id", sa.String(length=40), primary_key=True),
        sa.Column("run_id", sa.String(length=40), sa.ForeignKey("runs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("organization_id", sa.String(length=100), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("host", sa.String(length=300), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("next_attempt_at", sa.DateTime(), nullable=True),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("last_status", sa.Integer(), nullable=False),
        sa.Column("last_error", sa.Text(), nullable=False),
        sa.Column("delivered_at", sa.DateTime(), nullable=True),
    )
    op.create_index("deliveries_run", "deliveries", ["run_id"])
    op.create_index(
        "deliveries_due",
        "deliveries",
        ["state", "organization_id", "next_attempt_at", "id", "host"],
        sqlite_where=sa.text("state = 1"),
        postgresql_where=sa.text("state = 1"),
    )


def downgrade() -> None:
    op.drop_table("deliveries")
    op.drop_column("runs", "callback_url")
