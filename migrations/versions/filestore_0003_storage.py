"""filestore: what organizations keep and for how long, the rooms of uploads under way, bills on their way to the
ledger. Files of before count from now on. Going back forgets what isn't on a bill yet, and bills that weren't sent.
"""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

from kit.db import UtcDateTime

revision = "filestore_0003"
down_revision = "filestore_0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    storage = op.create_table(
        "storage",
        sa.Column("organization_id", sa.String(length=40), primary_key=True),
        sa.Column("kept", sa.BigInteger(), nullable=False),
        sa.Column("mb_days", sa.BigInteger(), nullable=False),
        sa.Column("rest", sa.BigInteger(), nullable=False),
        sa.Column("counted_at", UtcDateTime, nullable=False),
        sa.Column("since", UtcDateTime, nullable=False),
        sa.CheckConstraint("kept >= 0 AND mb_days >= 0 AND rest >= 0", name="storage_from_zero"),
    )
    op.create_index("storage_by_period", "storage", ["since"])
    op.create_table(
        "rooms",
        sa.Column("id", sa.String(length=40), primary_key=True),
        sa.Column("organization_id", sa.String(length=40), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", UtcDateTime, nullable=False),
    )
    op.create_index("rooms_of_organization", "rooms", ["organization_id", "expires_at"])
    op.create_index("rooms_by_expiry", "rooms", ["expires_at"])
    op.create_table(
        "storage_bills",
        sa.Column("id", sa.String(length=40), primary_key=True),
        sa.Column("organization_id", sa.String(length=40), nullable=False),
        sa.Column("mb_days", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
        sa.Column("at", UtcDateTime, nullable=False),
    )
    files = sa.table("files", sa.column("organization_id"), sa.column("size", sa.BigInteger()))
    sums = sa.select(files.c.organization_id, sa.func.sum(files.c.size).label("kept"))
    now = datetime.now(UTC)
    none = {"mb_days": 0, "rest": 0, "counted_at": now, "since": now}
    connection = op.get_bind()
    for row in connection.execute(sums.where(files.c.size.is_not(None)).group_by(files.c.organization_id)).all():
        kept = {"organization_id": row.organization_id, "kept": int(row.kept)}
        connection.execute(storage.insert().values(kept | none))


def downgrade() -> None:
    op.drop_table("storage_bills")
    op.drop_table("rooms")
    op.drop_table("storage")
