"""The backend on a local filesystem. Files are made in `files/incoming/`, synced, then renamed to their
place.

All file I/O is in threads, in pieces of 256 KiB that are written as they came: no joining, no buffering twice.
"""

import hashlib
import os
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

from filestore.backend import CHUNK_BYTES
from filestore.model import Stored
from filestore.whole import in_thread
from kit.errors import NotFound
from kit.settings import private_dir

_MOST_PIECES = 512  # below IOV_MAX (1024)


class DiskBackend:
    """Bytes in files under `root`. One process at a time: what lies in `files/incoming/` at its start is a leftover."""

    def __init__(self, root: Path) -> None:
        self._root = root
        # So that nothing is deleted as old in the moment in which it is put again.
        self._placing = threading.Lock()
        self._incoming = private_dir(private_dir(root) / "files" / "incoming")
        for leftover in self._incoming.iterdir():
            leftover.unlink()

    @asynccontextmanager
    async def receive(self, key: str = "") -> AsyncIterator["DiskIncoming"]:  # noqa: ARG002  # S3 wants to know it
        incoming = DiskIncoming(self._root, self._incoming, self._placing)
        try:
            yield incoming
        finally:
            await in_thread(incoming.close)

    @asynccontextmanager
    async def open(self, key: str) -> AsyncIterator["DiskReader"]:
        try:
            reader = DiskReader(self._root / key)
        except FileNotFoundError:
            raise NotFound("no such bytes") from None
        try:
            yield reader
        finally:
            reader.close()

    async def size(self, key: str) -> int | None:
        try:
            return (await in_thread((self._root / key).stat)).st_size
        except FileNotFoundError:
            return None

    async def delete(self, key: str) -> None:
        await in_thread(lambda: (self._root / key).unlink(missing_ok=True))

    async def delete_all(self, prefix: str) -> None:
        def remove() -> None:
            with self._placing:
                shutil.rmtree(self._root / prefix, ignore_errors=True)

        await in_thread(remove)

    async def delete_old(self, prefix: str, before: datetime) -> int:
        return await in_thread(lambda: self._delete_old(self._root / prefix, before.timestamp()))

    def link(self, key: str, media_type: str, disposition: str) -> None:
        """Files are read here."""

    def _delete_old(self, root: Path, before: float) -> int:
        deleted = 0
        for directory, _, names in os.walk(root):
            for name in names:
                path = Path(directory) / name
                with self._placing:
                    if path.stat().st_mtime < before:
                        path.unlink()
                        deleted += 1
        return deleted


class DiskIncoming:
    """A temporary file, hashed as it is written."""

    def __init__(self, root: Path, directory: Path, placing: threading.Lock) -> None:
        self._root = root
        self._placing = placing
        self._file, path = tempfile.mkstemp(dir=directory)
        self._path = Path(path)
        self._hash = hashlib.sha256()
        self._pieces: list[bytes] = []
        self._waiting = 0
        self.size = 0

    async def write(self, data: bytes) -> None:
        """Goes to the disk once 256 KiB have come together."""
        self._pieces.append(data)
        self._waiting += len(data)
        self.size += len(data)
        if self._waiting >= CHUNK_BYTES or len(self._pieces) >= _MOST_PIECES:
            await in_thread(self._flush)

    async def finish(self) -> Stored:
        def sync() -> Stored:
            self._flush()
            os.fsync(self._file)
            return Stored(self._hash.hexdigest(), self.size)

        return await in_thread(sync)

    async def keep(self, key: str) -> None:
        def rename() -> None:
            target = self._root / key
            _make_directory(target.parent)
            with self._placing:
                os.utime(self._file)  # its age counts from now, however long it took to come in
                _make_directory(target.parent)  # delete_all may just have removed it
                self._path.replace(target)
            _sync_directory(target.parent)

        await in_thread(rename)

    def close(self) -> None:
        """Removes the file, if it wasn't kept."""
        os.close(self._file)
        self._path.unlink(missing_ok=True)

    def _flush(self) -> None:
        pieces, self._pieces, self._waiting = [memoryview(piece) for piece in self._pieces if piece], [], 0
        for piece in pieces:
            self._hash.update(piece)
        while pieces:
            written = os.writev(self._file, pieces)
            while pieces and written >= len(pieces[0]):
                written -= len(pieces.pop(0))
            if pieces:
                pieces[0] = pieces[0][written:]


class DiskReader:
    """An open file; `size` is what it had when it was opened."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.size = os.fstat(self._file).st_size

    async def read(self, offset: int, count: int) -> bytes:
        return await in_thread(lambda: os.pread(self._file, count, offset))

    def close(self) -> None:
        os.close(self._file)


def _make_directory(path: Path) -> None:
    """With its parents, each on the disk before what is in it."""
    if not path.is_dir():
        _make_directory(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        _sync_directory(path.parent)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
