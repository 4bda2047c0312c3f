"""Files of the library as workflows of a single file, which is all that a sandbox gets. Standard library only."""

import re
from pathlib import Path

_SHARED = re.compile(r"^from library\.(\w+(?:\.\w+)*) import (?:\([^)]*\)|[^(\n]*)$", re.MULTILINE)


def text_of(file: Path, library: Path) -> str:
    """What it imports of the library (`from library.models.service import …`) stands in the place of the import, once,
    and so does what that imports.

    Errors: OSError.
    """
    written: set[Path] = set()

    def shared(found: re.Match[str]) -> str:
        path = library.joinpath(*found[1].split(".")).with_suffix(".py")
        if path in written:
            return ""
        written.add(path)
        return _SHARED.sub(shared, path.read_text())

    return _SHARED.sub(shared, file.read_text())
