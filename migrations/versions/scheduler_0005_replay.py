"""Replays and recordings."""

import sqlalchemy as sa
from alembic import op

revision = "scheduler_0005"
down_revision = "scheduler_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in (
        sa.Column("replay_of", sa.String(40), nullable=False, server_default=""),
        sa.Column("offline_digest", sa.String(64), nullable=False, server_default=""),
        sa.Column("record", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("recording_digest", sa.String(64), nullable=False, server_default=""),
    ):
        op.add_column("runs", column)


def downgrade() -> None:
    for column in ("recording_digest", "record", "offline_digest", "replay_of"):
        op.drop_column("runs", column)
