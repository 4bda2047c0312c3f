"""Which version is the newest of whatever is sealed. It isn't in the row that holds the box: a row that is put back
brings an older box along, but not an older version. A version is never lowered or forgotten: triggers of the migrations
see to that.
"""

from sqlalchemy import BigInteger, Column, ForeignKey, String, Table, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from keys.books_store import metadata

# No row: version 0.
sealed_versions = Table(
    "sealed_versions",
    metadata,
    Column("organization_id", String(40), ForeignKey("organizations.id"), primary_key=True),
    Column("name", String(200), primary_key=True),
    Column("version", BigInteger, nullable=False),
)


async def next_version(tx: AsyncConnection, organization_id: str, name: str) -> int:
    """The version of what takes the place of `name`, 1 of the first; nobody else gets one until `tx` ends."""
    its = (sealed_versions.c.organization_id == organization_id) & (sealed_versions.c.name == name)
    raised = update(sealed_versions).where(its).values(version=sealed_versions.c.version + 1)
    version = (await tx.execute(raised.returning(sealed_versions.c.version))).scalar()
    if version is None:
        insert = postgresql.insert if tx.dialect.name == "postgresql" else sqlite.insert
        first = insert(sealed_versions).values(organization_id=organization_id, name=name, version=1)
        first = first.on_conflict_do_update(  # another process has just made it
            index_elements=["organization_id", "name"], set_={"version": sealed_versions.c.version + 1}
        )
        version = (await tx.execute(first.returning(sealed_versions.c.version))).scalar_one()
    return int(version)
