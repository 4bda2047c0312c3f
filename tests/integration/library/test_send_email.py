"""send_email in this process, by a real mail server; what arrives is read by Python's own parser."""

import asyncio
import base64
import json
import ssl
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

import httpx
import pytest

from tests.fakes.certificates import Authority
from tests.library_rig import ask, free_port, loaded, nats_of_up
from tests.mail_server import IN_A_URL, USER, MailServer, mail_server

PDF = bytes(range(256)) * 40
MAIL: dict[str, Any] = {"to": "ann@example.com", "subject": "Hello", "body": "Text"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    directory = tmp_path_factory.mktemp("authority")
    made = Authority(directory)
    (directory / "ca.pem").write_text(made.certificate)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(directory / "ca.pem"))
        yield made


@pytest.fixture(scope="module")
def context(authority: Authority) -> ssl.SSLContext:
    return authority.server("127.0.0.1")


@pytest.fixture
def server(context: ssl.SSLContext) -> Iterator[MailServer]:
    with mail_server(context) as running:
        yield running


def sender(monkeypatch: pytest.MonkeyPatch, url: str, **settings: str) -> ModuleType:
    usual = {"FROM": "Ünïque Shop <shop@example.com>", "PER_HOUR": "500", "NATS_URL": "", "SMTP_URL": url}
    given = {f"RUNMESH_SEND_EMAIL_{name}": value for name, value in (usual | settings).items()}
    return loaded("send_email", monkeypatch, given)


@pytest.fixture
def service(server: MailServer, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return sender(monkeypatch, f"smtp://{IN_A_URL}@127.0.0.1:{server.port}")


def refused(answer: httpx.Response, status: int, code: str) -> str:
    assert (answer.status_code, answer.json()["code"], answer.json()["success"]) == (status, code, False), answer.text
    detail: str = answer.json()["detail"]
    return detail


async def test_what_is_sent_is_what_arrives(service: ModuleType, server: MailServer) -> None:
    attachments = [
        {"filename": "Übersicht (1).pdf", "content": base64.b64encode(PDF).decode()},
        {"filename": 'a";b.bin', "content": "AA==", "content_type": "application/x-own"},
    ]
    mail = {
        "to": ["Ann <ann@example.com>", "bob@bücher.example"],
        "subject": "Grüße 🦊, and a long line of many words that has to be folded somewhere in the middle of it all",
        "body": "One\nTwo Zoë\n.\n.dots\n" + "long " * 400,
        "html": "<p>Zoë</p>",
        "reply_to": "reply@example.com",
        "attachments": attachments,
    }
    answer = await ask(service, mail, headers={"x-request-id": "run_1"})
    assert answer.status_code == 200, answer.text
    (mailed,) = server.delivered
    assert answer.json() == {"success": True, "message_id": mailed.message["message-id"], "refused": {}}
    assert (mailed.encrypted, mailed.user) == (True, USER)
    assert (mailed.sender, mailed.recipients) == ("shop@example.com", ["ann@example.com", "bob@xn--bcher-kva.example"])
    found = mailed.message
    assert found["subject"] == mail["subject"]
    assert found["from"] == "Ünïque Shop <shop@example.com>"
    assert found["to"] == "Ann <ann@example.com>, bob@xn--bcher-kva.example"
    assert (found["reply-to"], found["x-runmesh-request-id"]) == ("reply@example.com", "run_1")
    assert found["date"].datetime
    assert found["message-id"].endswith("@example.com>")
    text, html = found.get_body(("plain",)), found.get_body(("html",))
    assert text
    assert html
    assert text.get_content().replace("\r\n", "\n").rstrip() == str(mail["body"]).rstrip()
    assert html.get_content().strip() == "<p>Zoë</p>"
    one, two = found.iter_attachments()
    assert (one.get_filename(), one.get_content_type()) == ("Übersicht (1).pdf", "application/pdf")
    assert one.get_content() == PDF
    assert (two.get_filename(), two.get_content_type(), two.get_content()) == ('a";b.bin', "application/x-own", b"\0")
    assert mailed.raw.isascii()


async def test_tls_from_the_start(context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    with mail_server(context, implicit=True) as server:
        service = sender(monkeypatch, f"smtps://{IN_A_URL}@127.0.0.1:{server.port}")
        assert (await ask(service, MAIL | {"to": "a@example.com, Bo <b@example.com>"})).status_code == 200
        assert server.delivered[0].encrypted
        assert server.delivered[0].recipients == ["a@example.com", "b@example.com"]


async def test_no_password_is_said_without_tls(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither to a server that has none, nor to one that isn't who it should be."""
    with mail_server() as server:
        service = sender(monkeypatch, f"smtp://{IN_A_URL}@127.0.0.1:{server.port}")
        assert "STARTTLS" in refused(await ask(service, MAIL), 502, "smtp_refused")
    for own, name in ((Authority(tmp_path), "127.0.0.1"), (authority, "other.example")):
        with mail_server(own.server(name)) as server:
            service = sender(monkeypatch, f"smtp://{IN_A_URL}@127.0.0.1:{server.port}")
            assert "isn't who" in refused(await ask(service, MAIL), 502, "smtp_refused")
            assert server.delivered == []


async def test_the_operators_own_host_needs_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with mail_server(login=False) as server:
        service = sender(monkeypatch, f"smtp://127.0.0.1:{server.port}")
        monkeypatch.setattr(service, "NEAR", "127.0.0.1")
        assert (await ask(service, MAIL)).status_code == 200
        assert (server.delivered[0].encrypted, server.delivered[0].user) == (False, "")


async def test_its_own_certificate_there_may_name_it_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with mail_server(Authority(tmp_path).server("mail.example")) as server:
        service = sender(monkeypatch, f"smtp://{IN_A_URL}@127.0.0.1:{server.port}")
        monkeypatch.setattr(service, "NEAR", "127.0.0.1")
        assert (await ask(service, MAIL)).status_code == 200
        assert server.delivered[0].encrypted


SMUGGLED: list[dict[str, Any]] = [
    {"subject": "Hello\r\nBcc: eve@example.com"},
    {"subject": "Hello\nBcc: eve@example.com"},
    {"subject": "Hello\u2028x"},
    {"subject": "\ud800"},
    {"to": "ann@example.com\r\nBcc: eve@example.com"},
    {"to": "Ann\nBcc: eve@example.com <ann@example.com>"},
    {"to": ["ann@example.com", "eve@example.com>\r\nRCPT TO:<x@example.com"]},
    {"reply_to": "ann@example.com\nBcc: eve@example.com"},
    # Lines within encoded words (RFC 2047), which Python's email decodes while it writes a header.
    {"subject": "=?utf-8?q?Hello=0d=0aBcc:_eve@example.com?="},
    {"subject": "=?utf-8?b?SGVsbG8NCkJjYzogZXZlQGV4YW1wbGUuY29tDQoNCkFub3RoZXIgYm9keQ==?="},
    {"subject": "=?utf-8?q?=0d=0a"},
    {"to": "=?utf-8?q?Ann=0d=0aBcc:_eve@example.com?= <ann@example.com>"},
    {"reply_to": "=?utf-8?q?Ann=0aBcc:_eve@example.com?= <ann@example.com>"},
    {"attachments": [{"filename": "a\r\nX: y", "content": ""}]},
    {"attachments": [{"filename": "a", "content": "", "content_type": "text/plain\r\nX: y"}]},
    {"attachments": [{"filename": "a", "content": "", "content_type": "multipart/mixed"}]},
    {"attachments": [{"filename": "a", "content": "", "content_type": "message/rfc822"}]},
]


async def test_nothing_gets_into_the_headers(service: ModuleType, server: MailServer) -> None:
    for change in SMUGGLED:
        raw = json.dumps(MAIL | change).encode()
        refused(await ask(service, content=raw, headers={"content-type": "application/json"}), 400, "bad_request")
    assert server.delivered == []


CANT_BE_MEANT: list[tuple[dict[str, Any], str]] = [
    ({"to": ""}, "to"),
    ({"to": []}, "to"),
    ({"to": ["ann"]}, "ann@example.com"),
    ({"to": ["ann@example.com", "@example.com"]}, "@example.com"),
    ({"to": "ann@localhost"}, "ann@localhost"),
    ({"to": "a@b@example.com"}, "to"),
    ({"to": "a@example.com)b@evil.example"}, "to"),
    ({"to": "zoë@example.com"}, "zoë@example.com"),
    ({"to": ["a@example.com"] * 51}, "50"),
    ({"to": ", ".join(["a@example.com"] * 51)}, "50"),
    ({"to": 5}, "to"),
    # What Python's parser of addresses breaks at.
    ({"to": "(" * 3000 + "ann@example.com"}, "to"),
    ({"to": "<"}, "to"),
    ({"to": ": ;%?=."}, "to"),
    ({"to": "g: ann@example.com; g: ann@example.com;"}, "to"),
    ({"to": ['"' * 10_000, '"' * 10_000]}, "to"),
    ({"subject": "x" * 1000}, "subject"),
    ({"body": None}, "body"),
    ({"cc": "x@example.com"}, "cc"),
    ({"attachments": [{}]}, "content"),
    ({"attachments": [{"content": "", "url": "x", "filename": "a"}]}, "not both"),
    ({"attachments": [{"content": "no base64!", "filename": "a"}]}, "base64"),
    ({"attachments": [{"content": ""}]}, "filename"),
    ({"attachments": [{"content": "", "filename": "a"}] * 21}, "attachments"),
    ({"attachments": [{"url": "file:///etc/passwd"}]}, "download_uri"),
    ({"attachments": [{"url": "http://169.254.169.254/latest"}]}, "download_uri"),
    ({"attachments": [{"url": "http://x/files/../run/x"}]}, "download_uri"),
]


async def test_what_cant_be_meant(service: ModuleType, server: MailServer) -> None:
    for change, says in CANT_BE_MEANT:
        assert says in refused(await ask(service, MAIL | change), 400, "bad_request")
    assert server.delivered == []


async def test_whoever_is_refused_is_told(service: ModuleType, server: MailServer) -> None:
    server.answers = {"gone@example.com": "550 no such user", "full@example.com": "452 mailbox full"}
    answer = await ask(service, MAIL | {"to": ["ann@example.com", "gone@example.com", "full@example.com"]})
    told = {"gone@example.com": "550 no such user", "full@example.com": "452 mailbox full"}
    assert (answer.status_code, answer.json()["refused"]) == (200, told)
    assert server.delivered[0].recipients == ["ann@example.com"]
    assert "no such user" in refused(await ask(service, MAIL | {"to": "gone@example.com"}), 422, "recipients_refused")
    later = await ask(service, MAIL | {"to": "full@example.com"})
    assert "mailbox full" in refused(later, 503, "recipients_deferred")
    assert later.headers["retry-after"] == "300"


@pytest.mark.parametrize(
    ("said", "status", "code"),
    [
        ("451 try later", 503, "smtp_deferred"),
        ("552 too big", 413, "too_large"),
        ("554 spam", 502, "smtp_refused"),
    ],
)
async def test_what_the_server_says_of_the_message(
    said: str, status: int, code: str, service: ModuleType, server: MailServer
) -> None:
    server.answers = {"data": said}
    assert said in refused(await ask(service, MAIL), status, code)


async def test_what_is_too_large(service: ModuleType, server: MailServer) -> None:
    big = base64.b64encode(bytes(4 << 20)).decode()
    refused(
        await ask(service, MAIL | {"attachments": [{"filename": "a", "content": big}]}), 413, "too_large"
    )  # says it
    many = [{"filename": "a", "content": big}] * 6
    assert "20971520 bytes" in refused(await ask(service, MAIL | {"attachments": many}), 413, "too_large")
    assert server.delivered == []


async def test_a_wrong_password_or_no_server(server: MailServer, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = sender(monkeypatch, f"smtp://mailer:wrong@127.0.0.1:{server.port}")
    answer = await ask(wrong, MAIL)
    assert "password" in refused(answer, 502, "smtp_refused")
    away = sender(monkeypatch, f"smtp://127.0.0.1:{free_port()}")
    assert "try again" in refused(await ask(away, MAIL), 503, "unavailable")
    odd = sender(monkeypatch, "nats://127.0.0.1:1")
    assert "smtps://" in refused(await ask(odd, MAIL), 424, "missing_secret")
    nobody = sender(monkeypatch, f"smtp://127.0.0.1:{server.port}", FROM="nobody")
    assert "RUNMESH_SEND_EMAIL_FROM" in refused(await ask(nobody, MAIL), 400, "bad_request")


async def test_how_many_an_organization_writes_to(server: MailServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What wasn't sent doesn't count."""
    with nats_of_up() as nats:
        url = f"smtp://{IN_A_URL}@127.0.0.1:{server.port}"
        service = sender(monkeypatch, url, PER_HOUR="3", NATS_URL=nats.address("send_email"))
        two = MAIL | {"to": ["a@example.com", "b@example.com"]}
        server.answers = {"data": "451 later"}
        for _ in range(3):
            refused(await ask(service, two), 503, "smtp_deferred")
        server.answers = {}
        assert (await ask(service, two)).status_code == 200
        again = await ask(service, two)
        assert "3 recipients an hour" in refused(again, 429, "rate_limited")
        assert 0 < int(again.headers["retry-after"]) <= 3600
        answers = await asyncio.gather(*(ask(service, MAIL) for _ in range(4)))
        assert sorted(answer.status_code for answer in answers) == [200, 429, 429, 429]
        assert (await ask(service, two, by="org_b")).status_code == 200
        assert len(server.delivered) == 3
        nats.stop()
        refused(await ask(service, MAIL), 503, "unavailable")


class Files(BaseHTTPRequestHandler):
    """As filestore answers: from the bucket, unless the header says who it was that asked."""

    asked: tuple[str, ...] = ()

    def do_HEAD(self) -> None:  # http.server's
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(PDF)

    def _answer(self, body: bytes) -> None:
        good = self.path == "/files/file_1/R%C3%A9sum%C3%A9.pdf?signature=s"
        elsewhere = self.command == "GET" and self.headers["if-range"] != '"tag"'
        self.send_response(307 if elsewhere else 200 if good else 404)
        self.send_header("location", "http://127.0.0.1:9/bucket")
        self.send_header("etag", '"tag"')
        self.send_header("content-type", "application/pdf; x=y")
        self.send_header("content-length", str(len(PDF)) if good else "0")
        self.end_headers()
        self.wfile.write(body if good else b"")

    def log_message(self, *_words: Any) -> None:
        """Nothing."""


async def test_a_file_of_the_platform(service: ModuleType, server: MailServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fetched from the platform, whatever host its address names."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as files:
        Thread(target=files.serve_forever, daemon=True).start()
        monkeypatch.setenv("CODEWORDS_RUNTIME_URI", f"http://127.0.0.1:{files.server_port}")
        url = "https://mesh.example/files/file_1/R%C3%A9sum%C3%A9.pdf?signature=s"
        assert (await ask(service, MAIL | {"attachments": [{"url": url}]})).status_code == 200
        (attached,) = server.delivered[0].message.iter_attachments()
        assert (attached.get_filename(), attached.get_content_type()) == ("Résumé.pdf", "application/pdf")
        assert attached.get_content() == PDF
        gone = url.replace("file_1", "file_2")
        assert "no such file" in refused(
            await ask(service, MAIL | {"attachments": [{"url": gone}]}), 400, "bad_request"
        )
        files.shutdown()
