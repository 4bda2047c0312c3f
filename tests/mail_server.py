"""A real mail server for tests (aiosmtpd) that keeps what it is given, on a thread of its own."""

import asyncio
import ssl
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

from aiosmtpd import smtp
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword, Session

USER, PASSWORD = "mailer@example.com", "p@ss/w:rd%"
IN_A_URL = "mailer%40example.com:p%40ss%2Fw%3Ard%25"


@dataclass
class Delivered:
    """One message, as it came. `user`: who had logged in."""

    sender: str
    recipients: list[str]
    raw: bytes
    encrypted: bool
    user: str

    @property
    def message(self) -> EmailMessage:
        found = message_from_bytes(self.raw, policy=default)
        assert isinstance(found, EmailMessage)
        assert found.defects == []
        return found


@dataclass
class MailServer:
    """`answers`: by an address, or by `data`, what is said in place of 250."""

    port: int = 0
    delivered: list[Delivered] = field(default_factory=list)
    answers: dict[str, str] = field(default_factory=dict)

    async def handle_RCPT(  # the name is aiosmtpd's
        self, server: smtp.SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.answers:
            return self.answers[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: smtp.SMTP, session: Session, envelope: Envelope) -> str:
        if "data" in self.answers:
            return self.answers["data"]
        assert isinstance(envelope.content, bytes)
        user = str(session.auth_data) if session.authenticated else ""
        to = [str(address) for address in envelope.rcpt_tos]
        self.delivered.append(Delivered(str(envelope.mail_from), to, envelope.content, _is_encrypted(server), user))
        return "250 OK"


def _is_encrypted(server: Any) -> bool:
    return server.transport.get_extra_info("ssl_object") is not None


def _login(_server: Any, _session: Any, _envelope: Any, _mechanism: str, data: Any) -> AuthResult:
    good = isinstance(data, LoginPassword) and (data.login, data.password) == (USER.encode(), PASSWORD.encode())
    return AuthResult(success=good, handled=False, auth_data=USER)


@contextmanager
def mail_server(
    tls: ssl.SSLContext | None = None, *, implicit: bool = False, login: bool = True, host: str = "127.0.0.1"
) -> Iterator[MailServer]:
    """With STARTTLS where there is `tls`, with TLS from the start where that is `implicit`."""
    kept = MailServer()
    options: dict[str, Any] = {"auth_required": login, "authenticator": _login if login else None}
    if tls is None or implicit:
        options |= {"auth_require_tls": False}
    else:
        options |= {"tls_context": tls, "require_starttls": True}
    ready, stops = threading.Event(), []

    async def serve() -> None:
        loop, stop = asyncio.get_running_loop(), asyncio.Event()

        def protocol() -> smtp.SMTP:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # that passwords may be heard where there is no TLS
                return smtp.SMTP(kept, data_size_limit=3 << 20, hostname="mail.example", loop=loop, **options)

        server = await loop.create_server(protocol, host, 0, ssl=tls if implicit else None)
        kept.port = server.sockets[0].getsockname()[1]
        stops.append(lambda: loop.call_soon_threadsafe(stop.set))
        ready.set()
        await stop.wait()
        server.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert ready.wait(10)
    try:
        yield kept
    finally:
        stops[0]()
        thread.join(10)
