"""redis_coordinator on JetStream, send_email, user_login through the whole mesh: whose keys, mails, users they are."""

import re
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.mesh import Mesh, until
from tests.mail_server import MailServer

pytestmark = pytest.mark.timeout(280)
NAMES = ("redis_coordinator", "send_email", "user_login")
FORGED = {
    "x-runmesh-organization-id": "{other}",
    "codewords-caller-id": "{other}",
    "x_runmesh_organization_id": "{other}",
}
DECLARES = """# /// script
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34"]
# [tool.env-checker]
# env_vars = ["RUNMESH_REDIS_COORDINATOR_NATS_URL", "RUNMESH_USER_LOGIN_SIGNING_KEY"]
# ///
import uvicorn
from fastapi import FastAPI

app = FastAPI()
if __name__ == "__main__":
    uvicorn.run(app)
"""


@pytest.fixture(scope="module", autouse=True)
def library(mesh: Mesh) -> None:
    with mesh.http() as client:
        for name in NAMES:
            until(lambda: client.get(f"/workflows/{name}").json().get("visibility") == "public", 150)  # noqa: B023


@pytest.fixture(scope="module")
def other(mesh: Mesh) -> dict[str, Any]:
    """Another organization, with a public workflow that asks whatever its caller wants."""
    organization = mesh.new_organization("keeps state")
    mesh.deploy("asker", key=organization["key"])
    with mesh.http(organization["key"]) as client:
        assert client.patch("/workflows/asker", json={"visibility": "public"}).status_code == 200
    return organization


@pytest.fixture
def client(mesh: Mesh) -> Iterator[httpx.Client]:
    with mesh.http() as found:
        yield found


def told(client: httpx.Client, headers: dict[str, str] | None = None, **command: Any) -> Any:
    answer = client.post("/run/redis_coordinator", json=command, headers=headers or {})
    assert answer.status_code == 200, answer.text
    assert answer.json()["success"] is True
    return answer.json()["value"]


def test_values_by_their_keys(client: httpx.Client) -> None:
    key = secrets.token_hex(4)
    assert told(client, operation="get", key=key) is None
    assert told(client, operation="set", key=key, value={"a": ["5", 5]}, ttl=600) == {"a": ["5", 5]}
    assert told(client, action="get", key=key) == {"a": ["5", 5]}
    assert told(client, operation="expire", key=key, ttl=600) == 1
    assert told(client, operation="delete", key=key) == 1
    refused = client.post("/run/redis_coordinator", json={"operation": "get"})
    assert (refused.status_code, refused.json()["code"], refused.headers["error-origin"]) == (
        400,
        "bad_request",
        "service",
    )
    nothing = client.post("/run/redis_coordinator/")
    assert (nothing.status_code, nothing.json()["code"]) == (424, "missing_secret")
    assert "RUNMESH_REDIS_COORDINATOR_REDIS_URL" in nothing.json()["detail"]


def test_callers_that_count_at_once(client: httpx.Client) -> None:
    key = secrets.token_hex(4)
    with ThreadPoolExecutor(8) as pool:
        values = list(pool.map(lambda _: told(client, operation="incr", key=key), range(24)))
    assert sorted(values) == list(range(1, 25))


def test_no_header_makes_one_another(mesh: Mesh, client: httpx.Client, other: dict[str, Any]) -> None:
    """Neither from outside, nor inside of a run."""
    key = secrets.token_hex(4)
    forged = {name: value.format(other=other["id"]) for name, value in FORGED.items()}
    told(client, forged, operation="set", key=key, value="mine")
    with mesh.http(other["key"]) as theirs:
        assert told(theirs, operation="get", key=key) is None
        mesh.deploy("asker")
        asked = {"path": "/run/redis_coordinator", "body": {"operation": "get", "key": key}, "headers": forged}
        found = client.post("/run/asker", json=asked).json()
        assert (found["code"], found["answer"]["value"]) == (200, "mine")


def test_somebody_elses_workflow_has_its_own_keys_not_its_callers(
    mesh: Mesh, client: httpx.Client, other: dict[str, Any]
) -> None:
    """Though its caller pays for it."""
    key = secrets.token_hex(4)
    told(client, operation="set", key=key, value="the caller's")
    asked = {"path": "/run/redis_coordinator", "body": {"operation": "set", "key": key, "value": "the owner's"}}
    found = client.post(f"/run/{other['id']}.asker", json=asked).json()
    assert (found["code"], found["answer"]["value"]) == (200, "the owner's")
    assert found["headers"]["codewords-caller-id"] != other["id"]
    assert told(client, operation="get", key=key) == "the caller's"
    with mesh.http(other["key"]) as theirs:
        assert told(theirs, operation="get", key=key) == "the owner's"


def test_a_mail_with_a_file(client: httpx.Client, mails: MailServer) -> None:
    place = client.post("/file?filename=names.csv").json()
    client.put(place["upload_uri"], content=b"a,b\n", headers={"content-type": "text/csv"}).raise_for_status()
    mail = {
        "to": "ann@example.com",
        "subject": "Names",
        "body": "Here",
        "attachments": [{"url": place["download_uri"]}],
    }
    answer = client.post("/run/send_email", json=mail)
    assert answer.status_code == 200, answer.text
    (mailed,) = (each for each in mails.delivered if each.message["message-id"] == answer.json()["message_id"])
    assert (mailed.recipients, mailed.message["subject"]) == (["ann@example.com"], "Names")
    assert mailed.message["x-runmesh-request-id"] == answer.headers["x-request-id"]
    (attached,) = mailed.message.iter_attachments()
    assert (attached.get_filename(), attached.get_content_type()) == ("names.csv", "text/csv")
    assert attached.get_payload(decode=True) == b"a,b\n"


def test_users_sign_in_to_an_organization(
    mesh: Mesh, client: httpx.Client, other: dict[str, Any], mails: MailServer
) -> None:
    email = f"{secrets.token_hex(4)}@example.com"
    started = client.post("/run/user_login/start", json={"email": email})
    assert started.status_code == 200, started.text
    (mailed,) = (each for each in mails.delivered if each.recipients == [email])
    (code,) = re.findall(r"\d{6}", mailed.message["subject"])
    with mesh.http(other["key"]) as theirs:
        wrong = theirs.post("/run/user_login/verify", json={"email": email, "code": code})
        assert (wrong.status_code, wrong.json()["code"]) == (401, "wrong_code")
    verified = client.post("/run/user_login/verify", json={"email": email, "code": code})
    assert verified.status_code == 200, verified.text
    token = {"x-user-token": verified.json()["token"]}
    told_me = client.get("/run/user_login/me", headers=token)
    assert (told_me.status_code, told_me.json()["user"]["email"]) == (200, email)
    with mesh.http(other["key"]) as theirs:
        assert theirs.get("/run/user_login/me", headers=token).status_code == 401
    asked = {"path": "/run/user_login/me", "headers": token}
    assert client.post(f"/run/{other['id']}.asker", json=asked).json()["code"] == 401
    assert client.get("/run/user_login/keys").json()["keys"][0]["crv"] == "Ed25519"
    again = client.post("/run/user_login/start", json={"email": email})
    assert (again.status_code, again.json()["code"]) == (429, "rate_limited")
    assert int(again.headers["retry-after"]) > 0


def test_what_they_are_told_is_told_to_nobody_else(mesh: Mesh, client: httpx.Client) -> None:
    """Passwords and keys: in no other process's environment, in no arguments, in no output; and for no workflow."""
    kept = {file.name: file.read_bytes().hex() for file in (mesh.home / "secrets").iterdir()}
    hidden = [kept[name] for name in ("nats_redis_coordinator", "nats_user_login", "user_login")]
    for pid, words in mesh.programs().items():
        said = Path(f"/proc/{pid}/environ").read_text(errors="replace")
        assert not any(secret in " ".join(words) for secret in hidden)
        assert (hidden[0] in said) == (words[1:] == ["-m", "executor"])
    assert not any(secret in line for line in mesh.output for secret in hidden)
    mesh.deploy("declares", DECLARES)
    refused = client.post("/run/declares")
    assert (refused.status_code, refused.json()["code"]) == (424, "missing_secret")
