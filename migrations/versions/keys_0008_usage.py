"""keys: what was used by day, summed up where it is booked; bills that nobody changes; purses that are done with. Going
back forgets none of it but which purses are done with.
"""

import sqlalchemy as sa
from alembic import op

revision = "keys_0008"
down_revision = "keys_0007"
branch_labels = None
depends_on = None

_MOST = 2**53 - 1
_SUMS = ("runs", "amount", "cpu_ms", "tokens_in", "tokens_out", "egress_bytes")
_DONE_WITH = sa.text("swept_at IS NULL AND closed_at IS NOT NULL")
_BILLS = ("bills", "bill_lines")
_REFUSED = "the ledger is append-only"
# Of SQLite: INSERT OR REPLACE deletes what it replaces without a trigger of DELETE.
_REPLACED = {
    "ledger_transactions": ("id = NEW.id", _REFUSED),
    "ledger_entries": ("transaction_id = NEW.transaction_id AND account_id = NEW.account_id", _REFUSED),
    "bills": ("transaction_id = NEW.transaction_id", _REFUSED),
    "bill_lines": ("transaction_id = NEW.transaction_id AND meter = NEW.meter", _REFUSED),
    "audit": ("id = NEW.id", "the audit log is append-only"),
}


def upgrade() -> None:
    op.add_column("purses", sa.Column("closed_at", sa.DateTime, nullable=True))
    op.create_index("purses_closed", "purses", ["closed_at"], sqlite_where=_DONE_WITH, postgresql_where=_DONE_WITH)
    op.drop_index("bills_of_organization", "bills")
    op.create_index("bills_of_run", "bills", ["run_id"])
    op.create_table(
        "usage_sums",
        sa.Column("organization_id", sa.String(100), primary_key=True),
        sa.Column("kind", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("day", sa.String(10), primary_key=True),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in _SUMS),
        sqlite_with_rowid=False,
    )
    _sum_up()
    _seal()


def _sum_up() -> None:
    """What is booked already. An attempt with several bills counts on the day of its first."""
    own = "bills.charge, bills.cpu_ms, bills.tokens_in, bills.tokens_out, bills.egress_bytes"
    out = "bill_lines.meter LIKE '%:out'"
    tokens = (
        f"bill_lines.amount, 0, CASE WHEN {out} THEN 0 ELSE bill_lines.quantity END, "
        f"CASE WHEN {out} THEN bill_lines.quantity ELSE 0 END, 0"
    )
    joined = "bills JOIN bill_lines ON bill_lines.transaction_id = bills.transaction_id"
    for kind, name, rows, sums in (
        (1, "bills.service_id", "bills", own),
        (2, "bills.day", "bills", own),
        (3, "bills.key_id", "bills", own),
        (4, "bill_lines.model", joined, tokens),
    ):
        attempt = "bills.organization_id, bills.run_id, bills.attempt" + (", bill_lines.model" if kind == 4 else "")
        totals = ", ".join(f"CASE WHEN SUM({each}) > {_MOST} THEN {_MOST} ELSE SUM({each}) END" for each in _SUMS)
        op.execute(
            sa.text(
                f"""
                INSERT INTO usage_sums (organization_id, kind, name, day, {", ".join(_SUMS)})
                SELECT organization_id, {kind}, name, day, {totals} FROM (
                    SELECT bills.organization_id AS organization_id, {name} AS name, bills.day AS day, 0 AS runs,
                        {_named(sums)} FROM {rows}
                    UNION ALL
                    SELECT bills.organization_id, MIN({name}), MIN(bills.day), 1, 0, 0, 0, 0, 0 FROM {rows}
                    WHERE bills.service_id <> '/file' GROUP BY {attempt}
                ) AS parts WHERE name <> '' GROUP BY organization_id, name, day
                """.replace(":", "\\:")  # noqa: S608  # names of columns
            )
        )


def _named(sums: str) -> str:
    columns = sums.split(", ")
    return ", ".join(f"{column} AS {name}" for column, name in zip(columns, _SUMS[1:], strict=True))


def _seal() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table in _BILLS:
            op.execute(
                f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_append_only()"
            )
        return
    for table in _BILLS:
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{change.lower()} BEFORE {change} ON {table} "
                f"BEGIN SELECT RAISE(ABORT, '{_REFUSED}'); END"
            )
    for table, (same, refused) in _REPLACED.items():
        op.execute(
            f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} "  # noqa: S608  # names of tables
            f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {same}) "
            f"OR EXISTS (SELECT 1 FROM {table} WHERE rowid = NEW.rowid) "
            f"BEGIN SELECT RAISE(ABORT, '{refused}'); END"
        )
    # What is sent twice is booked once: that is no error.
    op.execute(
        "CREATE TRIGGER ledger_transactions_once BEFORE INSERT ON ledger_transactions "
        "WHEN EXISTS (SELECT 1 FROM ledger_transactions WHERE key = NEW.key AND id <> NEW.id) "
        "BEGIN SELECT RAISE(IGNORE); END"
    )


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        for table in _BILLS:
            op.execute(f"DROP TRIGGER {table}_append_only ON {table}")
    else:
        op.execute("DROP TRIGGER ledger_transactions_once")
        for table in _REPLACED:
            op.execute(f"DROP TRIGGER {table}_no_replace")
        for table in _BILLS:
            for change in ("update", "delete"):
                op.execute(f"DROP TRIGGER {table}_no_{change}")
    op.drop_table("usage_sums")
    op.drop_index("bills_of_run", "bills")
    op.create_index("bills_of_organization", "bills", ["organization_id", "day"])
    op.drop_index("purses_closed", "purses")
    op.drop_column("purses", "closed_at")
