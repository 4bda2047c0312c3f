# /// script
# requires-python = ">=3.11"
# dependencies = ["fastapi>=0.115", "uvicorn[standard]>=0.34", "nats-py>=2.16,<3"]
# [tool.env-checker]
# env_vars = [
#   "RUNMESH_SEND_EMAIL_SMTP_URL",
#   "RUNMESH_SEND_EMAIL_FROM",
#   "RUNMESH_SEND_EMAIL_PER_HOUR=500",
#   "RUNMESH_SEND_EMAIL_NATS_URL=",
# ]
# [tool.runmesh]
# isolation = "instance"
# egress = []
# ///
"""Sends an e-mail by the operator's mail server: {"to", "subject", "body", "html"?, "attachments"?, "reply_to"?} gives
{"success", "message_id", "refused"}.

`to` is an address or a list of them; an attachment {"filename"?, "content" (base64) or "url" (a download_uri of POST
/file), "content_type"?}. `refused` has the server's reason for each address that it didn't take.
"""

import asyncio
import base64
import binascii
import mimetypes
import os
import re
import smtplib
import ssl
import time
import urllib.error
import urllib.request
from email.errors import MessageError, ObsoleteHeaderDefect
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP, default
from email.utils import formatdate, make_msgid
from http.client import HTTPException
from typing import Any
from urllib.parse import unquote, urlsplit

import uvicorn
from fastapi import FastAPI, Request
from pydantic import BaseModel, ConfigDict, Field

from library.parts.bucket import Bucket, Entry, connected
from library.parts.refusals import Refused, organization_of, tells_refusals

SERVER = urlsplit(os.environ["RUNMESH_SEND_EMAIL_SMTP_URL"])
FROM = os.environ["RUNMESH_SEND_EMAIL_FROM"]
PER_HOUR = int(os.environ["RUNMESH_SEND_EMAIL_PER_HOUR"])  # recipients, of an organization
NATS_URL = os.environ["RUNMESH_SEND_EMAIL_NATS_URL"]
STORE_BYTES = 16 << 20
NEAR = "provider.internal"  # what a sandbox calls the operator's own host
PORTS = {"smtp": 587, "smtps": 465}
MOST_RECIPIENTS, MOST_ATTACHMENTS, MOST_BYTES = 50, 20, 20 << 20
SECONDS = 30
HIDDEN = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029\ud800-\udfff]")  # would end a header's line, or can't be sent
MEDIA_TYPE = re.compile(r"(application|audio|font|image|model|text|video)/[\w.+-]{1,100}", re.ASCII)
FILE_PATH = re.compile(r"/files/[\w-]+/[^/]+")


class Attachment(BaseModel):
    """One of `content` and `url`; what else it is called and of which type is said, or seen."""

    model_config = ConfigDict(extra="forbid")
    filename: str | None = Field(None, max_length=255)
    content: str | None = None
    url: str | None = None
    content_type: str | None = None


class Mail(BaseModel):
    """`body` is its plain text, which `html` is shown in place of where that can be shown."""

    model_config = ConfigDict(extra="forbid")
    to: str | list[str]
    subject: str = Field(max_length=900)
    body: str
    html: str | None = None
    attachments: list[Attachment] = Field([], max_length=MOST_ATTACHMENTS)
    reply_to: str | None = None


def addresses(text: str, field: str) -> list[Address]:
    """`a@example.com`, `Ann <a@example.com>`, several with commas between. Errors: Refused."""
    if not HIDDEN.search(text) and len(text) <= 320 * MOST_RECIPIENTS:
        try:
            found = default.header_factory("To", text)
            if all(isinstance(defect, ObsoleteHeaderDefect) for defect in found.defects):
                return [Address(each.display_name, each.username, domain_of(each)) for each in found.addresses]
        except (ValueError, LookupError, AttributeError, TypeError, RecursionError, MessageError):
            pass  # the parser has many ways to say so
    shown = HIDDEN.sub(" ", text)[:100]
    raise Refused(400, "bad_request", f"{field}: {shown!r} is no address such as ann@example.com")


def domain_of(address: Address) -> str:
    """In ASCII. Errors: ValueError where it is none of the internet's, or the address is too long."""
    domain = address.domain.encode("idna").decode()
    if not address.username or len(address.addr_spec) > 320 or not re.fullmatch(r"[\w-]+(\.[\w-]+)+", domain):
        raise ValueError(address.addr_spec)
    return domain


def written(mail: Mail, run_id: str) -> EmailMessage:
    """The message, with its attachments. Errors: Refused."""
    if HIDDEN.search(mail.subject):
        raise Refused(400, "bad_request", "subject: it must be one line")
    texts = [mail.to] if isinstance(mail.to, str) else mail.to
    if len(texts) > MOST_RECIPIENTS or sum(map(len, texts)) > 320 * MOST_RECIPIENTS:  # before each is read
        raise Refused(400, "bad_request", f"to: there must be 1 to {MOST_RECIPIENTS} addresses")
    to = [each for text in texts for each in addresses(text, "to")]
    if not 0 < len(to) <= MOST_RECIPIENTS:
        raise Refused(400, "bad_request", f"to: there must be 1 to {MOST_RECIPIENTS} addresses")
    (sender,) = addresses(FROM, "RUNMESH_SEND_EMAIL_FROM, which the operator sets")
    message = EmailMessage(policy=SMTP.clone(cte_type="7bit"))
    message["From"], message["To"], message["Subject"] = sender, to, mail.subject
    if mail.reply_to is not None:
        message["Reply-To"] = addresses(mail.reply_to, "reply_to")
    message["Date"], message["Message-ID"] = formatdate(), make_msgid(domain=sender.domain)
    message["X-Runmesh-Request-Id"] = run_id  # so that the operator finds who sent what somebody complains of
    try:
        message.set_content(mail.body)
        if mail.html is not None:
            message.add_alternative(mail.html, subtype="html")
    except UnicodeEncodeError:
        raise Refused(400, "bad_request", "body, html: there is half a character in it") from None
    attach(message, mail.attachments)
    if any(HIDDEN.search(str(value)) for part in message.walk() for value in part.values()):
        told = "subject, to, reply_to, filename: each must be one line, also when its encoded words are read"
        raise Refused(400, "bad_request", told)
    return message


def attach(message: EmailMessage, attachments: list[Attachment]) -> None:
    """Errors: Refused."""
    left = MOST_BYTES
    for number, each in enumerate(attachments):
        where = f"attachments.{number}"
        if (each.content is None) == (each.url is None):
            raise Refused(400, "bad_request", f"{where}: it needs content (base64) or url, and not both")
        if each.url is None:
            content, name, media_type = decoded(each.content or "", where), "", ""
        else:
            content, name, media_type = fetched(each.url, where, left)
        left -= len(content)
        if left < 0:
            raise too_large()
        name = each.filename or name
        media_type = each.content_type or media_type or mimetypes.guess_type(name)[0] or "application/octet-stream"
        if not name or HIDDEN.search(name):
            raise Refused(400, "bad_request", f"{where}.filename: it is missing, or not one line")
        if not MEDIA_TYPE.fullmatch(media_type):
            raise Refused(400, "bad_request", f"{where}.content_type: it must be one such as application/pdf")
        message.add_attachment(content, *media_type.split("/"), filename=name)


def decoded(content: str, where: str) -> bytes:
    """Errors: Refused."""
    try:
        return base64.b64decode("".join(content.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refused(400, "bad_request", f"{where}.content: it is no base64") from None


def fetched(url: str, where: str, most: int) -> tuple[bytes, str, str]:
    """Content, name and type of a file of the platform's; nothing else is reached, whatever the address says. Errors:
    Refused.
    """
    parts = urlsplit(url)
    if not FILE_PATH.fullmatch(parts.path) or HIDDEN.search(url) or not url.isascii():
        raise Refused(400, "bad_request", f"{where}.url: it must be the download_uri of a file (POST /file)")
    address = f"{os.environ['CODEWORDS_RUNTIME_URI']}{parts.path}?{parts.query}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(address, method="HEAD"), timeout=SECONDS) as seen:  # noqa: S310  # ours
            etag, size, media_type = (
                seen.headers["etag"],
                int(seen.headers["content-length"]),
                seen.headers["content-type"],
            )
        if size > most:
            raise too_large()
        # By this header it comes from the platform itself, not from the bucket where it lies.
        asked = urllib.request.Request(address, headers={"If-Range": etag})  # noqa: S310  # as above
        with opener.open(asked, timeout=SECONDS) as answer:
            content = answer.read(most + 1)
    except (OSError, HTTPException, KeyError, TypeError, ValueError) as error:
        gone = isinstance(error, urllib.error.HTTPError) and error.code in {403, 404, 410}
        told = "there is no such file" if gone else "the file can't be read; try again"
        raise Refused(400 if gone else 503, "bad_request" if gone else "unavailable", f"{where}.url: {told}") from None
    return content, unquote(parts.path.rpartition("/")[2]), media_type.partition(";")[0].strip()


def too_large() -> Refused:
    return Refused(413, "too_large", f"attachments may have {MOST_BYTES} bytes in all: send a link to larger ones")


def sent(message: EmailMessage) -> dict[str, tuple[int, bytes]]:
    """What the server said of the addresses that it refused. Errors: SMTPException, OSError; Refused."""
    host, port = SERVER.hostname or "", SERVER.port or PORTS.get(SERVER.scheme, 0)
    if SERVER.scheme not in PORTS or not host:
        told = "RUNMESH_SEND_EMAIL_SMTP_URL must be smtps:// or smtp://user:password@host:port"
        raise Refused(424, "missing_secret", f"the operator of this platform hasn't configured send_email: {told}")
    context = ssl.create_default_context()
    if host == NEAR:  # it goes nowhere, and its certificate names it otherwise
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    ours = message["From"].addresses[0].domain
    if SERVER.scheme == "smtps":
        server: smtplib.SMTP = smtplib.SMTP_SSL(host, port, ours, timeout=SECONDS, context=context)
    else:
        server = smtplib.SMTP(host, port, ours, timeout=SECONDS)
    with server:
        server.ehlo()
        if SERVER.scheme == "smtp" and (host != NEAR or server.has_extn("starttls")):
            if not server.has_extn("starttls"):
                raise Refused(
                    502, "smtp_refused", "the operator's mail server offers no STARTTLS: smtps:// may be right"
                )
            server.starttls(context=context)
        if SERVER.username:
            server.login(unquote(SERVER.username), unquote(SERVER.password or ""))
        return server.send_message(message)


def why(error: Exception) -> Refused:
    """4xx of the server's: another time it may work. 5xx: it won't."""
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        told = "; ".join(f"{who}: {reply(what)}" for who, what in error.recipients.items())[:1000]
        if all(400 <= code < 500 for code, _ in error.recipients.values()):
            return Refused(503, "recipients_deferred", f"not now, says the mail server: {told}", retry_after=300)
        return Refused(422, "recipients_refused", f"the mail server takes nothing for any of them: {told}")
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return Refused(
            422, "recipients_refused", "the mail server takes no address with letters beyond ASCII before the @"
        )
    if isinstance(error, smtplib.SMTPResponseException) and error.smtp_code >= 400:
        return refusal(error)
    print(f"SMTP: {error!r}")
    if isinstance(error, ssl.SSLCertVerificationError):
        return Refused(
            502, "smtp_refused", f"the operator's mail server isn't who it should be: {error.verify_message}"
        )
    told = f"the operator's mail server can't be reached ({type(error).__name__}); try again"
    return Refused(503, "unavailable", told, retry_after=30)


def refusal(error: smtplib.SMTPResponseException) -> Refused:
    """Of the whole message, or of us."""
    told = reply((error.smtp_code, error.smtp_error))
    if isinstance(error, smtplib.SMTPAuthenticationError):
        print(f"SMTP: {told}")
        return Refused(502, "smtp_refused", "the operator's mail server doesn't take the operator's password")
    if error.smtp_code < 500:
        return Refused(503, "smtp_deferred", f"not now, says the mail server: {told}", retry_after=300)
    if error.smtp_code == 552:
        return Refused(413, "too_large", f"too large, says the mail server: {told}")
    return Refused(502, "smtp_refused", f"the mail server refuses the message: {told}")


def reply(what: tuple[int, bytes | str]) -> str:
    """Of a server's: `550 no such user`."""
    text = what[1].decode("utf-8", "replace") if isinstance(what[1], bytes) else what[1]
    return HIDDEN.sub(" ", f"{what[0]} {text}")[:300]


app = FastAPI(title="send_email", description=__doc__)
tells_refusals(app)


@app.post("/")
async def send(request: Request, mail: Mail) -> dict[str, Any]:
    """Sends it now; once the server has taken it, it is on its way. Errors: 400, 413, 422, 424, 429, 502, 503."""
    organization = organization_of(request)
    message = await asyncio.to_thread(written, mail, request.headers.get("x-request-id", ""))
    recipients = len(message["To"].addresses)
    await count(organization, recipients)
    try:
        refused = await asyncio.to_thread(sent, message)
    except (smtplib.SMTPException, OSError, Refused) as error:
        await count(organization, -recipients)
        raise error if isinstance(error, Refused) else why(error) from None
    told = {who: reply(what) for who, what in refused.items()}
    return {"success": True, "message_id": message["Message-ID"], "refused": told}


async def count(organization: str, recipients: int) -> None:
    """So many more, or fewer, in this hour. Errors: Refused where they are too many."""
    if not NATS_URL:
        return
    hour, into = divmod(int(time.time()), 3600)

    def more(entry: Entry) -> tuple[bytes, float]:
        number = int(entry.value or 0) + recipients
        if recipients > 0 and number > PER_HOUR:
            told = f"an organization may write to {PER_HOUR} recipients an hour"
            raise Refused(429, "rate_limited", told, retry_after=3600 - into)
        return str(max(0, number)).encode(), (hour + 1) * 3600 + 60

    async with connected(NATS_URL, "send_email") as client:
        await Bucket(client, "send_email", STORE_BYTES).change(f"{organization}.{hour}", more)


if __name__ == "__main__":
    uvicorn.run(app, host="0.0.0.0", port=int(os.environ.get("PORT", "8000")))
