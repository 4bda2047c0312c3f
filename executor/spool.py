"""Bytes that are written once and read many times: in memory up to 64 KiB, then in a file that has no name."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from executor.model import INLINE_BYTES

CHUNK_BYTES = 64 * 1024


class Spool:
    """`append` and `read` don't wait: what goes to disk goes to the page cache. Close it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._memory = bytearray()
        self._file: int | None = None
        self.size = 0

    def append(self, data: bytes) -> None:
        """Errors: OSError when the disk is full."""
        if self._file is None and self.size + len(data) > INLINE_BYTES:
            self._file = _nameless_file(self._directory)
            _write_all(self._file, bytes(self._memory))
            self._memory.clear()
        if self._file is None:
            self._memory += data
        else:
            _write_all(self._file, data)
        self.size += len(data)

    def read(self, offset: int, count: int = CHUNK_BYTES) -> bytes:
        """At most `count` bytes from `offset`; none at the end."""
        if self._file is None:
            return bytes(self._memory[offset : offset + count])
        return os.pread(self._file, count, offset)

    def chunks(self) -> Iterator[bytes]:
        """All of it."""
        offset = 0
        while chunk := self.read(offset):
            offset += len(chunk)
            yield chunk

    def close(self) -> None:
        """Idempotent."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._memory.clear()
        self.size = 0


def _nameless_file(directory: Path) -> int:
    handle, name = tempfile.mkstemp(dir=directory)
    Path(name).unlink()
    return handle


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
