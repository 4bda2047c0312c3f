"""keys: inbound webhooks. Going back forgets them."""

import sqlalchemy as sa
from alembic import op

revision = "keys_0010"
down_revision = "keys_0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "hooks",
        sa.Column("id", sa.String(length=40), primary_key=True),
        sa.Column("organization_id", sa.String(length=40), sa.ForeignKey("organizations.id"), nullable=False),
        sa.Column("reference", sa.String(length=300), nullable=False),
        sa.Column("kind", sa.String(length=20), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("key_id", sa.String(length=40), nullable=False),
        sa.Column("budget_id", sa.String(length=60), nullable=True),
        sa.Column("budget", sa.BigInteger(), nullable=True),
        sa.Column("digest", sa.LargeBinary(length=32), nullable=False, unique=True),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
    )
    op.create_index("hooks_of_organization", "hooks", ["organization_id", "id"])


def downgrade() -> None:
    op.drop_table("hooks")
