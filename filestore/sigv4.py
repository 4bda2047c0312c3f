"""Presigned addresses of S3 (AWS Signature Version 4, in the query): whoever has one may do the one thing it is for.

obstore signs, too, but not what S3 is to answer with (`response-content-type` and its like).
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

_ALGORITHM = "AWS4-HMAC-SHA256"


@dataclass(frozen=True)
class Credentials:
    """Of S3. Only the first may be shown."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(default="", repr=False)


def presigned(
    method: str,
    url: str,
    query: Mapping[str, str],
    credentials: Credentials,
    *,
    region: str,
    now: datetime,
    seconds: int,
) -> str:
    """`url`, whose path is encoded already, with `query` and a signature that is good for `seconds` from `now` on."""
    parts = urlsplit(url)
    moment = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{moment[:8]}/{region}/s3/aws4_request"
    signing = {
        **query,
        "X-Amz-Algorithm": _ALGORITHM,
        "X-Amz-Credential": f"{credentials.access_key_id}/{scope}",
        "X-Amz-Date": moment,
        "X-Amz-Expires": str(seconds),
        "X-Amz-SignedHeaders": "host",
    }
    if credentials.session_token:
        signing["X-Amz-Security-Token"] = credentials.session_token
    encoded = "&".join(f"{_encoded(name)}={_encoded(value)}" for name, value in sorted(signing.items()))
    request = f"{method}\n{parts.path or '/'}\n{encoded}\nhost:{parts.netloc}\n\nhost\nUNSIGNED-PAYLOAD"
    text = f"{_ALGORITHM}\n{moment}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
    key = f"AWS4{credentials.secret_access_key}".encode()
    for word in scope.split("/"):
        key = hmac.digest(key, word.encode(), "sha256")
    signature = hmac.new(key, text.encode(), hashlib.sha256).hexdigest()
    return f"{parts.scheme}://{parts.netloc}{parts.path}?{encoded}&X-Amz-Signature={signature}"


def _encoded(text: str) -> str:
    return quote(text, safe="-_.~")
