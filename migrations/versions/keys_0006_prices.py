"""keys: the table of prices. Going back forgets them, those that an operator has set as well."""

import sqlalchemy as sa
from alembic import op

revision = "keys_0006"
down_revision = "keys_0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "prices",
        sa.Column("meter", sa.String(length=200), primary_key=True),
        sa.Column("valid_from", sa.DateTime(), primary_key=True),
        sa.Column("micro_credits_per_million", sa.BigInteger(), nullable=False),
        sa.Column("origin", sa.String(length=20), nullable=False),
        sa.CheckConstraint("micro_credits_per_million >= 0", name="no_price_below_zero"),
    )
    op.create_table(
        "price_lists",
        sa.Column("id", sa.String(length=20), primary_key=True),
        sa.Column("fingerprint", sa.String(length=64), nullable=False),
    )


def downgrade() -> None:
    op.drop_table("price_lists")
    op.drop_table("prices")
