"""What is sealed, in real rows that somebody else has changed; and a new KEK that reaches all of them."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import LargeBinary, delete, insert, select, text, update
from sqlalchemy.exc import DBAPIError

from keys.audit import PLATFORM
from keys.hook_store import SqlHookStore, hooks
from keys.hooks import Hooks, Proof
from keys.keks import Keks
from keys.model import Organization, Resolved
from keys.receipt_store import SqlReceiptKeyStore, receipt_keys
from keys.receipts import Receipts
from keys.rewrap import Box, Rewrap, opened, unneeded
from keys.sealed_store import SEALED, SqlSealedRows
from keys.sealing import FORMAT, OLD_FORMAT, Envelope, PepperedHash, Tampered, UnknownKek, kek_id, shown
from keys.store import SqlKeyStore, SqlSecretStore, metadata, secrets
from keys.vault import Vault
from keys.version_store import sealed_versions
from keys.webhook_store import SqlWebhookStore, webhook_secrets
from keys.webhooks import Webhooks
from kit.clock import FakeClock
from kit.db import Database, open_db
from kit.settings import BadSettings
from tests.databases import ENGINES, database_url
from tests.unit.keys.test_sealing import old_box

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
OLD, NEW = b"o" * 32, b"n" * 32


class Rig:
    """All that seals, on one database, under `keks`."""

    def __init__(self, db: Database, *keks: bytes) -> None:
        self.db = db
        self.clock = FakeClock(NOW)
        self.rows = SqlSealedRows(db)
        self.seal_with(*keks)

    def seal_with(self, *keks: bytes) -> None:
        self.envelope = Envelope(*keks)
        self.vault = Vault(SqlSecretStore(self.db), self.envelope, self.clock)
        self.webhooks = Webhooks(SqlWebhookStore(self.db), self.envelope, self.clock)
        self.receipts = Receipts(SqlReceiptKeyStore(self.db), self.envelope, self.clock)
        self.hooks = Hooks(SqlHookStore(self.db), PepperedHash(b"p" * 32), self.envelope, self.clock)

    def rewrap(self) -> Rewrap:
        return Rewrap(self.envelope, Keks(Path("/"), None, (NEW, OLD)), self.rows, self.clock)

    async def put(self, value: str, name: str = "TOKEN", organization_id: str = "org_a", *hosts: str) -> None:
        await self.vault.put(organization_id, name, value, hosts, "key_1")

    async def read(self, name: str = "TOKEN", organization_id: str = "org_a") -> Resolved | None:
        return (await self.vault.resolve(organization_id, [name])).get(name)

    async def row(self, name: str = "TOKEN", organization_id: str = "org_a") -> dict[str, Any]:
        mine = (secrets.c.organization_id == organization_id) & (secrets.c.name == name)
        async with self.db.read() as tx:
            return dict((await tx.execute(select(secrets).where(mine))).one()._mapping)

    async def write(self, row: dict[str, Any]) -> None:
        """As somebody does who has the database and no key."""
        mine = (secrets.c.organization_id == row["organization_id"]) & (secrets.c.name == row["name"])
        async with self.db.write() as tx:
            await tx.execute(delete(secrets).where(mine))
            await tx.execute(insert(secrets).values(**row))

    async def filled(self) -> dict[str, Any]:
        """Something of each kind, and how it reads."""
        for number in range(3):
            await self.put(f"value {number}", f"TOKEN{number}", "org_a", "a.example")
        await self.webhooks.rotate("org_a", "key_1")
        await self.receipts.sign(b"{}")
        return await self.reads()

    async def reads(self) -> dict[str, Any]:
        values = await self.vault.resolve("org_a", [f"TOKEN{number}" for number in range(3)])
        pair = await self.webhooks.get("org_a")
        return values | {"webhook": pair.current, "before": pair.previous, "receipt": await self.receipts.sign(b"{}")}


@pytest.fixture(params=ENGINES)
async def rig(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Rig]:
    async with open_db(database_url(request, request.param, tmp_path, "keys")) as db:
        async with SqlKeyStore(db).change() as change:
            for name in ("org_a", "org_b", "org_system"):
                await change.add_organization(Organization(name, name, first=False, created_at=NOW))
        yield Rig(db, OLD)


def test_every_table_with_a_box_is_named() -> None:
    """Else a new KEK never reaches it, and dropping the old one loses it."""
    boxes = {
        f"{table.name}.{column.name}"
        for table in metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, LargeBinary)
    }
    assert boxes - {"keys.digest", "hooks.digest", "receipt_keys.public", "outbox.payload"} == {
        each.kind for each in SEALED
    }


async def test_boxes_that_were_swapped_dont_open(rig: Rig) -> None:
    await rig.put("1", "ONE")
    await rig.put("2", "TWO")
    await rig.put("3", "ONE", "org_b")
    one, two, others = await rig.row("ONE"), await rig.row("TWO"), await rig.row("ONE", "org_b")
    await rig.write(one | {"sealed": two["sealed"]})
    await rig.write(others | {"sealed": one["sealed"]})
    for name, whose in (("ONE", "org_a"), ("ONE", "org_b")):
        with pytest.raises(Tampered):
            await rig.read(name, whose)
    assert await rig.read("TWO") == Resolved("2")


async def test_a_box_that_was_changed_or_cut_doesnt_open(rig: Rig) -> None:
    await rig.put("value")
    row = await rig.row()
    box = row["sealed"]
    for changed in (
        box[:-1],
        box[:60],
        b"",
        box[:-1] + bytes([box[-1] ^ 1]),
        box[:20] + bytes([box[20] ^ 1]) + box[21:],
    ):
        await rig.write(row | {"sealed": changed})
        with pytest.raises(Tampered):
            await rig.read()
    await rig.write(row)
    assert await rig.read() == Resolved("value")


async def test_an_older_row_that_is_put_back_doesnt_open(rig: Rig) -> None:
    await rig.put("1")
    first = await rig.row()
    await rig.put("2")
    second = await rig.row()
    await rig.write(first)
    with pytest.raises(Tampered, match="is version 1, and version 2 is the newest"):
        await rig.read()
    await rig.vault.delete("org_a", "TOKEN", "key_1")
    for older in (first, second):
        await rig.write(older)
        with pytest.raises(Tampered):
            await rig.read()
    await rig.put("3")
    assert await rig.read() == Resolved("3")
    await rig.write(second)
    with pytest.raises(Tampered):
        await rig.read()


async def test_the_hosts_of_a_secret_cant_be_changed_alone(rig: Rig) -> None:
    await rig.put("value", "TOKEN", "org_a", "a.example")
    await rig.write(await rig.row() | {"hosts": '["evil.example"]'})
    with pytest.raises(Tampered):
        await rig.read()


async def test_an_older_webhook_secret_that_is_put_back_doesnt_open(rig: Rig) -> None:
    await rig.webhooks.get("org_a")
    async with rig.db.read() as tx:
        older = dict((await tx.execute(select(webhook_secrets))).one()._mapping)
    await rig.webhooks.rotate("org_a", "key_1")
    async with rig.db.write() as tx:
        await tx.execute(update(webhook_secrets).values(**older))
    with pytest.raises(Tampered):
        await rig.webhooks.get("org_a")


async def test_a_receipt_key_opens_in_its_own_row_only(rig: Rig) -> None:
    await rig.receipts.sign(b"{}")
    async with rig.db.read() as tx:
        older = (await tx.execute(select(receipt_keys.c.sealed))).scalar_one()
    await rig.receipts.rotate(PLATFORM)
    async with rig.db.write() as tx:
        await tx.execute(update(receipt_keys).where(receipt_keys.c.signs == "1").values(sealed=older))
    with pytest.raises(Tampered):
        await rig.receipts.sign(b"{}")


CHANGES = [
    "UPDATE sealed_versions SET version = 1",
    "UPDATE sealed_versions SET version = version",
    "UPDATE sealed_versions SET name = 'OTHER', version = version + 1",
    "DELETE FROM sealed_versions",
]


async def test_a_version_only_rises(rig: Rig) -> None:
    await rig.put("1")
    await rig.put("2")
    for change in CHANGES:
        with pytest.raises(DBAPIError, match="only rises"):
            async with rig.db.write() as tx:
                await tx.execute(text(change))
    with pytest.raises(DBAPIError):
        async with rig.db.write() as tx:
            await tx.execute(text(_in_its_place(tx.dialect.name)))
    async with rig.db.read() as tx:
        assert (await tx.execute(select(sealed_versions.c.version))).scalars().all() == [2]


def _in_its_place(dialect: str) -> str:
    if dialect == "sqlite":
        return "INSERT OR REPLACE INTO sealed_versions VALUES ('org_a', 'TOKEN', 1)"
    return "TRUNCATE sealed_versions"


async def test_many_at_once_each_get_a_version(rig: Rig) -> None:
    await asyncio.gather(*(rig.put(str(number)) for number in range(10)))
    async with rig.db.read() as tx:
        assert (await tx.execute(select(sealed_versions.c.version))).scalar_one() == 10
    assert (await rig.read()) in [Resolved(str(number)) for number in range(10)]


async def test_a_new_kek_reaches_everything_and_the_old_one_can_go(rig: Rig) -> None:
    before = await rig.filled()
    assert await rig.rows.counts() == Counter({FORMAT + kek_id(OLD): 6})
    rig.seal_with(NEW, OLD)
    assert unneeded((NEW, OLD), await rig.rows.counts()) == []
    assert await rig.rewrap().once() == 6
    assert await rig.rows.counts() == Counter({FORMAT + kek_id(NEW): 6})
    assert unneeded((NEW, OLD), await rig.rows.counts()) == [OLD]
    rig.seal_with(NEW)
    assert await rig.reads() == before
    assert await rig.rewrap().once() == 0


async def test_a_new_kek_reaches_hooks_and_their_rows_cant_be_changed(rig: Rig) -> None:
    made, token = await rig.hooks.create("org_a", "greet", "slack", Proof("signed by"), "key_1", None)
    rig.seal_with(NEW, OLD)
    assert await rig.rewrap().once() == 1
    rig.seal_with(NEW)
    assert await rig.hooks.open(token) == (made, Proof("signed by"))
    for changed in ({"kind": "github"}, {"reference": "other"}):
        async with rig.db.write() as tx:
            await tx.execute(update(hooks).values(kind="slack", reference="greet"))
            await tx.execute(update(hooks).values(**changed))
        with pytest.raises(Tampered):
            await rig.hooks.open(token)


async def test_boxes_of_earlier_releases_are_read_and_made_anew(rig: Rig) -> None:
    await rig.put("newer", "NEWER")
    row = await rig.row("NEWER")
    for name in ("A", "B"):
        box = old_box(OLD, "org_a", name, f"value of {name}")
        await rig.write(row | {"name": name, "sealed": box, "hosts": '["a.example"]'})
    assert await rig.read("A") == Resolved("value of A", ("a.example",))
    assert (await rig.rows.counts())[OLD_FORMAT] == 2
    await rig.put("replaced", "B")
    rig.seal_with(NEW, OLD)
    assert await rig.rewrap().once() == 3
    rig.seal_with(NEW)
    assert await rig.read("A") == Resolved("value of A", ("a.example",))
    assert await rig.read("B") == Resolved("replaced")
    await rig.write(row | {"name": "B", "sealed": old_box(OLD, "org_a", "B", "value of B")})
    rig.seal_with(NEW, OLD)
    with pytest.raises(Tampered, match="an older one that was put back"):
        await rig.read("B")


class Meddler(SqlSealedRows):
    """Meanwhile somebody puts a secret, and another process does the same pass."""

    def __init__(self, rig: Rig) -> None:
        super().__init__(rig.db)
        self._rig = rig
        self._first = True

    async def replace(self, changed: Sequence[tuple[Box, bytes]]) -> int:
        if self._first:
            self._first = False
            await self._rig.put("meanwhile", "TOKEN1", "org_a", "a.example")
            await self._rig.rewrap().once()
        return await super().replace(changed)


async def test_what_changes_meanwhile_is_left_as_it_is(rig: Rig) -> None:
    before = await rig.filled()
    rig.seal_with(NEW, OLD)
    meddled = Rewrap(rig.envelope, Keks(Path("/"), None, (NEW,)), Meddler(rig), rig.clock)
    assert await meddled.once() < 6
    rig.seal_with(NEW)
    assert await rig.reads() == before | {"TOKEN1": Resolved("meanwhile", ("a.example",))}


async def test_several_processes_at_once_do_it_once(rig: Rig) -> None:
    before = await rig.filled()
    rig.seal_with(NEW, OLD)
    assert sum(await asyncio.gather(*(rig.rewrap().once() for _ in range(3)))) == 6
    rig.seal_with(NEW)
    assert await rig.reads() == before


async def test_one_that_is_broken_stops_none_of_the_others(rig: Rig) -> None:
    await rig.filled()
    row = await rig.row("TOKEN1")
    for broken in (b"", b"\x02", row["sealed"][:30] + b"?" + row["sealed"][31:]):
        await rig.write(row | {"sealed": broken})
        rig.seal_with(NEW, OLD)
        await rig.rewrap().once()
        rig.seal_with(NEW)
        assert await rig.read("TOKEN2") == Resolved("value 2", ("a.example",))
        assert (await rig.row("TOKEN1"))["sealed"] == broken


async def test_a_start_without_a_kek_that_is_needed_says_so(rig: Rig, tmp_path: Path) -> None:
    await rig.filled()
    with pytest.raises(BadSettings) as caught:
        await opened(Keks(tmp_path / "kek", None, (NEW,)), rig.rows)
    for told in ("6 need " + shown(kek_id(OLD)), "RUNMESH_KEK has " + shown(kek_id(NEW)), "Nothing was changed"):
        assert told in str(caught.value)
    with pytest.raises(BadSettings, match=r"kek is gone, and .* 6 need .*put it back"):
        await opened(Keks(tmp_path / "kek"), rig.rows)
    assert not (tmp_path / "kek").exists()
    envelope = await opened(Keks(tmp_path / "kek", None, (NEW, OLD)), rig.rows)
    assert envelope.ids == (kek_id(NEW), kek_id(OLD))


async def test_a_start_with_boxes_of_earlier_releases_needs_their_kek(rig: Rig, tmp_path: Path) -> None:
    await rig.put("newer")
    await rig.write(await rig.row() | {"name": "A", "sealed": old_box(OLD, "org_a", "A", "1")})
    await rig.vault.delete("org_a", "TOKEN", "key_1")
    with pytest.raises(BadSettings, match="1 need the KEK that an earlier release made"):
        await opened(Keks(tmp_path / "kek", None, (NEW,)), rig.rows)
    assert (await opened(Keks(tmp_path / "kek", None, (NEW, OLD)), rig.rows)).ids[0] == kek_id(NEW)


async def test_another_process_that_is_behind_learns_of_a_new_kek_when_it_meets_it(rig: Rig, tmp_path: Path) -> None:
    await rig.put("1")
    (file := tmp_path / "kek").write_bytes(OLD)
    behind = await opened(Keks(file), rig.rows)
    Keks(file).write((NEW, OLD))
    rig.seal_with(NEW, OLD)
    await rig.put("2")
    vault = Vault(SqlSecretStore(rig.db), behind, rig.clock)
    assert await vault.resolve("org_a", ["TOKEN"]) == {"TOKEN": Resolved("2")}
    file.write_text("nonsense")
    rig.seal_with(b"x" * 32)
    await rig.put("3")
    with pytest.raises(UnknownKek):
        await vault.resolve("org_a", ["TOKEN"])
