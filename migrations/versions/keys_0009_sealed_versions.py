"""keys: which version is the newest of what is sealed; it only rises. Going back forgets it, and what was sealed since
isn't read by a release before it.
"""

import sqlalchemy as sa
from alembic import op

revision = "keys_0009"
down_revision = "keys_0008"
branch_labels = None
depends_on = None

_REFUSED = "the version of what is sealed only rises"


def upgrade() -> None:
    op.create_table(
        "sealed_versions",
        sa.Column("organization_id", sa.String(40), sa.ForeignKey("organizations.id"), primary_key=True),
        sa.Column("name", sa.String(200), primary_key=True),
        sa.Column("version", sa.BigInteger, nullable=False),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION sealed_versions_rise() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            "IF TG_OP = 'UPDATE' AND NEW.version > OLD.version AND NEW.name = OLD.name "
            "AND NEW.organization_id = OLD.organization_id THEN RETURN NEW; END IF; "
            f"RAISE EXCEPTION '{_REFUSED}'; END $$"
        )
        op.execute(
            "CREATE TRIGGER sealed_versions_rise BEFORE UPDATE OR DELETE ON sealed_versions "
            "FOR EACH ROW EXECUTE FUNCTION sealed_versions_rise()"
        )
        op.execute(
            "CREATE TRIGGER sealed_versions_stay BEFORE TRUNCATE ON sealed_versions "
            "FOR EACH STATEMENT EXECUTE FUNCTION sealed_versions_rise()"
        )
        return
    taken = "(organization_id = NEW.organization_id AND name = NEW.name) OR rowid = NEW.rowid"
    same = "NEW.name = OLD.name AND NEW.organization_id = OLD.organization_id"
    for name, when in (
        ("rise", f"UPDATE ON sealed_versions WHEN NOT (NEW.version > OLD.version AND {same})"),
        ("stay", "DELETE ON sealed_versions"),
        # INSERT OR REPLACE deletes what it replaces without a trigger of DELETE.
        (
            "no_replace",
            f"INSERT ON sealed_versions WHEN EXISTS (SELECT 1 FROM sealed_versions WHERE {taken})",  # noqa: S608  # names of columns
        ),
    ):
        op.execute(f"CREATE TRIGGER sealed_versions_{name} BEFORE {when} BEGIN SELECT RAISE(ABORT, '{_REFUSED}'); END")


def downgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        op.drop_table("sealed_versions")
        op.execute("DROP FUNCTION sealed_versions_rise()")
        return
    for name in ("rise", "stay", "no_replace"):
        op.execute(f"DROP TRIGGER sealed_versions_{name}")
    op.drop_table("sealed_versions")
