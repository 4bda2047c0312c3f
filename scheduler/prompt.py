"""Prompt workflows: what one is made of, and the workflow that is written from it. Standard library only.

The template isn't read here: it is a stranger's. The program in its sandbox (library/prompts/workflow.py) parses it;
its variables come back in the program's OpenAPI document, its faults in the import check.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kit.errors import Invalid
from scheduler.library import text_of
from scheduler.workflow import Check, Prompt, Report

KIND = "prompt"
VENDORS = ("openai", "anthropic", "gemini")
MOST_TEMPLATE_BYTES = 64 * 1024
MOST_PARAMETER_BYTES = 16 * 1024
_MODEL = re.compile(rf"({'|'.join(VENDORS)})/[A-Za-z0-9][A-Za-z0-9._:@-]{{0,199}}")
_LIBRARY = Path(__file__).parent.parent / "library"
_PROGRAM = _LIBRARY / "prompts" / "workflow.py"
# The one line of the program that differs from prompt to prompt.
_LINE = re.compile(r"^PROMPT: dict\[str, Any\] = .*$", re.MULTILINE)
# As the executor tells an exception. What it advises besides is for who wrote the program, not for the prompt's author.
_FAULT = re.compile(
    r"InvalidTemplate: (?:line (?P<line>\d{1,6}): )?(?P<why>[^\n]*?)(?:\. It is raised while the file is imported|\n|$)"
)


def check(prompt: Prompt) -> None:
    """All but the template's own rules. Errors: Invalid (also too_large)."""
    size = len(prompt.template.encode())
    if size > MOST_TEMPLATE_BYTES:
        raise Invalid(f"the template has {size} bytes; at most {MOST_TEMPLATE_BYTES} are allowed", code="too_large")
    if not prompt.template.strip() or "\x00" in prompt.template:
        raise Invalid("`template` is the prompt's text, without U+0000")
    if not _MODEL.fullmatch(prompt.model):
        raise Invalid(f"`model` is VENDOR/NAME, such as openai/gpt-4o-mini; vendors are {', '.join(VENDORS)}")
    _check_parameters(prompt.parameters, prompt.model.partition("/")[0])


def _check_parameters(text: str, vendor: str) -> None:
    if len(text.encode()) > MOST_PARAMETER_BYTES:
        raise Invalid(f"`parameters` has more than {MOST_PARAMETER_BYTES} bytes of JSON", code="too_large")
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        given = None
    if not isinstance(given, dict):
        raise Invalid("`parameters` must be a JSON object")
    for name, value in given.items():
        takes = _PARAMETERS.get(name)
        if takes is None or vendor not in takes.vendors:
            known = ", ".join(each for each, its in _PARAMETERS.items() if vendor in its.vendors)
            raise Invalid(f"there is no parameter {name[:100]!r} for {vendor}; there are {known}")
        if not takes.allows(value):
            raise Invalid(f"the parameter {name} must be {takes.what}")


def source(prompt: Prompt) -> str:
    """The workflow: our program with this prompt in it. A value can't get out of the literal: it is ASCII, quoted by
    `repr`.
    """
    told = {
        "template": prompt.template,
        "model": prompt.model,
        "parameters": json.loads(prompt.parameters),
        "web_search": prompt.web_search,
    }
    line = f"PROMPT: dict[str, Any] = json.loads({json.dumps(told)!r})"
    written, found = _LINE.subn(lambda _: line, text_of(_PROGRAM, _LIBRARY), count=1)
    if not found:
        raise RuntimeError(f"{_PROGRAM} has no line for the prompt")
    return written


def described(prompt: Prompt, report: Report) -> Prompt:
    """With the variables that the program found. Errors: Invalid (invalid_workflow)."""
    try:
        body = json.loads(report.openapi)["paths"]["/"]["post"]["requestBody"]
        variables = body["content"]["application/json"]["schema"]["properties"]["inputs"]["required"]
    except (ValueError, LookupError, TypeError):
        variables = None
    if not isinstance(variables, list) or not all(isinstance(name, str) for name in variables):
        raise Invalid("the workflow wasn't deployed. Its variables couldn't be found", code="invalid_workflow")
    return replace(prompt, variables=tuple(variables))


def judged(report: Report) -> Report:
    """The report of a prompt's program: a fault of its template under that name, with the template's line."""
    checks = []
    for check in report.checks:
        fault = None if check.passed or check.check != "imports" else _FAULT.search(check.detail)
        if fault:
            line = int(fault["line"] or 0)
            checks.append(Check("template", passed=False, detail=fault["why"], line=line))
        else:
            checks.append(check)
    return replace(report, checks=tuple(checks))


@dataclass(frozen=True)
class _Parameter:
    what: str
    allows: Callable[[Any], bool]
    vendors: tuple[str, ...] = VENDORS


def _number(lowest: float, highest: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and lowest <= value <= highest


def _whole(highest: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= highest


def _stops(value: Any) -> bool:
    return isinstance(value, list) and 1 <= len(value) <= 16 and all(isinstance(each, str) and each for each in value)


_PARAMETERS: Mapping[str, _Parameter] = {
    "system": _Parameter("text", lambda value: isinstance(value, str) and bool(value)),
    "temperature": _Parameter("a number from 0 to 2", _number(0, 2)),
    "top_p": _Parameter("a number from 0 to 1", _number(0, 1)),
    "max_tokens": _Parameter("a whole number from 1 to 1000000", _whole(1_000_000)),
    "top_k": _Parameter("a whole number from 1 to 1000", _whole(1000), ("anthropic", "gemini")),
    "stop": _Parameter("a list of 1 to 16 texts", _stops, ("anthropic", "gemini")),
    "reasoning_effort": _Parameter(
        "minimal, low, medium or high", lambda value: value in ("minimal", "low", "medium", "high"), ("openai",)
    ),
}
