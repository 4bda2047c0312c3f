"""scheduler: what a version may reach, and where it is kept what a run contacted. Going back forgets both."""

import sqlalchemy as sa
from alembic import op

revision = "scheduler_0003"
down_revision = "scheduler_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("versions", sa.Column("egress", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("runs", sa.Column("egress_digest", sa.String(length=64), nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("runs", "egress_digest")
    op.drop_column("versions", "egress")
