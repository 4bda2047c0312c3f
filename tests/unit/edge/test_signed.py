"""edge.signed: events as their senders sign them."""

import hashlib
import hmac
from datetime import UTC, datetime, timedelta

import pytest
from standardwebhooks import Webhook

from edge.http import Request
from edge.signed import KINDS, TOLERANCE, verify
from kit.errors import Unauthenticated

NOW = datetime(2026, 1, 1, tzinfo=UTC)
BODY = '{"text": "höre"}'.encode()
WHSEC = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def sent(**headers: str) -> Request:
    return Request("POST", "/hooks/x", headers=[(name.replace("_", "-"), value) for name, value in headers.items()])


def slack(secret: str, at: datetime = NOW, body: bytes = BODY) -> Request:
    """By the words of Slack's documentation, not by ours."""
    seconds = str(int(at.timestamp()))
    digest = hmac.new(secret.encode(), f"v0:{seconds}:".encode() + body, hashlib.sha256).hexdigest()
    return sent(x_slack_request_timestamp=seconds, x_slack_signature=f"v0={digest}")


def hub(secret: str, body: bytes = BODY) -> Request:
    return sent(x_hub_signature_256="sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest())


def standard(secret: str = WHSEC, at: datetime = NOW, message_id: str = "msg_1", body: bytes = BODY) -> Request:
    return sent(
        webhook_id=message_id,
        webhook_timestamp=str(int(at.timestamp())),
        webhook_signature="v1,bm9uc2Vuc2U= " + Webhook(secret).sign(message_id, at, body.decode()),
    )


def test_slacks_own_example() -> None:
    """https://docs.slack.dev/authentication/verifying-requests-from-slack has these values."""
    body = (
        b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V"
        b"&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text="
        b"&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN"
        b"&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
    )
    signature = "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
    request = sent(x_slack_request_timestamp="1531420618", x_slack_signature=signature)
    verify("slack", "8f742231b10e8888abcd99yyyzzz85a5", request, body, datetime.fromtimestamp(1531420618, UTC))


@pytest.mark.parametrize(
    ("kind", "request_", "secret"),
    [
        ("slack", slack("s"), "s"),
        ("whatsapp", hub("s"), "s"),
        ("github", hub("s"), "s"),
        ("standard", standard(), WHSEC),
    ],
)
def test_what_is_signed_is_taken_and_nothing_else(kind: str, request_: Request, secret: str) -> None:
    event = verify(kind, secret, request_, BODY, NOW + timedelta(minutes=4))
    assert event == verify(kind, secret, request_, BODY, NOW)
    wrong = (secret[:-2] + "AA") if kind == "standard" else "other"
    for changed in (
        (wrong, request_, BODY),
        (secret, request_, BODY + b" "),
        (secret, sent(), BODY),
        (secret, sent(**{name.replace("-", "_"): "ÿ" for name, _ in request_.headers}), BODY),
        (secret, sent(**{name.replace("-", "_"): "" for name, _ in request_.headers}), BODY),
    ):
        with pytest.raises(Unauthenticated):
            verify(kind, *changed, NOW)
    for other in set(KINDS) - {kind, "github", "whatsapp"}:
        with pytest.raises(Unauthenticated):
            verify(other, WHSEC, request_, BODY, NOW)


@pytest.mark.parametrize("off", [TOLERANCE + timedelta(seconds=1), -TOLERANCE - timedelta(seconds=1)])
def test_what_is_old_isnt_taken_where_the_time_is_signed(off: timedelta) -> None:
    for kind, request, secret in (("slack", slack("s", NOW + off), "s"), ("standard", standard(at=NOW + off), WHSEC)):
        with pytest.raises(Unauthenticated, match="five minutes"):
            verify(kind, secret, request, BODY, NOW)


@pytest.mark.parametrize("text", ["", "x", "-1", "1e9", "9" * 30, "99999999999", "٣"])
def test_times_that_are_none(text: str) -> None:
    with pytest.raises(Unauthenticated):
        verify("slack", "s", sent(x_slack_request_timestamp=text, x_slack_signature="v0="), BODY, NOW)


def test_no_part_of_a_body_becomes_id_and_time() -> None:
    seconds = str(int(NOW.timestamp()))
    request = standard(body=f"{seconds}.5".encode())
    assert verify("standard", WHSEC, request, f"{seconds}.5".encode(), NOW)
    shifted = [(name, f"{value}.{seconds}" if name == "webhook-id" else value) for name, value in request.headers]
    for headers in (shifted, standard(message_id="").headers):
        with pytest.raises(Unauthenticated, match="webhook-id"):
            verify("standard", WHSEC, Request("POST", "/hooks/x", headers=headers), b"5", NOW)


def test_an_event_is_known_by_what_is_signed() -> None:
    """By its id where that is signed, else by its bytes: a resend has another time, and may have other headers."""
    later = NOW + timedelta(minutes=1)
    assert verify("slack", "s", slack("s"), BODY, NOW) == verify("slack", "s", slack("s", later), BODY, NOW)
    first = verify("standard", WHSEC, standard(), BODY, NOW)
    assert first == verify("standard", WHSEC, standard(at=later), BODY, NOW)
    assert first != verify("standard", WHSEC, standard(message_id="msg_2"), BODY, NOW)
