"""The file in which the first admin key is left for the operator."""

import os
import tempfile
from pathlib import Path

from kit.settings import private_dir


def write_admin_key(path: Path, secret: str) -> None:
    """Whole or not at all, only for us to read (0600), and on the disk when this returns. No newline at its end."""
    private_dir(path.parent)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".admin-key-")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secret)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105  # both are in one directory
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
