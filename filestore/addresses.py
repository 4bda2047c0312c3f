"""The signed addresses of files: whoever holds one may do the one thing that it is for."""

import hashlib
import hmac
from datetime import datetime
from urllib.parse import quote

from filestore.model import File


class Addresses:
    """Makes addresses under `public_url` and checks what comes back. `key`: 32 secret bytes."""

    def __init__(self, key: bytes, public_url: str) -> None:
        self._key = key
        self._public_url = public_url

    def upload(self, file: File, until: datetime) -> str:
        """Good for one upload that begins before `until`."""
        expires = str(int(until.timestamp()))
        signature = self._sign("upload", file.id, expires)
        return f"{self._public_url}/files/{file.id}?expires={expires}&signature={signature}"

    def download(self, file: File) -> str:
        """Good for reading as long as the file lives. The name in it is for people's eyes only."""
        signature = self._sign("download", file.id, "")
        return f"{self._public_url}/files/{file.id}/{_segment(file.name)}?signature={signature}"

    def may_upload(self, file_id: str, expires: str, signature: str, now: datetime) -> bool:
        """Whether signature and time are good."""
        signed = hmac.compare_digest(self._sign("upload", file_id, expires).encode(), signature.encode())
        return signed and now.timestamp() < int(expires)

    def may_download(self, file_id: str, signature: str) -> bool:
        """Whether the signature is good."""
        return hmac.compare_digest(self._sign("download", file_id, "").encode(), signature.encode())

    def _sign(self, purpose: str, file_id: str, expires: str) -> str:
        message = f"{purpose}\n{file_id}\n{expires}".encode()
        return hmac.new(self._key, message, hashlib.sha256).hexdigest()


def _segment(name: str) -> str:
    """A name as one path segment that no client or proxy takes for something else (`..`, `%2F`)."""
    flat = name.replace("/", "_").replace("\\", "_")
    return quote("_" if flat in {".", ".."} else flat, safe="")
