"""On whose account runs go, their budgets, and whether a root refused to pay; those of schedules for the runs to come.
Going back forgets them.
"""

import sqlalchemy as sa
from alembic import op

revision = "scheduler_0010"
down_revision = "scheduler_0009"
branch_labels = None
depends_on = None

_TABLES = ("runs", "schedules")


def upgrade() -> None:
    for table in _TABLES:
        op.add_column(table, sa.Column("billing", sa.JSON))
    op.add_column("runs", sa.Column("refused", sa.Boolean(), nullable=False, server_default=sa.false()))


def downgrade() -> None:
    op.drop_column("runs", "refused")
    for table in _TABLES:
        op.drop_column(table, "billing")
