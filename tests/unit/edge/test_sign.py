"""Signatures, verified by the specification's own library and by its own example."""

from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from edge.sign import signed

OLD, NEW = "whsec_" + "b2xk" * 8, "whsec_" + "bmV3" * 8
BODY = '{"id": "run_1", "text": "größer"}'.encode()


@pytest.mark.parametrize("known", [OLD, NEW])
def test_each_secret_that_is_valid_verifies(known: str) -> None:
    headers = signed([NEW, OLD], "dlv_1", datetime.now(UTC), BODY)
    assert Webhook(known).verify(BODY, headers) == {"id": "run_1", "text": "größer"}
    assert len(headers["webhook-signature"].split(" ")) == 2
    assert headers["webhook-id"] == "dlv_1"


@pytest.mark.parametrize("changed", ["webhook-id", "webhook-timestamp", "body", "secret"])
def test_nothing_can_be_changed(changed: str) -> None:
    headers = signed([NEW], "dlv_1", datetime.now(UTC), BODY)
    if changed.startswith("webhook"):
        headers[changed] = "dlv_2" if changed == "webhook-id" else str(int(headers[changed]) - 1)
    body = BODY.replace(b"run_1", b"run_2") if changed == "body" else BODY
    with pytest.raises(WebhookVerificationError):
        Webhook(OLD if changed == "secret" else NEW).verify(body, headers)


def test_the_example_of_the_specification() -> None:
    at = datetime.fromtimestamp(1614265330, UTC)
    headers = signed(
        ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"], "msg_p5jXN8AQM9LWM0D4loKWxJek", at, b'{"test": 2432232314}'
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
