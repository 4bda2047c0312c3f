"""What the filestore reads from the environment."""

import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filestore.bucket import Bucket, Place, s3_url
from filestore.s3_settings import S3Settings
from kit.settings import env, number

MIB = 1024 * 1024


def positive(text: str) -> int:
    """A number of at least 1."""
    if not re.fullmatch(r"-?[0-9]{1,18}", text):
        raise ValueError(f"{text!r} must be a whole number")
    if int(text) < 1:
        raise ValueError(f"{text} is less than 1")
    return int(text)


def files_url(text: str) -> Path | Place:
    """The directory of a `file:///…` URL, or the bucket and prefix of an `s3://…` one."""
    url = urlsplit(text)
    if url.scheme == "s3":
        return s3_url(text)
    if url.scheme != "file" or url.netloc not in {"", "localhost"} or not url.path.startswith("/"):
        raise ValueError(f"{text!r} is not of the form file:///directory or s3://bucket/prefix")
    return Path(unquote(url.path))


def days(text: str) -> float:
    """A number of days above zero."""
    if not number(text) > 0:
        raise ValueError(f"{text!r} is not a number of days above 0")
    return float(text)


@dataclass(frozen=True)
class Settings(S3Settings):
    """Sizes in bytes."""

    files_url: Path | Place | None = env("RUNMESH_FILES_URL", None, files_url)
    file_days: int = env("RUNMESH_FILE_DAYS", 7, positive)
    max_file_bytes: int = env("RUNMESH_MAX_FILE_BYTES", 5 * 1024 * MIB, positive)
    # Of each organization, what its files and uploads take together.
    organization_file_bytes: int = env("RUNMESH_ORGANIZATION_FILE_BYTES", 100 * 1024 * MIB, positive)
    max_blob_bytes: int = env("RUNMESH_MAX_BLOB_BYTES", 110 * MIB, positive)
    # Of runs, counted from their end; the scheduler goes by the same variable.
    retention_days: float = env("RUNMESH_RETENTION_DAYS", 7.0, days)

    @property
    def storage(self) -> Path:
        """The directory that holds the bytes; in a bucket's stead, what is on its way there."""
        return self.files_url if isinstance(self.files_url, Path) else self.home

    @property
    def s3(self) -> Bucket | None:
        """The bucket that holds the bytes, if one does. Errors: BadSettings."""
        return self.bucket(self.files_url) if isinstance(self.files_url, Place) else None

    @property
    def blob_lifetime(self) -> timedelta:
        """Longer than any record that names a blob: a run may take a day from its request's blob to its end."""
        return timedelta(days=self.retention_days + 2)

    @property
    def http_socket(self) -> Path:
        """Where the bytes of files are served over HTTP."""
        return self.run_dir / "files.sock"
