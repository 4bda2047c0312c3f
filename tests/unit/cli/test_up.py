"""cli.up: the example that a first start deploys, and who is given which secret."""

from pathlib import Path

import httpx
import pytest

from cli import up
from cli.settings import Settings


class FakeApi:
    """`/workflows/hello` and `/deploy`, as far as the start asks."""

    def __init__(self) -> None:
        self.there = False
        self.refuses = False

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST" and not self.refuses:
            self.there = True
        return httpx.Response(200 if self.there else 404, json={})


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> FakeApi:
    api = FakeApi()

    def client(_settings: Settings, **headers: str) -> httpx.AsyncClient:
        return httpx.AsyncClient(base_url="http://mesh", headers=headers, transport=httpx.MockTransport(api))

    monkeypatch.setattr(up, "_client", client)
    return api


async def test_an_example_that_was_deleted_stays_so(api: FakeApi, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert await up._deploy_example(settings, "key")
    assert await up._deploy_example(settings, "key")
    api.there = False
    assert not await up._deploy_example(settings, "key")
    assert not api.there


async def test_one_of_an_older_start_is_remembered_too(api: FakeApi, tmp_path: Path) -> None:
    api.there = True
    assert await up._deploy_example(Settings(home=tmp_path), "key")
    api.there = False
    assert not await up._deploy_example(Settings(home=tmp_path), "key")


async def test_one_that_was_refused_is_tried_again(api: FakeApi, tmp_path: Path) -> None:
    api.refuses = True
    assert not await up._deploy_example(Settings(home=tmp_path), "key")
    api.refuses = False
    assert await up._deploy_example(Settings(home=tmp_path), "key")


def test_what_is_secret_goes_to_those_who_need_it_alone(tmp_path: Path) -> None:
    for name in ("send_email.py", "openai.py", "README.md"):
        (tmp_path / name).touch()
    whose = {
        "RUNMESH_DATABASE_URL": {"filestore", "keys", "scheduler", "migrate"},
        "RUNMESH_KEK": {"keys"},
        "RUNMESH_KEK_FILE": {"keys"},
        "AWS_SECRET_ACCESS_KEY": {"filestore"},
        "RUNMESH_OPENAI_API_KEY": {"executor"},
        "RUNMESH_SEND_EMAIL_SMTP_URL": {"executor"},
    }
    environ = {name: f"of {name}" for name in whose}
    rest = dict.fromkeys(["PATH", "RUNMESH_README_X", "OPENAI_API_KEY", "RUNMESH_OPENAIX_Y"], "of everybody")
    everybodys, own = up.apart(environ | rest, tmp_path)
    assert everybodys == rest
    for name, services in whose.items():
        assert {service for service, given in own.items() if given.get(name) == f"of {name}"} == services
