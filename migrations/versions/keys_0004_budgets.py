"""keys: what a key is bound to, its budget, its rates; the audit log, which nobody changes. Going back forgets them."""

import sqlalchemy as sa
from alembic import op

revision = "keys_0004"
down_revision = "keys_0003"
branch_labels = None
depends_on = None

_RATES = ("per_second", "api_per_minute")
_REFUSED = "the audit log is append-only"


def upgrade() -> None:
    for table in ("organizations", "keys"):
        for name in _RATES:
            op.add_column(table, sa.Column(name, sa.Integer))
    op.add_column("keys", sa.Column("bind", sa.Text))
    op.add_column("keys", sa.Column("budget_id", sa.String(60)))
    op.add_column("keys", sa.Column("budget", sa.BigInteger))
    op.create_table(
        "audit",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("act", sa.String(40), nullable=False),
        sa.Column("subject", sa.String(300), nullable=False),
        sa.Column("organization_id", sa.String(40), nullable=False),
        sa.Column("actor_key_id", sa.String(40), nullable=False),
        sa.Column("actor_organization_id", sa.String(40), nullable=False),
        sa.Column("data", sa.Text, nullable=False),
    )
    op.create_index("audit_of_organization", "audit", ["organization_id", "id"])
    op.create_index("audit_of_actor", "audit", ["actor_organization_id", "id"])
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN RAISE EXCEPTION '{_REFUSED}'; END $$"
        )
        for when, each in (("UPDATE OR DELETE", "ROW"), ("TRUNCATE", "STATEMENT")):
            op.execute(
                f"CREATE TRIGGER audit_kept_{each.lower()} BEFORE {when} ON audit "
                f"FOR EACH {each} EXECUTE FUNCTION refuse_audit_change()"
            )
    else:
        for when in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER audit_kept_{when.lower()} BEFORE {when} ON audit "
                f"BEGIN SELECT RAISE(ABORT, '{_REFUSED}'); END"
            )


def downgrade() -> None:
    op.drop_table("audit")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("DROP FUNCTION refuse_audit_change()")
    for name in ("budget", "budget_id", "bind", *_RATES):
        op.drop_column("keys", name)
    for name in _RATES:
        op.drop_column("organizations", name)
