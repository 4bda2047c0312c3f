"""Wheels that were built in a sandbox: nothing of them is believed, and none takes long to look at."""

import struct
import time
import zipfile
from pathlib import Path

from executor.index_page import Sdist
from executor.interpreters import Interpreter
from executor.sdist import MAX_LISTING, _fault

SDIST = Sdist("odd", "1", "odd-1.tar.gz", "https://index.test/odd-1.tar.gz", "0" * 64)
HERE = Interpreter(Path("/usr/bin/python3"), Path("/usr"), (3, 11, 7))
ROW = struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 0, 20, 0, 0, 0, 0, 0x21, 0, 0, 0, 1, *[0] * 6) + b"a"


def wheel(directory: Path, content: bytes = b"") -> Path:
    path = directory / "odd-1-py3-none-any.whl"
    if content:
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as made:
            made.writestr("odd.py", "x = 1\n")
    return path


def end(listing: int, comment: bytes = b"") -> bytes:
    return struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 1, 1, listing, 0, len(comment)) + comment


def test_a_wheel(tmp_path: Path) -> None:
    assert _fault(wheel(tmp_path), SDIST, HERE) == ""
    whole = wheel(tmp_path).read_bytes()
    assert _fault(wheel(tmp_path, whole[:-2] + struct.pack("<H", 5) + b"words"), SDIST, HERE) == ""


def test_a_list_of_files_without_end(tmp_path: Path) -> None:
    rows = ROW * (MAX_LISTING // len(ROW) + 1)
    began = time.process_time()
    for comment in (b"", b"some words", end(47)[:-2]):
        told = _fault(wheel(tmp_path, rows + end(len(rows), comment)), SDIST, HERE)
        assert "lists its files in" in told or "is not a wheel" in told, told
    sixty_four = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, 9, 9, len(rows), 0)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(rows), 1)
    assert "ZIP64" in _fault(wheel(tmp_path, rows + sixty_four + locator + end(47)), SDIST, HERE)
    assert time.process_time() - began < 1


def test_no_wheel(tmp_path: Path) -> None:
    for content in (b"x", b"PK\5\6", b"PK\5\6" + b"\0" * 17, b"x" * 100_000):
        assert "is not a wheel" in _fault(wheel(tmp_path, content), SDIST, HERE)
