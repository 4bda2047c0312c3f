from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, text

import keys.hook_store
import keys.prices_store
import keys.rates_store
import keys.receipt_store
import keys.webhook_store
import migrations
from keys.money import FIRST_CREDITS
from keys.store import metadata
from tests.databases import differences, with_connection
from tests.ledger_books import AUDITS


def test_the_migrations_make_the_tables_of_the_store(database: Callable[[str], str]) -> None:
    for table in (
        keys.webhook_store.webhook_secrets,
        keys.hook_store.hooks,
        keys.receipt_store.receipt_keys,
        keys.rates_store.permit_buckets,
        keys.prices_store.prices,
        keys.prices_store.price_lists,
    ):
        assert table.metadata is metadata
    assert differences(database("keys"), metadata) == []


def test_organizations_that_there_are_get_their_accounts(database: Callable[[str], str]) -> None:
    def there_and_back(connection: Connection) -> None:
        config = Config()
        config.set_main_option("script_location", str(Path(migrations.__file__).parent))
        config.set_main_option("path_separator", "os")
        config.attributes["connection"] = connection
        command.downgrade(config, "keys_0002")
        row = "INSERT INTO organizations VALUES (:name, :name, :first, '2026-01-01')"
        for name, first in (("org_a", True), ("org_b", False)):
            connection.execute(text(row), {"name": name, "first": first})
        for _ in range(2):
            command.upgrade(config, "keys@head")
            found = connection.execute(text("SELECT id, balance FROM accounts")).all()
            assert {row.id: row.balance for row in found} == {
                "org:org_a": FIRST_CREDITS,
                "org:org_b": 0,
                "platform:grants": -FIRST_CREDITS,
                "platform:revenue": 0,
                "platform:losses": 0,
            }
            for title, query in AUDITS:
                assert connection.execute(text(query.replace(":", "\\:"))).all() == [], title
            connection.commit()
            command.downgrade(config, "keys_0002")
        command.upgrade(config, "keys@head")

    with_connection(database("keys"), there_and_back)
