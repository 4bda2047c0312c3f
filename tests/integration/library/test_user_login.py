"""user_login in this process, on a real nats-server; its codes are sent by send_email and a real mail server."""

import asyncio
import base64
import json
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from types import ModuleType
from typing import Any

import httpx
import jwt
import nats
import pytest
from nats.js.errors import NotFoundError

from tests.library_rig import Nats, ask, loaded, nats_of_up
from tests.mail_server import MailServer, mail_server

KEY, OLDER = "11" * 32, "22" * 32
EMAIL = "ann@example.com"


@pytest.fixture(scope="module")
def server() -> Iterator[Nats]:
    with nats_of_up() as running:
        yield running


@pytest.fixture
def mails(monkeypatch: pytest.MonkeyPatch) -> Iterator[MailServer]:
    """What is sent; the platform's address leads to the service send_email."""
    with mail_server(login=False) as mailer:
        url = f"smtp://127.0.0.1:{mailer.port}"
        settings = {"SMTP_URL": url, "FROM": "login@example.com", "PER_HOUR": "1", "NATS_URL": ""}
        named = {f"RUNMESH_SEND_EMAIL_{name}": value for name, value in settings.items()}
        sender = loaded("send_email", monkeypatch, named)
        monkeypatch.setattr(sender, "NEAR", "127.0.0.1")
        monkeypatch.setenv("CODEWORDS_RUNTIME_URI", "http://runtime")
        monkeypatch.setenv("CODEWORDS_API_KEY", "cwk-run-placeholder")

        async def handle(self: Any, request: httpx.Request) -> httpx.Response:
            assert str(request.url) == "http://runtime/run/send_email"
            assert request.headers["authorization"] == "Bearer cwk-run-placeholder"
            return await ask(sender, json.loads(await request.aread()))

        monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", handle)
        yield mailer


def login(server: Nats, monkeypatch: pytest.MonkeyPatch, **settings: str) -> ModuleType:
    usual = {
        "NATS_URL": server.address("user_login"),
        "SIGNING_KEY": KEY,
        "TOKEN_SECONDS": "86400",
        "MAILS_PER_HOUR": "200",
    }
    return loaded(
        "user_login", monkeypatch, {f"RUNMESH_USER_LOGIN_{name}": to for name, to in (usual | settings).items()}
    )


@pytest.fixture
def service(server: Nats, mails: MailServer, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return login(server, monkeypatch)


@pytest.fixture
def by(request: pytest.FixtureRequest) -> str:
    """An organization of the test's own."""
    return f"org_{request.node.name.partition('[')[0]}"


async def start(service: ModuleType, by: str, email: str = EMAIL) -> httpx.Response:
    return await ask(service, {"email": email}, path="/start", by=by)


async def verify(service: ModuleType, by: str, code: str, email: str = EMAIL) -> httpx.Response:
    return await ask(service, {"email": email, "code": code}, path="/verify", by=by)


def code_in(mails: MailServer) -> str:
    """Of the last message."""
    message = mails.delivered[-1].message
    body = message.get_body()
    assert body
    (code,) = re.findall(r"\b\d{6}\b", body.get_content())
    assert code in message["subject"]
    return str(code)


def another(code: str) -> str:
    return f"{(int(code) + 1) % 10**6:06d}"


def refused(answer: httpx.Response, status: int, code: str) -> str:
    assert (answer.status_code, answer.json()["code"], answer.json()["success"]) == (status, code, False), answer.text
    detail: str = answer.json()["detail"]
    return detail


async def signed_in(service: ModuleType, mails: MailServer, by: str, email: str = EMAIL) -> dict[str, Any]:
    assert (await start(service, by, email)).status_code == 200
    answer = await verify(service, by, code_in(mails), email)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_signing_in(service: ModuleType, mails: MailServer, by: str) -> None:
    answer = await start(service, by, " Ann@EXAMPLE.com ")
    assert (answer.status_code, answer.json()) == (200, {"success": True, "expires_in": 600})
    assert mails.delivered[0].recipients == [EMAIL]
    code = code_in(mails)
    given = (await verify(service, by, f" {code[:3]}-{code[3:]}", "ANN@example.com")).json()
    assert given.keys() == {"success", "token", "user", "organization_id", "expires_at"}
    assert (given["user"]["email"], given["organization_id"]) == (EMAIL, by)
    assert abs(given["expires_at"] - time.time() - 86400) < 10
    told = {"success": True, "user": given["user"], "organization_id": by, "expires_at": given["expires_at"]}
    for method, body, headers in (
        ("GET", None, {"x-user-token": given["token"]}),
        ("POST", None, {"x-user-token": given["token"]}),
        ("POST", {"token": given["token"]}, {}),
    ):
        answer = await ask(service, body, path="/me", method=method, by=by, headers=headers)
        assert (answer.status_code, answer.json()) == (200, told)


async def test_a_workflow_verifies_it_without_asking(service: ModuleType, mails: MailServer, by: str) -> None:
    token = (await signed_in(service, mails, by))["token"]
    published = (await ask(service, path="/keys", method="GET", by="org_whoever")).json()
    assert all(key.keys() == {"kty", "crv", "x", "kid", "use", "alg"} for key in published["keys"])
    key = jwt.PyJWKSet.from_dict(published)[jwt.get_unverified_header(token)["kid"]]
    claims = jwt.decode(token, key, algorithms=["EdDSA"], audience=by, issuer="user_login")
    assert claims.keys() == {"iss", "aud", "iat", "exp", "sub", "email"}
    with pytest.raises(jwt.InvalidAudienceError):
        jwt.decode(token, key, algorithms=["EdDSA"], audience="org_other", issuer="user_login")


async def test_a_user_is_the_same_for_ever_and_elsewhere_another(
    service: ModuleType, mails: MailServer, by: str
) -> None:
    first = (await signed_in(service, mails, by))["user"]["sub"]
    other = (await signed_in(service, mails, by, "bob@example.com"))["user"]["sub"]
    elsewhere = (await signed_in(service, mails, by + "_b"))["user"]["sub"]
    service.__dict__["PAUSE"] = 0
    assert (await signed_in(service, mails, by))["user"]["sub"] == first
    assert len({first, other, elsewhere}) == 3


async def test_another_organization_has_no_use_for_a_code_or_a_token(
    service: ModuleType, mails: MailServer, by: str
) -> None:
    await start(service, by)
    refused(await verify(service, "org_other", code_in(mails)), 401, "wrong_code")
    token = (await verify(service, by, code_in(mails))).json()["token"]
    answer = await ask(service, path="/me", by="org_other", headers={"x-user-token": token})
    refused(answer, 401, "bad_token")


async def test_a_code_is_good_once(service: ModuleType, mails: MailServer, by: str) -> None:
    await start(service, by)
    code = code_in(mails)
    answers = await asyncio.gather(*(verify(service, by, code) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 401, 401, 401]
    refused(await verify(service, by, code), 401, "wrong_code")


async def test_only_five_may_be_tried_also_at_once(service: ModuleType, mails: MailServer, by: str) -> None:
    await start(service, by)
    code = code_in(mails)
    for _ in range(4):
        refused(await verify(service, by, another(code)), 401, "wrong_code")
    assert (await verify(service, by, code)).status_code == 200
    service.__dict__["PAUSE"] = 0
    await start(service, by)
    code = code_in(mails)
    guesses = [*(another(code) for _ in range(12))]
    assert {
        answer.status_code for answer in await asyncio.gather(*(verify(service, by, each) for each in guesses))
    } == {401}
    refused(await verify(service, by, code), 401, "wrong_code")


async def test_nobody_learns_what_was_wrong(service: ModuleType, mails: MailServer, by: str) -> None:
    """Nobody asked, too old, wrong, replaced by another: one answer; and one for whoever asks for a code."""
    answers = [await verify(service, by, "000000", "nobody@example.com")]
    asked = [await start(service, by), await start(service, by, "new@example.com")]
    code = code_in(mails)
    answers.append(await verify(service, by, another(code), "new@example.com"))
    service.__dict__["PAUSE"] = 0
    await start(service, by, "new@example.com")
    if code_in(mails) != code:
        answers.append(await verify(service, by, code, "new@example.com"))
    service.__dict__["CODE_SECONDS"] = -1
    await start(service, by, "old@example.com")
    answers.append(await verify(service, by, code_in(mails), "old@example.com"))
    assert {(answer.status_code, answer.text) for answer in answers} == {(401, answers[0].text)}
    assert {(answer.status_code, answer.text) for answer in asked} == {(200, asked[0].text)}


async def test_how_often_one_is_sent(service: ModuleType, mails: MailServer, by: str) -> None:
    assert (await start(service, by)).status_code == 200
    again = await start(service, by)
    refused(again, 429, "rate_limited")
    assert 55 <= int(again.headers["retry-after"]) <= 61
    service.__dict__["PAUSE"] = 0
    answers = await asyncio.gather(*(start(service, by) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [200] * 4 + [429] * 4
    assert len(mails.delivered) == 5
    late = await start(service, by)
    assert 3500 <= int(late.headers["retry-after"]) <= 3601
    assert (await start(service, by, "bob@example.com")).status_code == 200
    assert (await start(service, by + "_b")).status_code == 200


async def test_how_many_an_organization_sends(
    server: Nats, mails: MailServer, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    service = login(server, monkeypatch, MAILS_PER_HOUR="3")
    answers = await asyncio.gather(*(start(service, by, f"u{number}@example.com") for number in range(6)))
    assert sorted(answer.status_code for answer in answers) == [200] * 3 + [429] * 3
    assert len(mails.delivered) == 3
    assert (await start(service, by + "_b")).status_code == 200


async def test_whoever_asks_for_too_many_leaves_nothing(
    server: Nats, mails: MailServer, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """The bucket is everybody's: it could be filled without a message, and then nobody could sign in."""
    service = login(server, monkeypatch, MAILS_PER_HOUR="1")
    assert (await start(service, by)).status_code == 200
    for number in range(20):
        refused(await start(service, by, f"u{number}@example.com"), 429, "rate_limited")
    client = await nats.connect(server.address("user_login"), inbox_prefix="_INBOX_user_login")
    try:
        left = 0
        for number in range(20):
            with suppress(NotFoundError):
                subject = f"$KV.user_login.{by}.{service.digest(by, f'u{number}@example.com')}"
                left += bool(await client.jetstream().get_msg("KV_user_login", subject=subject))
        assert left == 0
    finally:
        await client.close()


async def test_what_wasnt_sent_is_no_code_and_may_be_asked_for_again(
    service: ModuleType, mails: MailServer, by: str
) -> None:
    mails.answers = {EMAIL: "550 no such user"}
    for _ in range(2):
        assert "no such user" in refused(await start(service, by), 422, "recipients_refused")
    mails.answers = {EMAIL: "450 later"}
    later = await start(service, by)
    refused(later, 503, "recipients_deferred")
    assert later.headers["retry-after"] == "300"
    mails.answers = {}
    assert (await start(service, by)).status_code == 200
    assert (await verify(service, by, code_in(mails))).status_code == 200


NO_ADDRESSES: list[Any] = [
    *("", "ann", "ann@", "@example.com", "ann@localhost", "a@example.com,b@example.com", "Ann <ann@example.com>"),
    *("ann@example.com\r\nBcc: eve@example.com", "ann @example.com", "zoë@example.com", "a" * 65 + "@example.com", 5),
]
NO_CODES: list[Any] = ["", "12345", "1234567", "12345a", "１２３４５６", "9" * 21, 123456]


async def test_what_is_no_address_and_no_code(service: ModuleType, mails: MailServer, by: str) -> None:
    for email in NO_ADDRESSES:
        refused(await start(service, by, email), 400, "bad_request")
        refused(await verify(service, by, "123456", email), 400, "bad_request")
    for code in NO_CODES:
        refused(await verify(service, by, code), 400, "bad_request")
    assert mails.delivered == []


async def test_tokens_that_arent_ours(
    server: Nats, mails: MailServer, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    service = login(server, monkeypatch)
    token = (await signed_in(service, mails, by))["token"]
    claims = jwt.decode(token, options={"verify_signature": False})
    head = {"kid": jwt.get_unverified_header(token)["kid"]}
    public = service.KEYS[0].public["x"]
    expired = claims | {"iat": 1, "exp": 2}
    forged = [
        "", "x", "a.b.c", token[:-4] + "AAAA",
        jwt.encode(claims, "", algorithm="none", headers=head),
        jwt.encode(claims, public + "0" * 32, algorithm="HS256", headers=head),
        jwt.encode(claims, service.SigningKey(OLDER).private, algorithm="EdDSA", headers=head),
        jwt.encode(expired, service.KEYS[0].private, algorithm="EdDSA", headers=head),
        jwt.encode(claims | {"iss": "other"}, service.KEYS[0].private, algorithm="EdDSA", headers=head),
        jwt.encode({"aud": by}, service.KEYS[0].private, algorithm="EdDSA", headers=head),
        jwt.encode(claims, service.KEYS[0].private, algorithm="EdDSA"),
    ]  # fmt: skip
    payload = base64.urlsafe_b64encode(json.dumps(claims | {"email": "eve@example.com"}).encode()).decode().rstrip("=")
    forged.append(".".join([token.split(".")[0], payload, token.split(".")[2]]))
    for each in forged:
        answer = await ask(service, {"token": each}, path="/me", by=by)
        refused(answer, 401, "bad_token" if each else "no_token")
    refused(await ask(service, path="/me", by=by, headers={"authorization": f"Bearer {token}"}), 401, "no_token")


async def test_a_new_signing_key_lets_the_old_ones_tokens_be(
    server: Nats, mails: MailServer, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    before = await signed_in(login(server, monkeypatch, SIGNING_KEY=OLDER), mails, by)
    service = login(server, monkeypatch, SIGNING_KEY=f"{KEY},{OLDER}")
    service.__dict__["PAUSE"] = 0
    after = await signed_in(service, mails, by, "bob@example.com")
    for each in (before, after):
        assert (await ask(service, {"token": each["token"]}, path="/me", by=by)).status_code == 200
    assert jwt.get_unverified_header(after["token"])["kid"] != jwt.get_unverified_header(before["token"])["kid"]
    without = login(server, monkeypatch)
    refused(await ask(without, {"token": before["token"]}, path="/me", by=by), 401, "bad_token")


async def test_what_is_kept_tells_neither_codes_nor_addresses(
    service: ModuleType, mails: MailServer, server: Nats, by: str
) -> None:
    await start(service, by)
    client = await nats.connect(server.address("user_login"), inbox_prefix="_INBOX_user_login")
    try:
        js = client.jetstream()
        key = f"$KV.user_login.{by}.{service.digest(by, EMAIL)}"
        kept = await js.get_msg("KV_user_login", subject=key)
        assert code_in(mails).encode() not in (kept.data or b"")
        assert b"ann" not in (kept.data or b"") + key.encode()
        assert 3590 <= int((kept.headers or {})["Nats-TTL"]) <= 3600  # gone an hour after the last one
    finally:
        await client.close()
