from datetime import UTC, datetime
from urllib.parse import parse_qs, urlsplit

from filestore.sigv4 import Credentials, presigned

# The example of Amazon's own documentation, "Authenticating Requests: Using Query Parameters".
EXAMPLE = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
NOW = datetime(2013, 5, 24, tzinfo=UTC)


def test_the_published_example() -> None:
    url = "https://examplebucket.s3.amazonaws.com/test.txt"
    signed = presigned("GET", url, {}, EXAMPLE, region="us-east-1", now=NOW, seconds=86400)
    assert signed == (
        "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )


def test_what_is_asked_for_is_signed_and_the_secrets_arent_in_it() -> None:
    disposition = "attachment; filename=\"a b.txt\"; filename*=UTF-8''gr%C3%BC%C3%9Fe"
    credentials = Credentials("AKID", "secret", "a+token/")
    signed = [
        presigned("GET", "http://x:9/b/k", query, credentials, region="eu-1", now=NOW, seconds=300)
        for query in ({"response-content-disposition": disposition}, {"response-content-disposition": "inline"})
    ]
    asked = [parse_qs(urlsplit(url).query) for url in signed]
    assert asked[0]["response-content-disposition"] == [disposition]
    assert asked[0]["X-Amz-Security-Token"] == ["a+token/"]
    assert asked[0]["X-Amz-Signature"] != asked[1]["X-Amz-Signature"]
    assert "secret" not in signed[0] + repr(credentials)
    assert "token" not in repr(credentials).replace("session_token", "")
