"""What is to go out in one large piece gathers here: in memory while it is little, then in a file without a name.

So a slow uploader costs disk, as it would with the disk's backend, and no memory.
"""

import hashlib
import tempfile
from pathlib import Path
from typing import IO

from filestore.backend import CHUNK_BYTES
from filestore.whole import in_thread

_MOST_PIECES = 512


class Spool:
    """Fills and is emptied, many times over; hashes all that passes."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._file: IO[bytes] | None = None
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._hash = hashlib.sha256()
        self.size = 0

    async def add(self, data: bytes) -> None:
        self._pieces.append(data)
        self._waiting += len(data)
        self.size += len(data)
        if self._waiting >= CHUNK_BYTES or len(self._pieces) >= _MOST_PIECES:
            await in_thread(self._flush)

    async def take(self) -> bytes:
        """All that is in it; it is empty then."""

        def sync() -> bytes:
            if self._file is None:
                return self._hashed()
            self._flush()
            self._file.seek(0)
            data = self._file.read()
            self._file.seek(0)
            self._file.truncate()
            return data

        data = await in_thread(sync)
        self.size = 0
        return data

    def digest(self) -> str:
        """SHA-256, hex, of all that ever came in. What is in it stays."""
        whole = self._hash.copy()
        for piece in self._pieces:
            whole.update(piece)
        return whole.hexdigest()

    def close(self) -> None:
        if self._file:
            self._file.close()

    def _hashed(self) -> bytes:
        data, self._pieces, self._waiting = b"".join(self._pieces), [], 0
        self._hash.update(data)
        return data

    def _flush(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115  # closed by `close`
        rest = memoryview(self._hashed())
        while rest:
            rest = rest[self._file.write(rest) :]
