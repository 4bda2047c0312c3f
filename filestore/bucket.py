"""Where a bucket is and by what right: `s3://bucket/prefix`, and what the operator says in AWS's own variables."""

import configparser
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from filestore.sigv4 import Credentials

_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*|")


@dataclass(frozen=True)
class Place:
    """A bucket, and the prefix of all keys in it: no slash at its ends."""

    bucket: str
    prefix: str = ""


@dataclass(frozen=True)
class Bucket:
    """All that the S3 backend needs to know. `public_endpoint` is where callers reach the same server. `credentials`:
    None where obstore is to find some (a web identity, a container's or a machine's role); nothing is presigned then.
    """

    place: Place
    region: str = "us-east-1"
    endpoint: str = ""
    public_endpoint: str = ""
    path_style: bool = True
    redirect: bool = True
    credentials: Callable[[], Credentials] | None = None

    @property
    def server(self) -> str:
        """The endpoint; Amazon's where none is set."""
        return self.endpoint or f"https://s3.{self.region}.amazonaws.com"

    def address(self, server: str) -> str:
        """Of the bucket on this server."""
        if self.path_style:
            return f"{server}/{self.place.bucket}"
        scheme, _, rest = server.partition("://")
        return f"{scheme}://{self.place.bucket}.{rest}"

    def url(self, key: str) -> str:
        """The address of a key, or of the bucket for "", for us; not signed."""
        return f"{self.address(self.server)}/{self._path(key) if key else ''}"

    def public_url(self, key: str) -> str:
        """The address of a key, for callers; not signed."""
        return f"{self.address(self.public_endpoint or self.server)}/{self._path(key)}"

    def _path(self, key: str) -> str:
        return quote("/".join(filter(None, (self.place.prefix, key))))


def s3_url(text: str) -> Place:
    """Of `s3://bucket` or `s3://bucket/prefix`."""
    url = urlsplit(text)
    prefix = url.path.strip("/")
    if url.scheme != "s3" or url.query or url.fragment or not _NAME.fullmatch(url.netloc):
        raise ValueError(f"{text!r} is not of the form s3://bucket/prefix")
    if not _PREFIX.fullmatch(prefix):
        raise ValueError(f"{prefix!r}: a prefix is made of letters, digits, '.', '_', '-' and '/'")
    return Place(url.netloc, prefix)


class SharedFile:
    """AWS's credentials file, one profile of it. Read again when it has changed: keys are rotated without a restart."""

    def __init__(self, path: Path, profile: str) -> None:
        self._path = path
        self._profile = profile
        self._read: tuple[tuple[int, int, int], Credentials] | None = None

    def __call__(self) -> Credentials:
        """Errors: ValueError, without a word of what is in the file."""
        try:
            status = self._path.stat()
            version = (status.st_mtime_ns, status.st_ino, status.st_size)
            if self._read is None or self._read[0] != version:
                self._read = (version, self._parsed())
        except (OSError, KeyError, configparser.Error) as error:
            name = type(error).__name__
            raise ValueError(f"{self._path}: no credentials of profile {self._profile!r} ({name})") from None
        return self._read[1]

    def _parsed(self) -> Credentials:
        parser = configparser.RawConfigParser()
        parser.read_string(self._path.read_text())
        profile = parser[self._profile]
        token = profile.get("aws_session_token", "")
        return Credentials(profile["aws_access_key_id"], profile["aws_secret_access_key"], token)
