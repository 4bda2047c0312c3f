"""That a run which is under way shall be over. Going back forgets it."""

import sqlalchemy as sa
from alembic import op

from kit.db import UtcDateTime

revision = "scheduler_0008"
down_revision = "scheduler_0007"
branch_labels = None
depends_on = None

_LATE = sa.text("status = 3 AND cancelled_at IS NOT NULL")


def upgrade() -> None:
    op.add_column("runs", sa.Column("cancelled_at", UtcDateTime))
    op.add_column("runs", sa.Column("cancelled_as", sa.JSON))
    op.create_index("runs_cancelled", "runs", ["cancelled_at"], sqlite_where=_LATE, postgresql_where=_LATE)


def downgrade() -> None:
    op.drop_index("runs_cancelled", "runs")
    op.drop_column("runs", "cancelled_as")
    op.drop_column("runs", "cancelled_at")
