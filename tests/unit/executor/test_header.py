"""The header of a workflow: what is read, and that each error names line and cause."""

import textwrap
import time
from datetime import timedelta

import pytest

from executor.header import MAX_SOURCE, EnvVar, Header, HeaderError, check_requirement, parse
from executor.header_options import Options
from executor.model import Limits
from scheduler.workflow import MOST

WHOLE = """\
#!/usr/bin/env python3
# /// script
# requires-python = "==3.11.*"
# dependencies = [
#   "fastapi==0.116.1",
#   "uvicorn[standard] >=0.35 ; python_version > '3.8'",
# ]
# [tool.env-checker]
# env_vars = [
#   "PORT=8000",
#   "LOGLEVEL=INFO",
#   "CODEWORDS_API_KEY",
#   "CODEWORDS_RUNTIME_URI",
#   "OPENAI_API_KEY",
#   "GREETING=hello = you",
#   "EMPTY=",
# ]
# [tool.runmesh]
# timeout = "5m"
# memory = "512MiB"
# concurrency = 3
# isolation = "cold"
# retries = 2
# egress = ["api.example.com"]
# cpu = "0.5"
# processes = 64
# disk = "1G"
# ///
import os
"""


def test_everything_is_read() -> None:
    header = parse(WHOLE.encode())
    assert header.requires_python == "==3.11.*"
    assert header.requires_python_line == 3
    assert header.dependencies == ("fastapi==0.116.1", 'uvicorn[standard]>=0.35; python_version > "3.8"')
    assert header.dependency_lines == (5, 6)
    assert header.env_vars == (EnvVar("OPENAI_API_KEY"), EnvVar("GREETING", "hello = you"), EnvVar("EMPTY", ""))
    assert [variable.line for variable in header.env_vars] == [14, 15, 16]
    assert header.options == Options(
        "cold", timedelta(minutes=5), 512 << 20, ("api.example.com",), 2, 3, cpu=0.5, processes=64, disk=1 << 30
    )
    assert header.options.limits == Limits(memory_bytes=512 << 20, cpu=0.5, processes=64, disk_bytes=1 << 30)
    assert header.option_lines["disk"] == 27


@pytest.mark.parametrize(
    "source",
    [b"", b"print(1)\n", b"# /// other\n# x = 1\n# ///\n", b"    # /// script\n", b"# just a comment ///\n"],
)
def test_a_file_without_a_block_needs_nothing(source: bytes) -> None:
    assert parse(source) == Header()


def test_crlf_and_a_bom_change_nothing() -> None:
    assert parse(b"\xef\xbb\xbf" + WHOLE.replace("\n", "\r\n").encode()) == parse(WHOLE.encode())


def test_other_tools_are_left_alone() -> None:
    assert parse(block('[tool.uv]\nindex-url = "http://x"\n[tool.env-checker]\nother = 1')) == Header(
        requires_python_line=2
    )


def block(toml: str) -> bytes:
    """A source whose block's first TOML line is line 2."""
    return ("# /// script\n" + textwrap.indent(toml, "# ", lambda _: True) + "\n# ///\n").encode()


@pytest.mark.parametrize(
    ("toml", "line", "cause"),
    [
        ('requires-python = ">=3.11"\ndependencies = [\n  "a",\n  "b"', 5, "not TOML"),
        ('requires-python = ">=3.11"\ndependencies == ["a"]', 3, "not TOML"),
        ("a = 1\nb = 2\nb = 3", 4, "not TOML"),
        ("requires-python = 3.11", 2, "requires-python is not a string"),
        ('\nrequires-python = "eleven"', 3, "not a version specifier: 'eleven'"),
        ('dependencies = "fastapi"', 2, "not a list of strings"),
        ('x = 1\ndependencies = ["fastapi", 3]', 3, "not a list of strings"),
        ('dependencies = [\n "fastapi",\n "fast api",\n]', 4, "not a requirement: 'fast api'"),
        ('dependencies = [\n "fastapi",\n "",\n]', 4, "not a requirement: ''"),
        ('dependencies = [\n "-e .",\n]', 3, "not a requirement"),
        ('dependencies = [\n "./local",\n]', 3, "not a requirement"),
        ('dependencies = [\n "x\\n-r /etc/passwd",\n]', 2, "not a requirement"),
        ('dependencies = ["a @ https://example.com/a.whl"]', 2, "points at an address"),
        ('dependencies = ["a @ git+ssh://example.com/a"]', 2, "points at an address"),
        ('dependencies = ["a @ file:///etc"]', 2, "points at an address"),
        ("tool = 3", 2, "tool is not a table"),
        ('[tool]\nenv-checker = "x"', 3, "tool.env-checker is not a table"),
        ("[tool.env-checker]\nenv_vars = {}", 3, "env_vars is not a list of strings"),
        ('[tool.env-checker]\nenv_vars = [\n "OK",\n "not ok"]', 5, "'not ok' is neither NAME nor NAME=value"),
        ('[tool.env-checker]\nenv_vars = ["=x"]', 3, "neither NAME nor NAME=value"),
        ('[tool.env-checker]\nenv_vars = ["A=1",\n"A=2"]', 4, "names A twice"),
        ('[tool.env-checker]\nenv_vars = ["A=\\u0000"]', 3, "holds a NUL"),
        ("[tool.runmesh]\ntimeout = 5\nmemry = 3", 4, "no option 'memry'"),
        ('[tool.runmesh]\nisolation = "none"', 3, "isolation: 'none' is not one of run, instance, cold"),
        ("[tool.runmesh]\ntimeout = 0", 3, "timeout: 0 is not a time"),
        ("[tool.runmesh]\ntimeout = nan", 3, "timeout: nan is not a time"),
        ("[tool.runmesh]\ntimeout = true", 3, "timeout: True is not a time"),
        ('[tool.runmesh]\ntimeout = "5 parsecs"', 3, "timeout: '5 parsecs' is not a time"),
        ("[tool.runmesh]\nmemory = 1", 3, "memory: 1 is not a size"),
        ('[tool.runmesh]\nmemory = "8 MiB"', 3, "memory: '8 MiB' is not a size of at least 16 MiB"),
        ('[tool.runmesh]\ndisk = "1K"', 3, "disk: '1K' is not a size of at least 1 MiB"),
        ("[tool.runmesh]\ncpu = 0.01", 3, "cpu: 0.01 is not a number of processors from 0.05"),
        ("[tool.runmesh]\ncpu = nan", 3, "cpu: nan is not a number"),
        ("[tool.runmesh]\ncpu = inf", 3, "cpu: inf is not a number"),
        ("[tool.runmesh]\ncpu = true", 3, "cpu: True is not a number"),
        ('[tool.runmesh]\ncpu = "all"', 3, "cpu: 'all' is not a number"),
        ('[tool.runmesh]\ncpu = "-1"', 3, "cpu: '-1' is not a number"),
        ("[tool.runmesh]\nprocesses = 7", 3, "processes: 7 is not a whole number from 8"),
        ('dependencies = ["cpuinfo"]\n[tool.runmesh]\ntimeout = 9\ncpu = 0', 5, "cpu: 0 is not a number"),
        ("[tool.runmesh]\nconcurrency = 0", 3, "concurrency: 0 is not a whole number from 1"),
        ("[tool.runmesh]\nconcurrency = 1.5", 3, "concurrency: 1.5 is not a whole number"),
        ("[tool.runmesh]\nretries = -1", 3, "retries: -1 is not a whole number"),
        ('[tool.runmesh]\negress = "x"', 3, "egress: not a list of hosts"),
    ],
)
def test_an_error_names_line_and_cause(toml: str, line: int, cause: str) -> None:
    with pytest.raises(HeaderError) as raised:
        parse(block(toml))
    assert cause in raised.value.message
    assert raised.value.line == line
    assert not raised.value.about_source


def test_two_blocks() -> None:
    with pytest.raises(HeaderError, match="two `# /// script` blocks") as raised:
        parse(block("x = 1") + b"import os\n" + block("y = 2"))
    assert raised.value.line == 5


def test_of_a_row_of_comments_all_up_to_its_last_closing_line_is_the_block() -> None:
    nested = '# /// script\n# dependencies = ["a"]\n# x = """\n# ///\n# /// script\n# """\n# ///\n# words\n'
    assert parse(nested.encode()).dependencies == ("a",)
    with pytest.raises(HeaderError, match="isn't closed"):
        parse(b"# /// script\n# ///\n")


@pytest.mark.parametrize(
    ("source", "line", "cause"),
    [
        # By the regular expression of PEP 723: minutes.
        (b"# /// a\n" * 100_000 + b"# /// script\n", 100_002, "isn't closed"),
        # Each beginning of a dotted key is kept: gigabytes.
        (block(f"y = 1\nx.{'a.' * 20_000}a = 1"), 3, "more than 500 dots"),
        (block("y = 1\n" * 12_000 + "z = 1"), 2, "more than 65536 characters"),
        (block(f"x = {'9' * 5000}"), 2, "not TOML: Exceeds the limit"),
        (block("[tool.runmesh]\nretries = 0x" + "F" * 60_000), 3, "retries: Exceeds the limit"),
        (block("x = " + "[" * 30_000), 2, "nested too deeply"),
    ],
    ids=["openings", "dots", "length", "digits", "hex", "nesting"],
)
def test_headers_that_hurt_their_reader(source: bytes, line: int, cause: str) -> None:
    began = time.process_time()
    with pytest.raises(HeaderError, match=cause) as raised:
        parse(source)
    assert time.process_time() - began < 2
    assert raised.value.line == line


def test_entries_that_stand_there_otherwise_are_looked_for_quickly() -> None:
    entries = ", ".join(f'"\\u0061{number}"' for number in range(400))
    began = time.process_time()
    header = parse(block(f"dependencies = [\n{entries}]" + "\n# x" * 15_000))
    assert time.process_time() - began < 2
    assert header.dependency_lines == (2,) * 400


@pytest.mark.parametrize(
    ("source", "line"),
    [
        (b"# /// script\n# x = 1\n", 3),
        (b"\n# /// script\n# x = 1\n#y = 2\n# ///\n", 4),
        (b"# /// script\n\n# ///\n", 2),
    ],
)
def test_a_block_that_is_not_closed(source: bytes, line: int) -> None:
    with pytest.raises(HeaderError, match="isn't closed") as raised:
        parse(source)
    assert raised.value.line == line


@pytest.mark.parametrize(
    ("source", "line", "cause"),
    [
        (b"x = 1\ny = '\xe9'\n", 2, "not UTF-8"),
        (b"x = 1\n\n\0", 3, "NUL"),
        (b"#" * (MAX_SOURCE + 1), 0, "a workflow may have"),
    ],
)
def test_source_that_is_no_text(source: bytes, line: int, cause: str) -> None:
    with pytest.raises(HeaderError, match=cause) as raised:
        parse(source)
    assert raised.value.line == line
    assert raised.value.about_source


@pytest.mark.parametrize(
    ("value", "seconds"), [("30", 30), ("0.5", 0.5), ('"30s"', 30), ('"1.5 h"', 5400), ('"250ms"', 0.25)]
)
def test_times(value: str, seconds: float) -> None:
    assert parse(block(f"[tool.runmesh]\ntimeout = {value}")).options.timeout == timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("value", "size"), [("16777216", 1 << 24), ('"1G"', 1 << 30), ('"1.5 GiB"', 3 << 29), ('"64MB"', 64 << 20)]
)
def test_sizes(value: str, size: int) -> None:
    assert parse(block(f"[tool.runmesh]\nmemory = {value}")).options.memory == size


def test_concurrency_has_the_ceiling_that_a_change_of_limits_has() -> None:
    assert parse(block(f"[tool.runmesh]\nconcurrency = {MOST.concurrency}")).options.concurrency == 10_000
    with pytest.raises(HeaderError, match="10001 is not a whole number from 1 to 10000"):
        parse(block(f"[tool.runmesh]\nconcurrency = {MOST.concurrency + 1}"))


@pytest.mark.parametrize(("value", "cpu"), [("1", 1.0), ("0.05", 0.05), ('" 1.5 "', 1.5), ("0.33333", 0.333)])
def test_processors(value: str, cpu: float) -> None:
    assert parse(block(f"[tool.runmesh]\ncpu = {value}")).options.cpu == cpu


@pytest.mark.parametrize(
    ("option", "told"),
    [
        ('memory = "4G"', "memory: 4,096 MiB is more than the 2,048 MiB"),
        (f"memory = {(2 << 30) + 1001}", "memory: 2,049 MiB is more than the 2,048 MiB"),
        ("cpu = 2.5", "cpu: 2.5 is more than the 2"),
        ("processes = 101", "processes: 101 is more than the 100"),
        ('disk = "3 MiB"', "disk: 3 MiB is more than the 2 MiB"),
    ],
)
def test_what_the_operator_doesnt_allow(option: str, told: str) -> None:
    header = parse(block(f"[tool.runmesh]\ntimeout = 5\n{option}"))
    most = Limits(memory_bytes=(2 << 30) + 1000, cpu=2, processes=100, disk_bytes=2 << 20)
    with pytest.raises(HeaderError) as raised:
        header.check(most)
    assert told in raised.value.message
    assert (raised.value.line, raised.value.about_source) == (4, False)
    header.check(Limits())
    parse(block('[tool.runmesh]\nmemory = "2G"\ncpu = 2\nprocesses = 100\ndisk = "2M"')).check(most)


def test_a_requirement_is_one_line_whatever_it_was() -> None:
    assert check_requirement(" Requests [ socks ]  >= 2 , < 3 ") == "Requests[socks]<3,>=2"
    with pytest.raises(ValueError, match="not a requirement"):
        check_requirement("a" * 2000)
