"""scheduler: which versions share a workflow's calls, and what was served before. Going back forgets them."""

import sqlalchemy as sa
from alembic import op

revision = "scheduler_0013"
down_revision = "scheduler_0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("workflows", sa.Column("traffic", sa.JSON(none_as_null=True)))
    op.add_column("workflows", sa.Column("version_before", sa.Integer(), nullable=False, server_default="0"))


def downgrade() -> None:
    op.drop_column("workflows", "version_before")
    op.drop_column("workflows", "traffic")
