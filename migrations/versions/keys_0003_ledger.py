"""keys: the ledger, purses, budgets and bills. Going back forgets all money.

Organizations that there are get their accounts; the first one the credits that it would have begun with.
"""

from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

revision = "keys_0003"
down_revision = "keys_0002"
branch_labels = None
depends_on = None

_FIRST_CREDITS = 1_000_000_000
_LEDGER = ("ledger_transactions", "ledger_entries")
_KEPT = sa.text("swept_at IS NULL")


def upgrade() -> None:
    _books()
    _purses()
    _bills()
    _seal()
    _open_accounts()


def _books() -> None:
    op.create_table(
        "accounts",
        sa.Column("id", sa.String(150), primary_key=True),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("organization_id", sa.String(40), sa.ForeignKey("organizations.id"), nullable=True),
        sa.Column("balance", sa.BigInteger, nullable=False),
        sa.Column("reserved", sa.BigInteger, nullable=False),
        sa.CheckConstraint("balance >= 0 OR kind = 'platform'", name="accounts_balance"),
        sa.CheckConstraint("reserved >= 0", name="accounts_reserved"),
    )
    op.create_table(
        "ledger_transactions",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("key", sa.String(300), nullable=False, unique=True),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("at", sa.DateTime, nullable=False),
    )
    op.create_table(
        "ledger_entries",
        sa.Column("transaction_id", sa.String(40), sa.ForeignKey("ledger_transactions.id"), primary_key=True),
        sa.Column("account_id", sa.String(150), sa.ForeignKey("accounts.id"), primary_key=True),
        sa.Column("amount", sa.BigInteger, nullable=False),
    )


def _purses() -> None:
    op.create_table(
        "budgets",
        sa.Column("id", sa.String(110), primary_key=True),
        sa.Column("limit", sa.BigInteger, nullable=False),
        sa.Column("used", sa.BigInteger, nullable=False),
        sa.CheckConstraint('used >= 0 AND used <= "limit"', name="budgets_used"),
    )
    op.create_table(
        "purse_lives",
        sa.Column("incarnation", sa.String(100), primary_key=True),
        sa.Column("renewed_at", sa.DateTime, nullable=False),
    )
    op.create_table(
        "purses",
        sa.Column("id", sa.String(100), primary_key=True),
        sa.Column("organization_id", sa.String(40), sa.ForeignKey("organizations.id"), nullable=False),
        sa.Column("incarnation", sa.String(100), sa.ForeignKey("purse_lives.incarnation"), nullable=False),
        sa.Column("budgets", sa.Text, nullable=False),
        sa.Column("swept_at", sa.DateTime, nullable=True),
    )
    op.create_index("purses_kept", "purses", ["incarnation"], sqlite_where=_KEPT, postgresql_where=_KEPT)


def _bills() -> None:
    op.create_table(
        "bills",
        sa.Column("transaction_id", sa.String(40), sa.ForeignKey("ledger_transactions.id"), primary_key=True),
        sa.Column("run_id", sa.String(100), nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("root_id", sa.String(200), nullable=False),
        sa.Column("organization_id", sa.String(100), nullable=False),
        sa.Column("service_id", sa.String(200), nullable=False),
        sa.Column("key_id", sa.String(200), nullable=False),
        sa.Column("day", sa.String(10), nullable=False),
        sa.Column("reserved", sa.BigInteger, nullable=False),
        sa.Column("charge", sa.BigInteger, nullable=False),
        sa.Column("cpu_ms", sa.BigInteger, nullable=False),
        sa.Column("tokens_in", sa.BigInteger, nullable=False),
        sa.Column("tokens_out", sa.BigInteger, nullable=False),
        sa.Column("egress_bytes", sa.BigInteger, nullable=False),
    )
    op.create_index("bills_of_organization", "bills", ["organization_id", "day"])
    op.create_table(
        "bill_lines",
        sa.Column("transaction_id", sa.String(40), sa.ForeignKey("bills.transaction_id"), primary_key=True),
        sa.Column("meter", sa.String(200), primary_key=True),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("quantity", sa.BigInteger, nullable=False),
        sa.Column("amount", sa.BigInteger, nullable=False),
    )


def _seal() -> None:
    """Nothing in the ledger is changed or deleted, by whomever."""
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION ledger_is_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'the ledger is append-only'; END $$"
        )
        for table in _LEDGER:
            op.execute(
                f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION ledger_is_append_only()"
            )
        return
    for table in _LEDGER:
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER {table}_no_{change.lower()} BEFORE {change} ON {table} "
                "BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END"
            )


def _open_accounts() -> None:
    names = ("organization_id", "kind", "id", "balance", "reserved")
    accounts = sa.table("accounts", *map(sa.column, names))
    none: dict[str, object] = {"organization_id": None, "balance": 0, "reserved": 0}
    rows = [none | {"kind": "platform", "id": f"platform:{name}"} for name in ("revenue", "grants", "losses")]
    found = op.get_bind().execute(sa.text("SELECT id, first FROM organizations")).all()
    rows += [none | {"kind": "organization", "id": f"org:{row.id}", "organization_id": row.id} for row in found]
    op.bulk_insert(accounts, rows)
    for row in found:
        if row.first:
            _begin(row.id)


def _begin(organization_id: str) -> None:
    transactions = sa.table(
        "ledger_transactions", sa.column("id"), sa.column("key"), sa.column("kind"), sa.column("at", sa.DateTime)
    )
    entries = sa.table("ledger_entries", *map(sa.column, ("transaction_id", "account_id", "amount")))
    identity, now = f"txn_{organization_id}"[:40], datetime.now(UTC).replace(tzinfo=None)
    op.bulk_insert(transactions, [{"id": identity, "key": f"initial:{organization_id}", "kind": "grant", "at": now}])
    for account, amount in ((f"org:{organization_id}", _FIRST_CREDITS), ("platform:grants", -_FIRST_CREDITS)):
        op.bulk_insert(entries, [{"transaction_id": identity, "account_id": account, "amount": amount}])
        change = sa.text("UPDATE accounts SET balance = balance + :amount WHERE id = :account")
        op.execute(change.bindparams(amount=amount, account=account))


def downgrade() -> None:
    for table in ("bill_lines", "bills", "purses", "purse_lives", "budgets", *reversed(_LEDGER), "accounts"):
        op.drop_table(table)
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION ledger_is_append_only()")
