"""Files and blobs: the nouns and their rules. Sizes are bytes, digests SHA-256 in hex."""

import re
import secrets
import unicodedata
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from kit.errors import Invalid, NotFound

MAX_NAME_BYTES = 255
OCTETS = "application/octet-stream"
PASSING = "blobs"
"""Where answers, logs and requests of runs lie until their time has come."""
LASTING = "lasting"
"""Where blobs lie that are never swept."""
INCOMING = "incoming"
"""Where the S3 backend has large blobs until their digest is known. What is old there never arrived."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_MEDIA_TYPE = re.compile(rf"{_WORD}/{_WORD}([ \t]*;[\x20-\x7e\t]*)?")


@dataclass(frozen=True)
class Stored:
    """Bytes that lie safe."""

    digest: str
    size: int


@dataclass(frozen=True)
class Content:
    """What was uploaded, and where the backend has it; "" is its file's folder (before 0.2 they lay there)."""

    media_type: str
    stored: Stored
    kept_as: str = ""


@dataclass(frozen=True)
class File:
    """A place for one upload; `content` once it is there. It is gone, bytes and all, after `expires_at`."""

    id: str
    organization_id: str
    name: str
    created_at: datetime
    expires_at: datetime
    content: Content | None = None

    @property
    def folder(self) -> str:
        """Under this prefix lies all that was uploaded for it: made of the id alone, never of the name."""
        return f"files/{self.id[-2:]}/{self.id}"

    @property
    def storage_key(self) -> str:
        """Where the backend has the bytes."""
        return self.content.kept_as if self.content and self.content.kept_as else self.folder

    def new_key(self) -> str:
        """A place for one attempt to fill it: what is recorded never depends on which of two uploads came last."""
        return f"{self.folder}/{secrets.token_hex(8)}"


def blob_key(digest: str, *, lasting: bool) -> str:
    """Where the backend has a blob. Errors: NotFound for what is no digest; it never reaches the disk."""
    if not _DIGEST.fullmatch(digest):
        raise NotFound("no such blob")
    return f"{LASTING if lasting else PASSING}/{digest[:2]}/{digest[2:4]}/{digest}"


def check_file_name(name: str) -> str:
    """Metadata only, so almost anything goes, `../` too. Errors: Invalid: empty, over 255 bytes, control characters."""
    if not name:
        raise Invalid("a file needs a name: /file?filename=NAME")
    if len(name) > MAX_NAME_BYTES or len(name.encode()) > MAX_NAME_BYTES:
        raise Invalid(f"a file's name has at most {MAX_NAME_BYTES} bytes")
    if any(unicodedata.category(character) == "Cc" for character in name):
        raise Invalid("a file's name can't hold control characters")
    return name


def media_type(text: str) -> str:
    """What the uploader said, if it can be said again in a header; else octets."""
    return text if len(text) <= 255 and _MEDIA_TYPE.fullmatch(text) else OCTETS


def disposition(name: str) -> str:
    """RFC 6266: a plain name for old clients, and the whole one percent-encoded."""
    plain = "".join(c if " " <= c <= "~" and c not in '"\\%/' else "_" for c in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
