"""scheduler: digests of what runs were given and answered, for their receipts. Going back forgets them."""

import sqlalchemy as sa
from alembic import op

revision = "scheduler_0012"
down_revision = "scheduler_0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("runs", sa.Column("input_sha256", sa.String(length=64), nullable=False, server_default=""))
    op.add_column("runs", sa.Column("output_sha256", sa.String(length=64), nullable=False, server_default=""))


def downgrade() -> None:
    op.drop_column("runs", "output_sha256")
    op.drop_column("runs", "input_sha256")
