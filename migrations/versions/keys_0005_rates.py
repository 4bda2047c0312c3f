"""keys: buckets of permits for calls. Going back forgets them: all are full again."""

import sqlalchemy as sa
from alembic import op

revision = "keys_0005"
down_revision = "keys_0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "permit_buckets",
        sa.Column("id", sa.String(length=200), primary_key=True),
        sa.Column("level", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.DateTime(), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("permit_buckets")
