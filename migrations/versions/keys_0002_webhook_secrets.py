"""keys: the secrets that sign what organizations' receivers are sent. Going back forgets them."""

import sqlalchemy as sa
from alembic import op

revision = "keys_0002"
down_revision = "keys_0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "webhook_secrets",
        sa.Column("organization_id", sa.String(length=40), sa.ForeignKey("organizations.id"), primary_key=True),
        sa.Column("current", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("previous", sa.LargeBinary(), nullable=True),
        sa.Column("previous_until", sa.DateTime(), nullable=True),
    )


def downgrade() -> None:
    op.drop_table("webhook_secrets")
