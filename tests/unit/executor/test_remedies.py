"""What is said to do about a check that failed; and that docs/validate.md says the same."""

import re
import sys
from pathlib import Path

import pytest

from executor.packages import PACKAGE_OF, gone_since, meant, package_of
from executor.remedies import RULES, About, remedy

HEADER = '# /// script\n# dependencies = ["fastapi"]\n# ///\n'
ABOUT = About(HEADER, "3.11")
DOCS = (Path(__file__).parents[3] / "docs" / "validate.md").read_text()
# (check, what it says, what is to do about it)
SAID = [
    ("syntax", "TabError: inconsistent use of tabs and spaces in indentation", "Indent with spaces only"),
    ("syntax", "IndentationError: expected an indented block", "same number of spaces"),
    ("syntax", "SyntaxError: '(' was never closed (column 5)", "Close it"),
    ("syntax", "SyntaxError: unterminated string literal", "Close it"),
    ("syntax", "SyntaxError: invalid syntax (column 3)", "read by Python 3.11, which `requires-python` chooses"),
    ("syntax", "the file is not UTF-8: invalid start byte at byte 3", "Save it as UTF-8"),
    ("syntax", "the file holds a NUL byte", "save it again as text"),
    ("syntax", "the file has 9 bytes; a workflow may have 1048576", "POST /file"),
    ("syntax", "it is too complex", "Break up"),
    ("header", "the header is not TOML: Invalid value", "Strings have quotes"),
    ("header", "there are two `# /// script` blocks; a file may have one", "into the first"),
    ("header", "the header has more than 65536 characters", "one entry a line"),
    ("header", "requires-python is not a version specifier: '3'", '`# requires-python = ">=3.11"`'),
    ("header", "dependencies is not a list of strings", '`# dependencies = ["fastapi", "httpx"]`'),
    ("header", "tool.runmesh is not a table", "[tool.runmesh]"),
    ("header", "'x @ https://x' points at an address; only packages of the index can be installed", "of the index"),
    ("header", "not a requirement: 'fastapi => 1'", '`"name>=1.2"`'),
    ("header", "env_vars: 'A-B' is neither NAME nor NAME=value", '"NAME=value"'),
    ("header", "[tool.runmesh] cpu: 9 is more than 2 on this installation", "ask the operator"),
    ("interpreter", "no interpreter here fits requires-python '>=3.99'; present: 3.11.7", "Widen `requires-python`"),
    ("dependencies", "there is no package named cv2 in the package index", '"opencv-python-headless"'),
    ("dependencies", "there is no package named fastapii in the package index", 'Did you mean "fastapi"?'),
    ("dependencies", "there is no package named json in the package index", "part of Python: leave it out"),
    ("dependencies", "there is no package named qqqqqq in the package index", "Look the name up"),
    (
        "dependencies",
        "the dependencies can't be resolved: Because there is no version of x==9 …",
        "Leave the version out",
    ),
    (
        "dependencies",
        "the dependencies can't be resolved: Because only the following … depends on Python>=3.12",
        "Python",
    ),
    ("dependencies", "the dependencies can't be resolved: Because fastapi==1 depends on starlette<1 …", "Loosen"),
    ("dependencies", "x-1.tar.gz, which has no usable wheel, can't be built: error: no gcc", "has a wheel"),
    ("imports", "ModuleNotFoundError: No module named 'cv2'", 'Add "opencv-python-headless" to `dependencies`'),
    ("imports", "ModuleNotFoundError: No module named 'yaml'", 'Add "pyyaml" to'),
    ("imports", "ModuleNotFoundError: No module named 'bs4'", 'Add "beautifulsoup4" to'),
    ("imports", "ModuleNotFoundError: No module named 'PIL.Image'", 'Add "pillow" to'),
    ("imports", "ModuleNotFoundError: No module named 'httpx'", 'Add "httpx" to `dependencies` in the header.'),
    ("imports", "ModuleNotFoundError: No module named 'my_tools'", "if it is a file of yours"),
    ("imports", "ModuleNotFoundError: No module named 'distutils'", '`requires-python = "<3.12"`'),
    ("imports", 'RuntimeError: Form data requires "python-multipart" to be installed. ', 'Add "python-multipart"'),
    ("imports", "ImportError: email-validator is not installed, run", 'Add "pydantic[email]"'),
    ("imports", "AssertionError: jinja2 must be installed to use Jinja2Templates", 'Add "jinja2"'),
    ("imports", "ImportError: libGL.so.1: cannot open shared object file", "opencv-python-headless"),
    ("imports", "ImportError: cannot import name 'X' from 'y'", '"name==1.2.3"'),
    ("imports", "KeyError: 'MY_TOKEN'", 'env_vars = ["MY_TOKEN"]'),
    ("imports", "EOFError: EOF when reading a line", "Nobody can answer"),
    ("imports", "httpx.ConnectError: [Errno -2] Name or service not known", "into a handler"),
    ("imports", "requests.exceptions.ConnectionError: refused", "into a handler"),
    ("imports", "urllib.error.URLError: <urlopen error [Errno 104]>", "into a handler"),
    ("imports", "TimeoutError: timed out", "into a handler"),
    ("imports", "the script ended without handing an app to uvicorn (uvicorn.run)", "app = FastAPI()"),
    ("imports", 'Error loading ASGI app. Could not import module "main".', "without a module's name"),
    ("imports", "the script ended with exit status 1 before it handed an app to uvicorn", "take out what ends it"),
    ("imports", "the script didn't hand an app to uvicorn within 60 seconds", "a loop that never ends"),
    ("imports", "it needed more memory than its limit of 64 MiB: raise `memory` in [tool.runmesh]", "load less"),
    ("imports", "the workflow's process was killed by signal 11 (SIGSEGV) before", "A package in C crashed"),
    ("imports", "this host's isolation is incomplete: no seccomp", "Tell the operator"),
    ("imports", "ValueError: nonsense", "It is raised while the file is imported"),
    ("openapi", "the app's OpenAPI document can't be made: ValueError: no", "include_in_schema=False"),
    ("isolation", "each call starts a new process: importing it leaves 1 thread(s) running", "lifespan"),
    (
        "isolation",
        "each call starts a new process: the script starts an event loop by itself before it serves",
        "lifespan",
    ),
]


@pytest.mark.parametrize(("check", "said", "told"), SAID)
def test_each_failure_has_a_remedy(check: str, said: str, told: str) -> None:
    advice = remedy(check, said, ABOUT)
    assert told in advice
    assert advice.endswith((".", "?"))


def test_each_rule_is_needed() -> None:
    """None is shadowed by one before it: for each there is something that it is the first for."""
    used = {
        next(rule.cause for rule in RULES if rule.check == check and rule.pattern.search(said))
        for check, said, _ in SAID
    }
    assert used == {rule.cause for rule in RULES}


def test_the_page_lists_every_check_and_cause() -> None:
    sections = dict(re.findall(r"(?ms)^## ([a-z]+)$(.*?)(?=^## |\Z)", DOCS))
    for rule in RULES:
        assert f"| {rule.cause} |" in sections[rule.check], rule.cause
    listed = {(check, row) for check, text in sections.items() for row in re.findall(r"(?m)^\| ([^|]+?) \| ", text)}
    known = {(rule.check, rule.cause) for rule in RULES} | {("secrets", "a secret isn't set")}
    assert {each for each in listed if each[1] not in {"cause", "---"}} == known


def test_the_page_has_the_checks_in_their_order() -> None:
    in_order = ["syntax", "header", "interpreter", "dependencies", "secrets", "imports", "openapi", "isolation"]
    assert [name for name in re.findall(r"(?m)^## ([a-z]+)$", DOCS) if name in in_order] == in_order


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("api = FastAPI()\n", "Its app is `api` (line 1)"),
        ("x = 1\nshop: FastAPI = fastapi.FastAPI(title='x')\n", "Its app is `shop` (line 2)"),
        ("a = FastAPI()\n\nb = FastAPI()\n", "several apps, `a` (line 1), `b` (line 3)"),
        ("async def api(scope, receive, send):\n", "Its app is `api` (line 1)"),
        ("def make():\n    app = FastAPI()\n", "Make one"),
        ("", "Make one"),
    ],
)
def test_apps_that_nobody_was_given(source: str, told: str) -> None:
    assert told in remedy("imports", "the script ended without handing an app to uvicorn", About(source))


def test_where_it_ends_itself() -> None:
    source = "import sys\n# sys.exit(0)\nif True: sys.exit(3)\n"
    assert "(line 3)" in remedy("imports", "the script ended with exit status 3 before", About(source))


def test_a_file_without_a_header_is_shown_one() -> None:
    told = remedy("imports", "ModuleNotFoundError: No module named 'cv2'", About("import cv2\n"))
    assert '# /// script\n# dependencies = ["fastapi", "uvicorn", "opencv-python-headless"]\n# ///' in told
    told = remedy("imports", "ModuleNotFoundError: No module named 'fastapi'", About("import fastapi\n"))
    assert '# dependencies = ["fastapi", "uvicorn"]\n' in told


def test_a_refused_connection_is_named() -> None:
    printed = "Traceback\na connection to 10.0.0.1:80 was refused: a private address"
    told = remedy("imports", "URLError: reset", About(HEADER, "3.11", printed))
    assert told.startswith("A connection to 10.0.0.1:80 was refused: a private address. It connects while")


def test_a_long_line_costs_no_time() -> None:
    source = "a" * 500_000 + "\n" + "exit " * 100_000 + "\n" * 100_000
    for check, said, _ in SAID:
        remedy(check, said + " " + "x" * 2000, About(source, "3.11", source[:4096]))


def test_packages_by_what_is_imported() -> None:
    assert package_of("google.cloud.storage.blob") == ("google-cloud-storage", True)
    assert package_of("some_thing.part") == ("some-thing", False)
    assert package_of("httpx") == ("httpx", True)
    assert not set(PACKAGE_OF) & sys.stdlib_module_names
    assert (gone_since("imp"), gone_since("cgi.x"), gone_since("json")) == ("3.12", "3.13", "")
    assert meant("requests") == ""
    assert meant("PIL") == 'Did you mean "pillow"?'
    assert meant("reqeusts") == 'Did you mean "requests"?'
    assert meant("xml-etree") == ""
