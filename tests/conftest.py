"""A skipped test fails the run unless its reason is in `tests/allowed_skips.txt`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

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


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """One server for all; a test takes a prefix of its own in its bucket."""
    with s3_server() as server:
        yield server
