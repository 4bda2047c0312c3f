"""Files of the library as workflows of a single file, which is all that a sandbox gets. Standard library only."""

import re
from pathlib import Path

_SHARED = re.compile(r"^from library\.(\w+(?:\.\w+)*) import (?:\([^)]*\)|[^(\n]*)$", re.MULTILINE)


def text_of(file: Path, library: Path) -> str:
    """What it imports of the library (`from library.models.service import …`), and what that imports in turn, stands in
    the place of the import, once.

    Errors: OSError.
    """
    written: set[Path] = set()

    def shared(found: re.Match[str]) -> str:
        part = library.joinpath(*found[1].split(".")).with_suffix(".py")
        if part in written:
            return ""
        written.add(part)
        return whole(part)

    def whole(part: Path) -> str:
        return _SHARED.sub(shared, part.read_text())

    return whole(file)
