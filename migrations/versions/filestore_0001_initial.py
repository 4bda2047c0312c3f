"""Files."""

import sqlalchemy as sa
from alembic import op

revision = "filestore_0001"
down_revision = None
branch_labels = ("filestore",)
depends_on = None


def upgrade() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("organization_id", sa.String(40), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("expires_at", sa.DateTime, nullable=False),
        sa.Column("media_type", sa.String(255)),
        sa.Column("size", sa.BigInteger),
        sa.Column("digest", sa.String(64)),
    )
    op.create_index("files_by_expiry", "files", ["expires_at"])
