from collections.abc import Callable

import keys.receipt_store
import keys.webhook_store
from keys.store import metadata
from tests.databases import differences


def test_the_migrations_make_the_tables_of_the_store(database: Callable[[str], str]) -> None:
    for table in (keys.webhook_store.webhook_secrets, keys.receipt_store.receipt_keys):
        assert table.metadata is metadata
    assert differences(database("keys"), metadata) == []
