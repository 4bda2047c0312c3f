"""The key-encryption keys (KEKs): where they come from, how they are written down. The first wraps, all unwrap.

They are the file `secrets/kek` of RUNMESH_HOME, which is made when it is missing; or the file RUNMESH_KEK_FILE; or the
variable RUNMESH_KEK. Written down, each is a line (in the variable: a word) of base64 that means 32 bytes; a file of
exactly 32 bytes is one KEK as it is. No error repeats any of it.
"""

import base64
import binascii
import fcntl
import os
import secrets
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from keys.sealing import KEK_BYTES, kek_id, shown
from kit.settings import BadSettings, read_key

MOST = 16
HOW = "`openssl rand -base64 32` makes one"


def parse_keks(text: str) -> tuple[bytes, ...]:
    """KEKs, the first wraps. Lines that start with `#` say nothing. Errors: ValueError, which repeats nothing."""
    rows = [row for row in text.splitlines() if not row.lstrip().startswith("#")]
    words = " ".join(rows).replace(",", " ").split()
    keks: list[bytes] = []
    for number, word in enumerate(words, 1):
        try:
            kek = base64.b64decode(word, validate=True)
        except binascii.Error:
            kek = b""
        if len(kek) != KEK_BYTES:
            raise ValueError(f"its entry {number} is not the base64 of {KEK_BYTES} bytes; {HOW}")
        if kek not in keks:
            keks.append(kek)
    if not keks:
        raise ValueError(f"it holds no key; {HOW}")
    if len(keks) > MOST:
        raise ValueError(f"it holds {len(keks)} keys; {MOST} are allowed: drop those that nothing needs any more")
    return tuple(keks)


class Keks:
    """Where this service's KEKs are. `path`: of the file, whoever gave it; None: the environment holds them."""

    def __init__(self, home_file: Path, file: Path | None = None, given: Sequence[bytes] = ()) -> None:
        self._given = tuple(given)
        self._own = not given and file is None
        self.path = None if given else file or home_file

    @property
    def there(self) -> bool:
        """Whether there is one yet."""
        return self.path is None or self.path.exists()

    @property
    def where(self) -> str:
        """For people."""
        return "RUNMESH_KEK" if self.path is None else str(self.path)

    def read(self) -> tuple[bytes, ...]:
        """All of them; RUNMESH_HOME's own file is made when it is missing. Errors: BadSettings."""
        if self.path is None:
            return self._given
        if self._own:
            read_key(self.path)
        try:
            return self._parsed(self.path.read_bytes())
        except OSError as error:
            raise BadSettings([f"RUNMESH_KEK_FILE: {self.path} can't be read: {error.strerror}"]) from None

    def _parsed(self, content: bytes) -> tuple[bytes, ...]:
        if len(content) == KEK_BYTES:
            return (content,)
        try:
            return parse_keks(content.decode("ascii"))
        except UnicodeDecodeError:
            told = f"it holds {len(content)} bytes; a KEK is {KEK_BYTES} bytes, or a line of their base64 each"
            raise BadSettings([f"{self.path}: {told}"]) from None
        except ValueError as error:
            raise BadSettings([f"{self.path}: {error}"]) from None

    @contextmanager
    def changing(self) -> Iterator[Path]:
        """The file, which nobody else changes meanwhile. Errors: BadSettings when it isn't ours to change; OSError."""
        if self.path is None:
            raise BadSettings([f"RUNMESH_KEK holds the keys, not a file: put a new one in front there; {HOW}"])
        if not self.there:
            raise BadSettings([f"there is no {self.path} yet: the first start makes it"])
        handle = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield self.path
        finally:
            os.close(handle)

    def write(self, keks: Sequence[bytes]) -> None:
        """In place of what is there, at once or not at all; owner and mode stay. Errors: OSError."""
        assert self.path is not None
        path = self.path.resolve()  # it may be a link
        before = path.stat()
        rows = ["# Key-encryption keys of Runmesh: the first one wraps, all unwrap. Keep them secret, and keep a copy."]
        for kek in keks:
            rows += [f"# {shown(kek_id(kek))}", base64.b64encode(kek).decode()]
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "w") as file:
                file.write("\n".join(rows) + "\n")
                file.flush()
                os.fchown(file.fileno(), before.st_uid, before.st_gid)
                os.fchmod(file.fileno(), before.st_mode & 0o640)
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
        directory = os.open(path.parent, os.O_RDONLY)
        os.fsync(directory)
        os.close(directory)


def new_kek() -> bytes:
    """A fresh one."""
    return secrets.token_bytes(KEK_BYTES)
