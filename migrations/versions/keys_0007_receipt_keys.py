"""keys: what signs receipts. Going back forgets it: receipts that were given can't be verified by us any more."""

import sqlalchemy as sa
from alembic import op

revision = "keys_0007"
down_revision = "keys_0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "receipt_keys",
        sa.Column("id", sa.String(length=40), primary_key=True),
        sa.Column("public", sa.LargeBinary(32), nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("retired_at", sa.DateTime(), nullable=True),
        sa.Column("signs", sa.String(length=1), nullable=True),
    )
    op.create_index(
        "one_receipt_key_signs",
        "receipt_keys",
        ["signs"],
        unique=True,
        sqlite_where=sa.text("signs is not null"),
        postgresql_where=sa.text("signs is not null"),
    )


def downgrade() -> None:
    op.drop_table("receipt_keys")
