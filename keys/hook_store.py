"""Hooks as rows."""

from dataclasses import asdict
from typing import Any

from sqlalchemy import BigInteger, Column, ForeignKey, Index, LargeBinary, String, Table, delete, func, select

from keys.audit import Entry
from keys.audit_store import note
from keys.hooks import Hook
from keys.limits import Budget
from keys.store import metadata, organizations
from kit.db import Database, UtcDateTime
from kit.errors import NotFound

hooks = Table(
    "hooks",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("organization_id", String(40), ForeignKey("organizations.id"), nullable=False),
    Column("reference", String(300), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("key_id", String(40), nullable=False),
    Column("budget_id", String(60)),
    Column("budget", BigInteger),
    # Of its token.
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("sealed", LargeBinary, nullable=False),
    Index("hooks_of_organization", "organization_id", "id"),
)
_HOOK = [column for column in hooks.c if column.name not in {"digest", "sealed"}]


class SqlHookStore:
    """hooks.HookStore."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def add(self, hook: Hook, digest: bytes, sealed: bytes, entry: Entry, most: int) -> bool:
        fields = asdict(hook) | {
            "budget_id": hook.budget.id if hook.budget else None,
            "budget": hook.budget.limit if hook.budget else None,
        }
        mine = select(func.count()).select_from(hooks).where(hooks.c.organization_id == hook.organization_id)
        async with self._db.write() as tx:
            # Its row is locked: two at once would pass the limit together.
            whose = select(organizations.c.id).where(organizations.c.id == hook.organization_id).with_for_update()
            if (await tx.execute(whose)).first() is None:
                raise NotFound("no such organization")
            if (await tx.execute(mine)).scalar_one() >= most:
                return False
            await tx.execute(hooks.insert().values(**fields, digest=digest, sealed=sealed))
            await note(tx, entry)
        return True

    async def page(self, organization_id: str, limit: int, after: str) -> list[Hook]:
        mine = (hooks.c.organization_id == organization_id) & (hooks.c.id > after)
        async with self._db.read() as tx:
            return [
                _hook(row) for row in await tx.execute(select(*_HOOK).where(mine).order_by(hooks.c.id).limit(limit))
            ]

    async def delete(self, organization_id: str, hook_id: str, entry: Entry) -> bool:
        mine = (hooks.c.organization_id == organization_id) & (hooks.c.id == hook_id)
        async with self._db.write() as tx:
            if not (await tx.execute(delete(hooks).where(mine))).rowcount:
                return False
            await note(tx, entry)
        return True

    async def by_hash(self, digest: bytes) -> tuple[Hook, bytes] | None:
        async with self._db.read() as tx:
            row = (await tx.execute(select(*_HOOK, hooks.c.sealed).where(hooks.c.digest == digest))).first()
        return None if row is None else (_hook(row), row.sealed)


def _hook(row: Any) -> Hook:
    budget = None if row.budget_id is None else Budget(row.budget_id, row.budget)
    return Hook(row.id, row.organization_id, row.reference, row.kind, row.created_at, row.key_id, budget)
