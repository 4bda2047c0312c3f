from collections.abc import Callable

import keys.prices_store
import keys.rates_store
import keys.webhook_store
from keys.store import metadata
from tests.databases import differences


def test_the_migrations_make_the_tables_of_the_store(database: Callable[[str], str]) -> None:
    for table in (
        keys.webhook_store.webhook_secrets,
        keys.rates_store.permit_buckets,
        keys.prices_store.prices,
        keys.prices_store.price_lists,
    ):
        assert table.metadata is metadata
    assert differences(database("keys"), metadata) == []
