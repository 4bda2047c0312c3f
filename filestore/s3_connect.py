"""obstore's way to a bucket: addresses, credentials, time-outs and retries."""

from datetime import UTC, datetime, timedelta
from typing import Any

from obstore.store import S3Store

from filestore.bucket import Bucket


def connected(bucket: Bucket) -> S3Store:
    """With time-outs and retries that tell within about a second that the server is away."""
    more: dict[str, Any] = {}
    endpoint = bucket.server if bucket.path_style else bucket.address(bucket.server)
    if bucket.endpoint or not bucket.path_style:
        more |= {"endpoint": endpoint, "aws_endpoint_url_s3": endpoint}
    if bucket.credentials is not None:
        more["credential_provider"] = _provider(bucket)
    return S3Store(
        bucket.place.bucket,
        prefix=bucket.place.prefix or None,
        region=bucket.region,
        virtual_hosted_style_request=not bucket.path_style,
        client_options={
            "allow_http": bucket.server.startswith("http://"),
            "connect_timeout": timedelta(seconds=1),
            "read_timeout": timedelta(seconds=30),  # of a part, a completion, a copy; of the next bytes of a download
            "timeout": timedelta(days=1),  # of a whole download
        },
        retry_config={
            "max_retries": 3,
            "retry_timeout": timedelta(seconds=0.9),
            "backoff": {
                "init_backoff": timedelta(milliseconds=50),
                "max_backoff": timedelta(milliseconds=400),
                "base": 2,
            },
        },
        **more,
    )


def _provider(bucket: Bucket) -> Any:
    def provide() -> dict[str, Any]:
        assert bucket.credentials is not None
        found = bucket.credentials()
        return {
            "access_key_id": found.access_key_id,
            "secret_access_key": found.secret_access_key,
            "token": found.session_token or None,
            "expires_at": datetime.now(UTC),  # asked again each time: it costs a look at a file's date
        }

    return provide
