"""A workflow's header: the PEP 723 block at its top, read without running anything. Pure.

The block may hold `requires-python`, `dependencies`, `[tool.env-checker] env_vars` and `[tool.runmesh]`.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import InvalidSpecifier, SpecifierSet

from executor.header_options import BadOption, Options, options
from executor.model import Limits

MAX_SOURCE = 1 << 20
MAX_HEADER = 1 << 16
MAX_ENTRIES = 500
# In one line: tomllib keeps each beginning of a dotted key, so that 100 KB of `a.a.a…` would take 10 GB.
MAX_DOTS = 500
# The platform sets these itself: a header may name them, and that means nothing.
PLATFORM_NAMES = frozenset({"PORT", "LOGLEVEL", "CODEWORDS_API_KEY", "CODEWORDS_RUNTIME_URI", "RUNTIME_URI"})

_OPENING = re.compile(r"# /// ([a-zA-Z0-9-]+)")
_TOML_LINE = re.compile(r"\(at line (\d+), column \d+\)")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")


class HeaderError(Exception):
    """What is wrong, and the 1-based line of the source (0: none applies). `about_source`: with the whole file, rather
    than with its header.
    """

    def __init__(self, message: str, line: int = 0, *, about_source: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.about_source = about_source


@dataclass(frozen=True)
class EnvVar:
    """A declared variable. Without a default a secret of this name must exist."""

    name: str
    default: str | None = None
    line: int = field(default=0, compare=False)


@dataclass(frozen=True)
class Header:
    """What a workflow says about itself. `dependencies` are names of the index, normalised, with specifiers."""

    requires_python: str = ""
    dependencies: tuple[str, ...] = ()
    dependency_lines: tuple[int, ...] = ()
    requires_python_line: int = 0
    env_vars: tuple[EnvVar, ...] = ()
    options: Options = Options()
    # The source line of each option of `[tool.runmesh]` that is given.
    option_lines: Mapping[str, int] = field(default_factory=dict, compare=False)

    def check(self, most: Limits) -> None:
        """Errors: HeaderError when it asks for more than `most`."""
        try:
            self.options.check(most)
        except BadOption as error:
            raise HeaderError(str(error), self.option_lines.get(error.key, 0)) from None


@dataclass(frozen=True)
class _Block:
    """The block's TOML text; its first line is line `first` of the source."""

    text: str
    first: int

    def line(self, number: int) -> int:
        """The source line of the text's line `number`, never past the block."""
        return self.first + max(0, min(number, self.text.count("\n")) - 1)

    def line_of(self, *needles: str) -> int:
        """The source line where the first of `needles` that occurs stands; the block's first line otherwise."""
        # In the whole text: row by row hundreds of entries that stand there otherwise (escaped) would take seconds.
        at = next((found for needle in needles if (found := self.text.find(needle)) >= 0), 0)
        return self.first + self.text.count("\n", 0, at)

    def line_of_option(self, key: str) -> int:
        """The source line where `key` of `[tool.runmesh]` stands; as good as can be told, that of the table."""
        rows = self.text.splitlines()
        table = next((index for index, row in enumerate(rows) if "tool.runmesh" in row), 0)
        for index in range(table, len(rows)):
            if rows[index].lstrip(" '\"").startswith(key):
                return self.first + index
        return self.line_of(key, "tool.runmesh")


def decode(source: bytes) -> str:
    """The source as text with plain newlines. Errors: HeaderError when it is too large, not UTF-8 or holds a NUL."""
    if len(source) > MAX_SOURCE:
        raise HeaderError(f"the file has {len(source)} bytes; a workflow may have {MAX_SOURCE}", about_source=True)
    if b"\0" in source:
        line = source[: source.index(b"\0")].count(b"\n") + 1
        raise HeaderError("the file holds a NUL byte", line, about_source=True)
    try:
        text = source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = source[: error.start].count(b"\n") + 1
        problem = f"the file is not UTF-8: {error.reason} at byte {error.start}"
        raise HeaderError(problem, line, about_source=True) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse(source: bytes) -> Header:
    """Reads the header; a file without one needs nothing. Errors: HeaderError."""
    block = _find(decode(source))
    if block is None:
        return Header()
    try:
        table = tomllib.loads(block.text)
    except ValueError as error:  # also of a number that has too many digits
        found = _TOML_LINE.search(str(error))
        line = block.line(int(found[1])) if found else block.line(block.text.count("\n"))
        raise HeaderError(f"the header is not TOML: {_TOML_LINE.sub('', str(error)).strip()}", line) from None
    except RecursionError:
        raise HeaderError("the header is nested too deeply", block.first) from None
    return _read(table, block)


def _find(text: str) -> _Block | None:
    rows = text.split("\n")
    blocks = [(first, end) for kind, first, end in _blocks(rows) if kind == "script"]
    if len(blocks) > 1:
        raise HeaderError("there are two `# /// script` blocks; a file may have one", blocks[1][0])
    if not blocks:
        if "# /// script" in rows:
            raise _not_closed(rows, rows.index("# /// script") + 1)
        return None
    first, end = blocks[0]
    plain = [row[2:] for row in rows[first:end]]
    if sum(map(len, plain)) + len(plain) > MAX_HEADER:
        raise HeaderError(f"the header has more than {MAX_HEADER} characters", first + 1)
    for number, row in enumerate(plain, first + 1):
        if row.count(".") > MAX_DOTS:
            raise HeaderError(f"this line has more than {MAX_DOTS} dots: break it into several", number)
    return _Block("".join(f"{row}\n" for row in plain), first + 1)


def _blocks(rows: list[str]) -> Iterator[tuple[str, int, int]]:
    """Type, first row and end of what each block holds, as the regular expression of PEP 723 has them, which takes
    minutes for a megabyte of opening lines: of a row of comments all up to its last closing line is one block.
    """
    start = 0
    for number, row in enumerate([*rows, ""]):
        if row == "#" or row.startswith("# "):
            continue
        if start < number:
            closing = next((at for at in range(number - 1, start + 1, -1) if rows[at] == "# ///"), start)
            for at in range(start, closing - 1):
                if found := _OPENING.fullmatch(rows[at]):
                    yield found[1], at + 1, closing
                    break
        start = number + 1


def _not_closed(rows: list[str], opening: int) -> HeaderError:
    for number in range(opening + 1, len(rows) + 1):
        row = rows[number - 1]
        if row != "#" and not row.startswith("# "):
            break
    else:
        number = len(rows)
    return HeaderError(
        f"the header that opens in line {opening} isn't closed: each line of it starts with `# `, the last is `# ///`",
        number,
    )


def _read(table: dict[str, Any], block: _Block) -> Header:
    requires_python = table.get("requires-python", "")
    python_line = block.line_of("requires-python")
    if not isinstance(requires_python, str):
        raise HeaderError("requires-python is not a string", python_line)
    try:
        SpecifierSet(requires_python)
    except InvalidSpecifier:
        raise HeaderError(
            f"requires-python is not a version specifier: {requires_python[:200]!r}", python_line
        ) from None
    entries = _strings(table.get("dependencies", []), "dependencies", block)
    dependencies = tuple(_dependency(entry, _quoted(block, entry, "dependencies")) for entry in entries)
    tools = _table(table.get("tool", {}), "tool", block)
    checker = _table(tools.get("env-checker", {}), "tool.env-checker", block)
    ours = _table(tools.get("runmesh", {}), "tool.runmesh", block)
    try:
        given = options(ours)
    except BadOption as error:
        raise HeaderError(str(error), block.line_of_option(error.key)) from None
    return Header(
        requires_python=requires_python,
        dependencies=dependencies,
        dependency_lines=tuple(_quoted(block, entry, "dependencies") for entry in entries),
        requires_python_line=python_line,
        env_vars=_env_vars(_strings(checker.get("env_vars", []), "env_vars", block), block),
        options=given,
        option_lines={key: block.line_of_option(key) for key in ours},
    )


def _table(value: Any, name: str, block: _Block) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise HeaderError(f"{name} is not a table", block.line_of(name.removeprefix("tool."), name))
    return value


def _strings(value: Any, name: str, block: _Block) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise HeaderError(f"{name} is not a list of strings", block.line_of(name))
    if len(value) > MAX_ENTRIES:
        raise HeaderError(f"{name} has {len(value)} entries; {MAX_ENTRIES} are allowed", block.line_of(name))
    return value


def _quoted(block: _Block, entry: str, key: str) -> int:
    return block.line_of(f'"{entry}"', f"'{entry}'", entry if entry.strip() else key, key)


def _dependency(entry: str, line: int) -> str:
    try:
        return check_requirement(entry)
    except ValueError as error:
        raise HeaderError(str(error), line) from None


def check_requirement(entry: str) -> str:
    """The requirement, normalised. Errors: ValueError when it is anything but a package of the index."""
    try:
        requirement = Requirement(entry) if len(entry) <= 1000 else None
    except (InvalidRequirement, RecursionError):
        requirement = None
    if requirement is None:
        raise ValueError(
            f"not a requirement: {entry[:200]!r}; packages are named as the index knows them (`name>=1.2`)"
        )
    if requirement.url is not None:
        raise ValueError(f"{entry[:200]!r} points at an address; only packages of the index can be installed")
    return str(requirement)


def _env_vars(entries: list[str], block: _Block) -> tuple[EnvVar, ...]:
    found: dict[str, EnvVar] = {}
    for entry in entries:
        name, equals, default = entry.partition("=")
        name = name.strip()
        line = _quoted(block, entry, "env_vars")
        variable = EnvVar(name, default if equals else None, line)
        if not _NAME.fullmatch(name):
            raise HeaderError(f"env_vars: {entry[:200]!r} is neither NAME nor NAME=value", line)
        if "\0" in default:
            raise HeaderError(f"env_vars: the value of {name} holds a NUL", line)
        if found.get(name, variable) != variable:
            raise HeaderError(f"env_vars names {name} twice with different values", line)
        found[name] = variable
    return tuple(variable for name, variable in found.items() if name not in PLATFORM_NAMES)
