"""What drives the workflows of library/templates: their environment, the services that they call."""

import pytest

from tests.fakes.library_services import KEY, RUNTIME, LibraryServices
from tests.fakes.ready_made import FILES, Post, header, sent

SECRETS = {"SLACK_BOT_TOKEN": "xoxb-1", "CONTACT_TO": "me@example.com"}


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch) -> LibraryServices:
    made = LibraryServices()
    made.install(monkeypatch)
    return made


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the platform sets, what is declared with its default, and the secrets."""
    monkeypatch.setenv("CODEWORDS_RUNTIME_URI", RUNTIME)
    monkeypatch.setenv("CODEWORDS_API_KEY", KEY)
    for template in FILES:
        for variable in header(template).env_vars:
            monkeypatch.setenv(variable.name, SECRETS[variable.name] if variable.default is None else variable.default)


@pytest.fixture
def post(services: LibraryServices, environment: None) -> Post:
    return sent
