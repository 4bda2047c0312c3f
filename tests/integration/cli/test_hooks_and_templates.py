"""`runmesh hooks` and `runmesh templates`."""

from collections.abc import Callable

import pytest
from typer.testing import Result

from tests.fakes.api_server import ApiServer

Runmesh = Callable[..., Result]
HOOK = {"id": "hook_1", "service_id": "inbox", "kind": "standard", "created_at": "2030-01-31T12:00:00.000Z"}
TEMPLATE = {"id": "finder", "name": "Finder", "description": "Finds it.", "secrets": ["A", "B"], "defaults": {}}


@pytest.mark.parametrize(("kind", "secret"), [("github", "hush"), ("standard", None)])
def test_a_hook_is_made_and_its_address_shown(runmesh: Runmesh, api: ApiServer, kind: str, secret: str | None) -> None:
    made = HOOK | {"url": "http://mesh/hooks/cwh-1"} | ({} if secret else {"secret": "whsec_1"})
    api.says("POST /hooks", made)
    told = runmesh("hooks", "create", "inbox", "-k", kind, input=f"{secret}\n" if secret else "")
    assert told.exit_code == 0, told.output
    shown = dict(line.split() for line in told.stdout.splitlines())
    assert shown == {"url": "http://mesh/hooks/cwh-1"} | ({} if secret else {"secret": "whsec_1"})
    wish = {"service_id": "inbox", "kind": kind} | ({"secret": secret} if secret else {})
    assert api.last("POST /hooks").json == wish


def test_a_hook_of_another_kind_needs_its_secret(runmesh: Runmesh, api: ApiServer) -> None:
    assert runmesh("hooks", "create", "inbox", "-k", "slack", input="").exit_code == 2
    assert not api.asked
    api.says("POST /hooks", HOOK | {"url": "http://mesh/hooks/cwh-1"})
    assert runmesh("hooks", "create", "inbox", "--own-secret", input="whsec_mine").exit_code == 0
    assert api.last("POST /hooks").json["secret"] == "whsec_mine"


def test_hooks_are_listed_and_removed(runmesh: Runmesh, api: ApiServer) -> None:
    api.says("GET /hooks", {"items": [HOOK], "next": None})
    assert runmesh("hooks", "ls").stdout.splitlines()[1].split()[:3] == ["hook_1", "inbox", "standard"]
    api.says("DELETE /hooks/hook_1", {"id": "hook_1", "deleted": True})
    assert runmesh("hooks", "rm", "hook_1").stdout == "hook_1 is removed\n"


def test_templates_are_listed_read_and_deployed(runmesh: Runmesh, api: ApiServer) -> None:
    api.says("GET /templates", {"items": [TEMPLATE], "next": None})
    assert runmesh("templates", "ls").stdout.splitlines()[1].split() == ["finder", "A", "B", "Finds", "it."]
    api.says("GET /templates/finder", TEMPLATE | {"kind": "code", "code": "app = 1\n"})
    assert runmesh("templates", "show", "finder").stdout == "app = 1\n"
    lacks = {"check": "secrets", "passed": False, "detail": "no secret is set for A: a run will fail", "line": 4}
    api.says("POST /deploy", {"service_id": "mine", "version": 1, "url": "http://mesh/run/o.mine", "report": [lacks]})
    told = runmesh("templates", "deploy", "finder", "--name", "mine")
    assert told.stdout.splitlines()[1:] == ["mine version 1 is served", "http://mesh/run/o.mine"]
    assert told.stderr.splitlines()[-1] == "  runmesh secrets set A"
    assert api.last("POST /deploy").json == {"template_id": "finder", "name": "mine"}


def test_a_template_of_a_prompt_is_shown_as_json(runmesh: Runmesh, api: ApiServer) -> None:
    api.says("GET /templates/org_1.teller", TEMPLATE | {"kind": "prompt", "template": "Tell of {{ hero }}"})
    assert "Tell of {{ hero }}" in runmesh("templates", "show", "org_1.teller").stdout
