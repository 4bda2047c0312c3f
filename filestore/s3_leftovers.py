"""Multipart uploads that nobody will end: their process was killed, or S3 failed when it was to give them up.

obstore doesn't list them, so this asks S3 itself, by presigned addresses. Without credentials of ours there are none:
then only the bucket's own lifecycle rule clears them away.
"""

import xml.etree.ElementTree as ET
from collections.abc import Mapping
from datetime import UTC, datetime

import httpx

from filestore.bucket import Bucket
from filestore.sigv4 import presigned
from kit.errors import Unavailable
from kit.telemetry import log

_SECONDS = 10


class Leftovers:
    """Of one bucket and prefix."""

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket

    async def abort_old(self, before: datetime) -> int:
        """Aborts those that were begun before then; how many. Errors: Unavailable."""
        if self._bucket.credentials is None:
            return 0
        aborted, place = 0, {"key-marker": "", "upload-id-marker": ""}
        prefix = f"{self._bucket.place.prefix}/" if self._bucket.place.prefix else ""
        async with httpx.AsyncClient(timeout=_SECONDS) as http:
            while True:
                asked = {"uploads": "", "prefix": prefix, **{name: at for name, at in place.items() if at}}
                page = ET.fromstring(await self._ask(http, "GET", "", asked))  # noqa: S314  # our own server's words
                for upload in page.iterfind("{*}Upload"):
                    if datetime.fromisoformat(_text(upload, "Initiated")) < before:
                        key = _text(upload, "Key").removeprefix(prefix)
                        await self._ask(http, "DELETE", key, {"uploadId": _text(upload, "UploadId")})
                        aborted += 1
                place = {
                    "key-marker": _text(page, "NextKeyMarker"),
                    "upload-id-marker": _text(page, "NextUploadIdMarker"),
                }
                if _text(page, "IsTruncated") != "true" or not place["key-marker"]:
                    return aborted

    async def _ask(self, http: httpx.AsyncClient, method: str, key: str, query: Mapping[str, str]) -> bytes:
        assert self._bucket.credentials is not None
        try:
            url = presigned(
                method,
                self._bucket.url(key),
                query,
                self._bucket.credentials(),
                region=self._bucket.region,
                now=datetime.now(UTC),
                seconds=60,
            )
            answer = await http.request(method, url)
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(f"leftovers: {type(error).__name__}") from None
        if answer.is_success or (method == "DELETE" and answer.status_code == 404):
            return answer.content
        log().warning("s3.failed", doing="leftovers", reason=f"{method} {answer.status_code}")
        raise Unavailable(f"leftovers: S3 answered {answer.status_code}")


def _text(element: ET.Element, name: str) -> str:
    return element.findtext(f"{{*}}{name}") or ""
