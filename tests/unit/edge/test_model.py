"""edge.model: scopes."""

import pytest

from edge.model import Access, Principal
from kit.errors import Denied


def principal(*scopes: str, kind: str = "standard", first: bool = False) -> Principal:
    return Principal("key_1", "org_1", kind, frozenset(scopes), first)


@pytest.mark.parametrize(
    ("access", "who"),
    [
        (Access.START, principal("run")),
        (Access.START, principal("run:a")),
        (Access.START, principal("run", kind="one_time")),
        (Access.READ, principal("run", kind="one_time")),
        (Access.RUN, principal("run", kind="run")),
        (Access.FILES, principal("files", kind="run")),
        (Access.DEPLOY, principal("deploy")),
        (Access.ANY, principal("files")),
        (Access.ANY, principal("run", kind="run")),
        (Access.ADMIN, principal("admin")),
        (Access.FIRST_ADMIN, principal("admin", first=True)),
    ],
)
def test_enough(access: Access, who: Principal) -> None:
    access.check(who)


@pytest.mark.parametrize(
    ("access", "who"),
    [
        (Access.START, principal("files", "deploy", "admin")),
        (Access.RUN, principal("run", kind="one_time")),
        (Access.FILES, principal("run", "files", kind="one_time")),
        (Access.FILES, principal("run", "admin")),
        (Access.DEPLOY, principal("run", "files", kind="run")),
        (Access.ANY, principal("run", kind="one_time")),
        (Access.ADMIN, principal("run", "files", "deploy")),
        (Access.FIRST_ADMIN, principal("admin")),
        (Access.FIRST_ADMIN, principal("deploy", first=True)),
    ],
)
def test_not_enough(access: Access, who: Principal) -> None:
    with pytest.raises(Denied):
        access.check(who)


def test_a_key_of_one_service_runs_any_version_of_it_only() -> None:
    who = principal("run:a")
    who.check_run("a")
    who.check_run("a@3")
    for other in ("b", "ab", "org_1.a", "a.b"):
        with pytest.raises(Denied):
            who.check_run(other)
