"""A skipped test fails the run unless its reason is in `tests/allowed_skips.txt`. Databases of both engines."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.databases import ENGINES, database_url
from tests.postgres import Server, postgres_server
from tests.s3_server import S3Server, s3_server

_ALLOWED = {
    line.strip()
    for line in (Path(__file__).parent / "allowed_skips.txt").read_text().splitlines()
    if line.strip() and not line.startswith("#")
}
_unexplained: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if reason not in _ALLOWED:
            _unexplained.append(f"{report.nodeid}: {reason}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    if _unexplained and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in _unexplained:
        terminalreporter.write_line(f"skipped without an allowed reason: {line}", red=True)


class Sharing(LoadScopeScheduling):  # type: ignore[misc]  # it has no types
    """One worker runs a file, or all files that share a mesh: it is started once."""

    def _split_scope(self, nodeid: str) -> str:
        file = Path(nodeid.partition("::")[0])
        shares = file.parent.name in {"e2e", "escape"} and "mesh_up" not in (self.config.rootpath / file).read_text()
        return str(file.parent if shares else file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Sharing:
    return Sharing(config, log)


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """One server for all; a test takes a prefix of its own in its bucket."""
    with s3_server() as server:
        yield server


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """One PostgreSQL for the tests of this process."""
    with postgres_server() as server:
        yield server


@pytest.fixture(params=ENGINES)
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """`database(service)` is the URL of a service's own, new and migrated database: on each engine in turn."""
    return partial(database_url, request, request.param, tmp_path)


# Stores are held to both engines by tests/contract, the whole mesh by tests/e2e/test_postgres.py: each service alone
# on PostgreSQL is more of the same.
@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def database_setting(request: pytest.FixtureRequest) -> str:
    """What RUNMESH_DATABASE_URL says: nothing, or a new and migrated database."""
    if request.param == "sqlite":
        return ""
    server: Server = request.getfixturevalue("postgres")
    return server.url(server.migrated())
