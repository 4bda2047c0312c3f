"""Tables, and the repositories that map their rows to the model."""

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    String,
    Table,
    Text,
    delete,
    func,
    select,
    text,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from keys import books_store as books
from keys.audit import Entry
from keys.audit_store import note
from keys.limits import Binding, Budget, Rates
from keys.model import SYSTEM_ORGANIZATION, Key, KeyKind, KnownKey, Organization, SecretInfo
from keys.money import organization_account
from keys.vault import MOST_SECRETS, SealedSecret, Sealing
from keys.version_store import next_version, sealed_versions
from keys.wire import key_revoked, secret_changed
from kit.db import Database, UtcDateTime, emit, outbox_table
from kit.errors import Conflict, NotFound

metadata = books.metadata

organizations = Table(
    "organizations",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("first", Boolean, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    # Of all its keys together; NULL: as the settings say.
    Column("per_second", Integer),
    Column("api_per_minute", Integer),
    # At most one first organization, whatever starts at the same time.
    Index("one_first_organization", "first", unique=True, sqlite_where=text("first"), postgresql_where=text("first")),
)

keys = Table(
    "keys",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("organization_id", String(40), ForeignKey("organizations.id"), nullable=False),
    Column("name", String(200), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("prefix", String(20), nullable=False),
    Column("digest", LargeBinary(32), nullable=False, unique=True),
    Column("scopes", Text, nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("expires_at", UtcDateTime),
    Column("revoked_at", UtcDateTime),
    Column("successor_id", String(40)),
    # A JSON object.
    Column("bind", Text),
    # A rotated key and its successor share what is spent under this id, and how often they call. NULL: the key's own,
    # of one without a budget.
    Column("budget_id", String(60)),
    Column("budget", BigInteger),
    Column("per_second", Integer),
    Column("api_per_minute", Integer),
    Index("keys_of_organization", "organization_id", "id"),
)

secrets = Table(
    "secrets",
    metadata,
    Column("organization_id", String(40), ForeignKey("organizations.id"), primary_key=True),
    Column("name", String(128), primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("hosts", Text, nullable=False),
    Column("updated_at", UtcDateTime, nullable=False),
)

outbox = outbox_table(metadata)

_KEY_COLUMNS = [column for column in keys.c if column.name != "digest"]
_ORGANIZATION_COLUMNS = [
    organizations.c.first,
    organizations.c.per_second.label("organization_per_second"),
    organizations.c.api_per_minute.label("organization_api_per_minute"),
]


class SqlKeyStore:
    """Keys and the organizations that have them."""

    def __init__(self, db: Database) -> None:
        self._db = db

    @asynccontextmanager
    async def change(self) -> AsyncIterator["SqlKeyChange"]:
        async with self._db.write() as tx:
            yield SqlKeyChange(tx)

    async def by_hash(self, digest: bytes) -> KnownKey | None:
        account = books.accounts
        whose = account.c.id == organization_account("") + keys.c.organization_id
        query = select(*_KEY_COLUMNS, *_ORGANIZATION_COLUMNS, account.c.balance, account.c.reserved)
        query = query.select_from(keys.join(organizations).outerjoin(account, whose)).where(keys.c.digest == digest)
        async with self._db.read() as tx:
            row = (await tx.execute(query)).first()
        if row is None:
            return None
        rates = Rates(row.organization_per_second, row.organization_api_per_minute)
        credit = (row.balance or 0) + (row.reserved or 0)
        return KnownKey(_key(row), row.first, credit=credit, organization_rates=rates)

    async def page(self, organization_id: str, limit: int, after: str) -> list[Key]:
        mine = (keys.c.organization_id == organization_id) & (keys.c.id > after)
        async with self._db.read() as tx:
            rows = await tx.execute(select(*_KEY_COLUMNS).where(mine).order_by(keys.c.id).limit(limit))
            return [_key(row) for row in rows]


class SqlKeyChange:
    """One transaction."""

    def __init__(self, tx: AsyncConnection) -> None:
        self._tx = tx

    async def get(self, organization_id: str, key_id: str) -> Key | None:
        mine = (keys.c.organization_id == organization_id) & (keys.c.id == key_id)
        row = (await self._tx.execute(select(*_KEY_COLUMNS).where(mine).with_for_update())).first()
        return None if row is None else _key(row)

    async def add(self, key: Key, digest: bytes) -> None:
        """Errors: NotFound for an organization that there is not."""
        with _known_organization():
            await self._tx.execute(keys.insert().values(**_row(key), digest=digest))

    async def save(self, key: Key) -> None:
        changed = {"expires_at": key.expires_at, "revoked_at": key.revoked_at, "successor_id": key.successor_id}
        before = (await self._tx.execute(select(keys.c.revoked_at).where(keys.c.id == key.id))).one()
        await self._tx.execute(update(keys).where(keys.c.id == key.id).values(**changed))
        if key.revoked_at is not None and before.revoked_at is None:
            await emit(self._tx, outbox, key_revoked(key.id))

    async def note(self, entry: Entry) -> None:
        await note(self._tx, entry)

    async def add_organization(self, organization: Organization, credits_: int = 0) -> None:
        """With its account. Errors: Conflict when another process made it, or the first one, meanwhile."""
        try:
            await self._tx.execute(organizations.insert().values(**_spread(organization)))
        except IntegrityError as error:
            raise Conflict("this organization has just been made") from error
        await books.open_account(self._tx, organization.id, credits_, organization.created_at)

    async def organization_exists(self, *, first: bool) -> bool:
        which = organizations.c.first if first else organizations.c.id == SYSTEM_ORGANIZATION
        return (await self._tx.execute(select(organizations.c.id).where(which))).first() is not None

    async def set_rates(self, organization_id: str, rates: Rates) -> bool:
        changed = update(organizations).where(organizations.c.id == organization_id).values(**asdict(rates))
        return (await self._tx.execute(changed)).rowcount > 0


class SqlSecretStore:
    """Sealed secrets, each change with its event and its entry in the audit log."""

    def __init__(self, db: Database) -> None:
        self._db = db

    async def put(
        self, organization_id: str, secret: SecretInfo, seal: Sealing, entry: Entry, most: int = MOST_SECRETS
    ) -> bool:
        """Errors: NotFound for an organization that there is not."""
        hosts = json.dumps(secret.hosts)
        async with self._db.write() as tx:
            if not await _has_room(tx, organization_id, secret.name, most):
                return False
            insert = postgresql.insert if tx.dialect.name == "postgresql" else sqlite.insert
            with _known_organization():
                sealed = seal(await next_version(tx, organization_id, secret.name), hosts)
                values = {"sealed": sealed, "hosts": hosts, "updated_at": secret.updated_at}
                row = insert(secrets).values(organization_id=organization_id, name=secret.name, **values)
                await tx.execute(row.on_conflict_do_update(index_elements=["organization_id", "name"], set_=values))
            await emit(tx, outbox, secret_changed(organization_id, secret.name))
            await note(tx, entry)
        return True

    async def delete(self, organization_id: str, name: str, entry: Entry) -> bool:
        mine = (secrets.c.organization_id == organization_id) & (secrets.c.name == name)
        async with self._db.write() as tx:
            deleted = (await tx.execute(delete(secrets).where(mine))).rowcount > 0
            if deleted:
                await next_version(tx, organization_id, name)  # the row, put back, is of an older one
                await emit(tx, outbox, secret_changed(organization_id, name))
                await note(tx, entry)
        return deleted

    async def page(self, organization_id: str, limit: int, after: str) -> list[SecretInfo]:
        mine = (secrets.c.organization_id == organization_id) & (secrets.c.name > after)
        query = select(secrets.c.name, secrets.c.hosts, secrets.c.updated_at).where(mine)
        async with self._db.read() as tx:
            rows = await tx.execute(query.order_by(secrets.c.name).limit(limit))
            return [SecretInfo(row.name, tuple(json.loads(row.hosts)), row.updated_at) for row in rows]

    async def sealed(self, organization_id: str, names: Sequence[str]) -> dict[str, SealedSecret]:
        mine = (secrets.c.organization_id == organization_id) & secrets.c.name.in_(names)
        newest = sealed_versions.c.version
        same = (sealed_versions.c.organization_id == organization_id) & (sealed_versions.c.name == secrets.c.name)
        query = select(secrets.c.name, secrets.c.sealed, secrets.c.hosts, newest)
        async with self._db.read() as tx:
            rows = await tx.execute(query.select_from(secrets.outerjoin(sealed_versions, same)).where(mine))
            return {
                row.name: SealedSecret(row.sealed, row.version or 0, tuple(json.loads(row.hosts)), row.hosts)
                for row in rows
            }


async def _has_room(tx: AsyncConnection, organization_id: str, name: str, most: int) -> bool:
    """For a secret of this name: one that is there keeps its place."""
    mine = secrets.c.organization_id == organization_id
    if (await tx.execute(select(secrets.c.name).where(mine, secrets.c.name == name))).first():
        return True
    # Its row is locked: two at once would pass the limit together.
    whose = select(organizations.c.id).where(organizations.c.id == organization_id)
    await tx.execute(whose.with_for_update(key_share=True))
    return int((await tx.execute(select(func.count()).select_from(secrets).where(mine))).scalar_one()) < most


def _spread(thing: Key | Organization) -> dict[str, Any]:
    """Its fields, those of its rates beside the others."""
    fields = vars(thing) | vars(thing.rates)
    del fields["rates"]
    return fields


def _row(key: Key) -> dict[str, Any]:
    fields = _spread(key)
    del fields["shared_id"]
    return fields | {
        "scopes": json.dumps(key.scopes),
        "bind": key.bind and json.dumps(asdict(key.bind)),
        "budget_id": key.budget.id if key.budget else key.shared_id or None,
        "budget": key.budget and key.budget.limit,
    }


def _key(row: Any) -> Key:
    fields = {column.name: getattr(row, column.name) for column in _KEY_COLUMNS}
    fields.update(kind=KeyKind(row.kind), scopes=tuple(json.loads(row.scopes)))
    fields.update(bind=Binding(**json.loads(row.bind)) if row.bind else None)
    limit, budget_id = fields.pop("budget"), fields.pop("budget_id")
    rates = Rates(fields.pop("per_second"), fields.pop("api_per_minute"))
    if limit is None:
        return Key(**fields, rates=rates, shared_id=budget_id or "")
    return Key(**fields, budget=Budget(budget_id, limit), rates=rates)


@contextmanager
def _known_organization() -> Iterator[None]:
    """The one foreign key of a statement failed: NotFound."""
    try:
        yield
    except IntegrityError as error:
        if "FOREIGN KEY" in str(error.orig).upper():
            raise NotFound("no such organization") from error
        raise
