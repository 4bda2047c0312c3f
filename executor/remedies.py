"""What the author of a workflow can do about a check that failed. Pure; docs/validate.md lists all of it.

The first rule whose pattern is in what the check says gives the remedy: a sentence or two.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from executor.packages import gone_since, meant, package_of

_APP = re.compile(
    r"([A-Za-z_]\w*)[ \t]*(?::[^=]+)?=[ \t]*(?:fastapi\.|starlette\.applications\.)?(?:FastAPI|Starlette)\("
)
_BARE_APP = re.compile(r"async def ([A-Za-z_]\w*)\(scope\b")
_EXIT = re.compile(r"\b(?:sys\.exit|os\._exit|exit|quit)\(")
_BLOCK = re.compile(r"(?m)^# /// script$")
_HANDLER = "into a handler, or into the app's lifespan"
_RUN = 'if __name__ == "__main__": uvicorn.run({}, host="0.0.0.0")'


@dataclass(frozen=True)
class About:
    """What is known of the workflow: its source, the Python that it gets, `3.11`, and what it printed last."""

    source: str
    python: str = ""
    printed: str = ""

    @property
    def apps(self) -> list[tuple[str, int]]:
        """(name, line) of what looks like an app at its top level."""
        rows = enumerate(self.rows, 1)
        return [(found[1], number) for number, row in rows if (found := _APP.match(row) or _BARE_APP.match(row))]

    @property
    def rows(self) -> list[str]:
        """Its lines, their beginnings: somebody else's, so that none is long."""
        return [row[:300] for row in self.source.splitlines()]


Advice = str | Callable[[re.Match[str], About], str]


@dataclass(frozen=True)
class Rule:
    """`cause`: as docs/validate.md calls it."""

    check: str
    cause: str
    pattern: re.Pattern[str]
    advice: Advice


def remedy(check: str, told: str, about: About) -> str:
    """Empty when nobody knows one."""
    for rule in RULES:
        found = rule.pattern.search(told) if rule.check == check else None
        if found:
            return rule.advice if isinstance(rule.advice, str) else rule.advice(found, about)
    return ""


def _as_python(_: re.Match[str], about: About) -> str:
    by = f"Python {about.python}, which `requires-python` chooses" if about.python else "Python"
    return f"Correct this line, or what stands right before it; it was read by {by}."


def _unknown_package(found: re.Match[str], _: About) -> str:
    return (
        meant(found[1]) or "Look the name up in the index: packages are often called otherwise than what one imports."
    )


def _undeclared(found: re.Match[str], about: About) -> str:
    module = found[1]
    if since := gone_since(module):
        return (
            f'Python {since} and later don\'t have it any more: set `requires-python = "<{since}"`, or do without it.'
        )
    package, known = package_of(module)
    if not _BLOCK.search(about.source):
        first = f'# dependencies = ["fastapi", "uvicorn", "{package}"]'
        if package in {"fastapi", "uvicorn"}:
            first = '# dependencies = ["fastapi", "uvicorn"]'
        return (
            f"The file has no header that declares its packages; begin it with the lines\n# /// script\n{first}\n# ///"
        )
    own = "" if known else "; if it is a file of yours, put its code into this one: a workflow is one file"
    return f'Add "{package}" to `dependencies` in the header{own}.'


def _no_app(_: re.Match[str], about: About) -> str:
    apps = about.apps
    if len(apps) > 1:
        listed = ", ".join(f"`{name}` (line {line})" for name, line in apps)
        return f"It makes several apps, {listed}: end it with `{_RUN.format(apps[0][0])}`, with the one that you mean."
    if apps:
        name, line = apps[0]
        return f"Its app is `{name}` (line {line}): end the file with `{_RUN.format(name)}`."
    return f"Make one, `app = FastAPI()`, and end the file with `{_RUN.format('app')}`."


def _wrong_app(_: re.Match[str], about: About) -> str:
    if apps := about.apps:
        name, line = apps[0]
        return f"Its app is `{name}` (line {line}): write `uvicorn.run({name})`, without a module's name."
    return "Write `uvicorn.run(app)` with the app itself, without a module's name."


def _exited(_: re.Match[str], about: About) -> str:
    exits = next((number for number, row in enumerate(about.rows, 1) if _EXIT.search(row.split("#")[0])), 0)
    where = f" (line {exits})" if exits else ""
    return f"It has to come to `uvicorn.run` without arguments and nobody at a keyboard: take out what ends it{where}."


def _needs(found: re.Match[str], _: About) -> str:
    package = next(filter(None, found.groups()))
    return f'Add "{ {"email-validator": "pydantic[email]"}.get(package, package) }" to `dependencies` in the header.'


def _undefined_variable(found: re.Match[str], _: About) -> str:
    return (
        f'If it is read from the environment: declare it, `env_vars = ["{found[1]}"]` below `# [tool.env-checker]` in '
        "the header, and set the secret; nothing else of the environment is there."
    )


def _network(_: re.Match[str], about: About) -> str:
    refused = [
        row for row in about.printed.splitlines() if row.startswith("a connection to ") and " was refused" in row
    ]
    why = f"{refused[0][0].upper()}{refused[0][1:]}. " if refused else ""
    whom = "`egress` in [tool.runmesh] says whom it may reach."
    return f"{why}It connects while it is imported: move that {_HANDLER}. {whom}"


def _library(found: re.Match[str], _: About) -> str:
    also = ' For OpenCV, "opencv-python-headless" needs none.' if "GL" in found[1] or "glib" in found[1] else ""
    return f"A sandbox has the libraries of its host only: choose a package whose wheels bring {found[1]} along.{also}"


def rule(check: str, cause: str, pattern: str, advice: Advice) -> Rule:
    """With the pattern compiled."""
    return Rule(check, cause, re.compile(pattern), advice)


RULES = (
    rule(
        "syntax", "tabs and spaces mixed", "TabError|use of tabs", "Indent with spaces only; editors can convert tabs."
    ),
    rule(
        "syntax",
        "the indentation doesn't fit",
        "IndentationError",
        "What belongs to one block is indented by the same number of spaces, four as a rule; the line above a block "
        "ends with `:`.",
    ),
    rule(
        "syntax",
        "a bracket or a quote isn't closed",
        "was never closed|unterminated|unexpected EOF|does not match opening",
        "Close it where it ends; the line is the one that opens it.",
    ),
    rule("syntax", "not UTF-8", "not UTF-8", "Save it as UTF-8."),
    rule("syntax", "a NUL byte", "NUL byte", "It isn't plain text, or was damaged: save it again as text."),
    rule(
        "syntax",
        "too large",
        r"a workflow may have \d+",
        "Keep data out of it: in a package, or uploaded (`POST /file`).",
    ),
    rule("syntax", "too complex", "too complex", "Break up what is nested deeply, and large literals."),
    rule("syntax", "anything else that isn't Python", "", _as_python),
    rule(
        "header",
        "not TOML",
        "is not TOML",
        'Strings have quotes, lists brackets and commas: `# dependencies = ["fastapi", "httpx>=0.28"]`.',
    ),
    rule("header", "two blocks", "two `# /// script` blocks", "Put what both say into the first."),
    rule("header", "too long", "has more than", "Write one entry a line, and leave out what isn't needed there."),
    rule("header", "requires-python is wrong", "requires-python", 'Write it as `# requires-python = ">=3.11"`.'),
    rule("header", "a list isn't one", "not a list of strings", 'Write it as `# dependencies = ["fastapi", "httpx"]`.'),
    rule("header", "a table isn't one", "is not a table", "Begin it with its name in brackets: `# [tool.runmesh]`."),
    rule(
        "header",
        "a dependency has an address",
        "points at an address",
        "Name one of the index, or put its code into the file.",
    ),
    rule(
        "header",
        "a dependency isn't one",
        "not a requirement",
        'Write each as `"name"`, `"name>=1.2"` or `"name==1.2.3"`.',
    ),
    rule(
        "header",
        "a variable isn't one",
        "^env_vars",
        'Write `"NAME"` for a secret and `"NAME=value"` for one with a default, each name once.',
    ),
    rule(
        "header",
        "more than this installation gives",
        "on this installation",
        "Ask for less, or ask the operator for more (RUNMESH_MAX_…).",
    ),
    rule(
        "interpreter",
        "no such Python here",
        "present: ",
        "Widen `requires-python` so that one of these fits, or ask the operator to install another.",
    ),
    rule("dependencies", "no such package", "there is no package named ([A-Za-z0-9._-]+)", _unknown_package),
    rule(
        "dependencies",
        "no such version",
        "there is no version of|there are no versions of",
        "Leave the version out, or choose one that the index has.",
    ),
    rule(
        "dependencies",
        "not for this Python",
        "Python version does not satisfy|Requires-Python|depends on Python",
        "Choose a version of the package that is made for this Python, or another `requires-python`.",
    ),
    rule(
        "dependencies",
        "versions in conflict",
        "can't be resolved",
        "Loosen or leave out one of the versions that it names: of a name alone the newest that fits is chosen.",
    ),
    rule(
        "dependencies",
        "a package that can't be built",
        "can't be built|would have to be built|doesn't say how it is built|took longer than",
        "Choose a version that has a wheel for this Python and Linux, or another package: a build has no network but "
        "the index, and of compilers and libraries what the host has.",
    ),
    rule(
        "imports",
        "a package that isn't declared",
        r"^ModuleNotFoundError: No module named '([\w.]+)'",
        _undeclared,
    ),
    rule(
        "imports",
        "an extra that isn't declared",
        r'"(python-multipart)" to be installed|(email-validator) is not installed|'
        r"(jinja2|itsdangerous|httpx|websockets)[`'\"]? must be installed",
        _needs,
    ),
    rule(
        "imports",
        "a library that the sandbox lacks",
        r"^ImportError: (lib[\w.+-]+): cannot open shared object",
        _library,
    ),
    rule(
        "imports",
        "a name that the package hasn't got",
        r"^ImportError: cannot import name",
        'The version that was installed has no such name: declare the one that it was written for, `"name==1.2.3"`.',
    ),
    rule("imports", "a variable that isn't declared", r"^KeyError: '([A-Z][A-Z0-9_]+)'", _undefined_variable),
    rule(
        "imports",
        "it reads from the keyboard",
        r"^EOFError",
        f"Nobody can answer: move `input()` {_HANDLER}, or read a variable that the header declares.",
    ),
    rule(
        "imports",
        "it needs the network",
        r"^\S*(?:Connect\w*|Connection\w*|gaierror|URLError|NewConnectionError|Timeout\w*)(?:Error|Exception|:|$)",
        _network,
    ),
    rule("imports", "no app", "without handing an app", _no_app),
    rule("imports", "another app than it has", "ASGI app|Could not import module|import string", _wrong_app),
    rule("imports", "it ends itself", "ended with exit status|SystemExit", _exited),
    rule(
        "imports",
        "it takes too long",
        "didn't hand an app to uvicorn within",
        f"It waits or computes for too long while it is imported: move that {_HANDLER}; a loop that never ends belongs "
        "into neither.",
    ),
    rule("imports", "it needs too much memory", "more memory than its limit", "Or load less while it is imported."),
    rule(
        "imports",
        "it is killed",
        "killed by signal",
        "A package in C crashed, or did what a sandbox forbids: leave packages out until it starts, to find which.",
    ),
    rule(
        "imports",
        "the host's isolation is incomplete",
        "isolation is incomplete",
        "Tell the operator: `runmesh doctor` says which.",
    ),
    rule(
        "imports",
        "any other exception",
        r"^[A-Za-z_][\w.]*(?:Error|Exception|Warning|Exit|Interrupt)?(?::|$)",
        "It is raised while the file is imported: try `python FILE` with the same packages.",
    ),
    rule(
        "openapi",
        "its schema can't be made",
        "",
        "It serves all the same, but nobody can read what it takes: give its handlers types that Pydantic has a schema "
        "of, or `include_in_schema=False`.",
    ),
    rule(
        "isolation",
        "threads are left",
        "thread",
        'Start them in the app\'s lifespan, or set `isolation = "cold"` to say so.',
    ),
    rule(
        "isolation",
        "something is left open",
        "leaves|event loop",
        'Open it in the app\'s lifespan, or set `isolation = "cold"` to say so.',
    ),
)
