"""Prompt workflows, and which workflows are published. Going back forgets both."""

import sqlalchemy as sa
from alembic import op

revision = "scheduler_0011"
down_revision = "scheduler_0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # All that there are so far are of code, and published with their deploy.
    op.add_column("workflows", sa.Column("published", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.add_column("versions", sa.Column("prompt", sa.JSON(none_as_null=True)))


def downgrade() -> None:
    op.drop_column("versions", "prompt")
    op.drop_column("workflows", "published")
