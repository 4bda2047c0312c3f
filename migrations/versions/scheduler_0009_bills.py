"""scheduler: what runs cost, who pays, and bills on their way to the ledger. Going back forgets those, which frees what
had been taken for them.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

from kit.db import UtcDateTime

revision = "scheduler_0009"
down_revision = "scheduler_0008"
branch_labels = None
depends_on = None

_COLUMNS: dict[str, tuple[Any, dict[str, Any]]] = {
    "cost_own": (sa.BigInteger(), {"nullable": False, "server_default": "0"}),
    "tokens_in": (sa.BigInteger(), {"nullable": True}),
    "tokens_out": (sa.BigInteger(), {"nullable": True}),
}


def upgrade() -> None:
    for name, (kind, options) in _COLUMNS.items():
        op.add_column("runs", sa.Column(name, kind, **options))
    op.create_table(
        "nested_costs",
        sa.Column("run_id", sa.String(length=40), primary_key=True),
        sa.Column("root_id", sa.String(length=40), nullable=False),
        sa.Column("amount", sa.BigInteger(), nullable=False),
    )
    op.create_index("nested_costs_tree", "nested_costs", ["root_id"])
    op.create_table(
        "bills",
        sa.Column("run_id", sa.String(length=40), primary_key=True),
        sa.Column("attempt", sa.Integer(), primary_key=True),
        sa.Column("purse_id", sa.String(length=40), primary_key=True),
        sa.Column("root_id", sa.String(length=40), nullable=False),
        sa.Column("payload", sa.LargeBinary(), nullable=False),
        sa.Column("charge", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime, nullable=False),
    )
    for name, field, state in (("bills_due", "created_at", 1), ("bills_held", "root_id", 2)):
        only = sa.text(f"state = {state}")
        op.create_index(name, "bills", [field], sqlite_where=only, postgresql_where=only)


def downgrade() -> None:
    op.drop_table("bills")
    op.drop_table("nested_costs")
    for name in reversed(_COLUMNS):
        op.drop_column("runs", name)
