"""scheduler: what each run used. Empty for runs of before; going back forgets it."""

import sqlalchemy as sa
from alembic import op

revision = "scheduler_0002"
down_revision = "scheduler_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("cpu_seconds", sa.Float(), nullable=True))
    op.add_column("runs", sa.Column("wall_seconds", sa.Float(), nullable=True))
    op.add_column("runs", sa.Column("memory_peak_bytes", sa.BigInteger(), nullable=True))
    op.add_column("runs", sa.Column("egress_bytes", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("runs", "egress_bytes")
    op.drop_column("runs", "memory_peak_bytes")
    op.drop_column("runs", "wall_seconds")
    op.drop_column("runs", "cpu_seconds")
