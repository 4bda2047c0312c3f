from collections.abc import Callable

from alembic import command
from sqlalchemy import Connection, text

from scheduler.store.tables import metadata
from tests.databases import alembic_on, differences, with_connection

RUN = """INSERT INTO runs (id, owner_id, caller_id, acting_id, requester_id, service_id, version_id, status, created_at,
    deadline, trigger, correlation_id, parent_id, root_id, depth, traceparent, trace_id, attempt, epoch, key_id,
    synchronous, code, detail, log_tail, executor, incarnation, log_digest, lane)
    VALUES ('run_1', 'o', 'o', 'o', 'o', 's', 'v', 4, '2026-01-01', '2026-01-01', 1, '', '', '', 0, '', '', 1, 0, '',
    FALSE, '', '', '[]', '', '', '', 1)"""


def test_the_migrations_make_the_tables_of_the_store(database: Callable[[str], str]) -> None:
    assert differences(database("scheduler"), metadata) == []


def test_usage_comes_and_goes_with_the_runs_that_are_there(database: Callable[[str], str]) -> None:
    def there_and_back(connection: Connection) -> None:
        config = alembic_on(connection)
        command.downgrade(config, "scheduler_0001")
        connection.execute(text(RUN))
        command.upgrade(config, "scheduler@head")
        row = connection.execute(text("SELECT * FROM runs")).one()
        assert (row.id, row.cpu_seconds, row.egress_bytes, row.egress_digest) == ("run_1", None, None, "")
        connection.execute(text("UPDATE runs SET egress_bytes = 1099511627776, cpu_seconds = 0.5"))
        command.downgrade(config, "scheduler_0001")
        assert "cpu_seconds" not in connection.execute(text("SELECT * FROM runs")).one()._fields

    with_connection(database("scheduler"), there_and_back)
