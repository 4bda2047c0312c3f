"""filestore: where the bytes of a file are. Going back forgets it: files of later are then lost to their addresses."""

import sqlalchemy as sa
from alembic import op

revision = "filestore_0002"
down_revision = "filestore_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("files", sa.Column("kept_as", sa.String(length=100), nullable=True))


def downgrade() -> None:
    op.drop_column("files", "kept_as")
