"""The language of prompts: Jinja without calls, attributes, arithmetic, assignments, macros and other files, bounded in
what it takes. Written into a prompt's workflow when that is deployed (scheduler/library.py).
"""

import contextvars
import json
from collections.abc import Callable
from typing import Any, cast

from jinja2 import StrictUndefined, Template, TemplateError, Undefined, meta, nodes
from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_TEXT = 1 << 20  # bytes of what is asked
MAX_VALUE = 4 << 20  # characters of what a filter makes
MAX_STEPS = 1_000_000  # rounds of loops, and what filters and comparisons look at


class Refused(Exception):
    """The call is answered with this status and reason."""

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.code, self.detail = status, code, detail


class InvalidTemplate(Exception):
    """`line N: why`, where a line is known. The deploy reads it in the report of the import check."""


_PARTS = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.List, nodes.Tuple),
    *(nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.If, nodes.For, nodes.CondExpr, nodes.Compare, nodes.Operand),
    *(nodes.And, nodes.Or, nodes.Not, nodes.Neg, nodes.Filter, nodes.Test, nodes.Keyword),
)
_OF_LOOPS = frozenset({"index", "index0", "first", "last", "length"})
_NO_VARIABLES = frozenset({"self", "caller", "varargs", "kwargs", "super"})
_steps_left: contextvars.ContextVar[list[int]] = contextvars.ContextVar("steps_left")


def _spend(steps: int) -> None:
    left = _steps_left.get([MAX_STEPS])
    left[0] -= steps
    if left[0] < 0:
        raise Refused(400, "bad_request", f"the template does too much with these inputs: more than {MAX_STEPS} steps")


def _size(value: Any) -> int:
    """How much there is to go through, however deep."""
    size, left = 0, [value]
    while left and size <= MAX_STEPS:
        one = left.pop()
        if isinstance(one, str):
            size += len(one) // 64
        elif isinstance(one, list | tuple | dict):
            size += len(one)
            left.extend(one.values() if isinstance(one, dict) else one)
    return size


def _counted(value: Any) -> Any:
    """What is compared costs as much as it is long."""
    _spend(1 + _size(value))
    return value


def _rounds(value: Any) -> Any:
    """What a loop goes through costs as many steps. A dict gives its keys."""
    if isinstance(value, Undefined):
        str(value)  # says which one isn't there
    if not isinstance(value, list | tuple | dict | str):
        raise Refused(400, "bad_request", f"the template loops over {_text(value)[:100]}, which is no list")
    _spend(1 + len(value))
    return list(value)


def _text(value: Any) -> str:
    """Text as it is, all else as JSON."""
    return str(value) if isinstance(value, str | Undefined) else json.dumps(value, ensure_ascii=False)


def _default(value: Any, instead: Any = "", empty: bool = False) -> Any:
    return instead if isinstance(value, Undefined) or value is None or (empty and not value) else value


def _join(value: Any, separator: str = "") -> str:
    parts = [_text(each) for each in _rounds(value)]
    _fits(sum(map(len, parts)) + len(separator) * len(parts))
    return separator.join(parts)


def _replace(value: str, old: str, new: str) -> str:
    _fits(len(value) + (value.count(old) + 1) * len(new))
    return value.replace(old, new)


def _number(kind: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    def number(value: Any, instead: Any = 0) -> Any:
        try:
            return kind(value)
        except (TypeError, ValueError, OverflowError):
            return instead

    return number


def _round(value: float, digits: int = 0) -> float:
    return round(value, max(-10, min(10, digits)))


def _fits(size: int) -> None:
    if size > MAX_VALUE:
        raise Refused(400, "bad_request", f"with these inputs a value of the template passes {MAX_VALUE} characters")


def _bounded(work: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that pays for what it looks at, and makes nothing huge."""

    def filtered(*given: Any, **named: Any) -> Any:
        _spend(1 + sum(map(_size, given)))
        made = work(*given, **named)
        _fits(len(made) if isinstance(made, str) else 0)
        return made

    return filtered


_FILTERS: dict[str, Callable[..., Any]] = {
    "default": _default, "d": _default, "join": _join, "replace": _replace, "round": _round,
    "length": len, "count": len,
    "upper": lambda value: _text(value).upper(), "lower": lambda value: _text(value).lower(),
    "title": lambda value: _text(value).title(), "capitalize": lambda value: _text(value).capitalize(),
    "trim": lambda value: _text(value).strip(), "string": _text,
    "tojson": lambda value: json.dumps(value, ensure_ascii=False), "abs": abs,
    "int": _number(int), "float": _number(float),
    "first": lambda value: value[0], "last": lambda value: value[-1], "reverse": lambda value: value[::-1],
    "sort": sorted,
    "items": lambda value: list(value.items()),
}  # fmt: skip
_TESTS: dict[str, Callable[..., Any]] = {
    "defined": lambda value: not isinstance(value, Undefined), "undefined": lambda value: isinstance(value, Undefined),
    "none": lambda value: value is None, "string": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool), "mapping": lambda value: isinstance(value, dict),
    "sequence": lambda value: isinstance(value, list), "true": lambda value: value is True,
    "false": lambda value: value is False, "even": lambda value: value % 2 == 0, "odd": lambda value: value % 2 == 1,
}  # fmt: skip


class Language(ImmutableSandboxedEnvironment):
    """What a dot or brackets lead to is the member of an object or the item of a list, never anything of Python's."""

    def __init__(self) -> None:
        super().__init__(undefined=StrictUndefined, finalize=_text, keep_trailing_newline=True, cache_size=0)
        self.globals.clear()
        self.filters = {name: _bounded(work) for name, work in _FILTERS.items()}
        self.filters |= {"(counted)": _counted, "(rounds)": _rounds}  # no template can spell these
        self.tests = dict(_TESTS)

    def getattr(self, obj: Any, attribute: str) -> Any:
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        if isinstance(obj, LoopContext):
            return getattr(obj, argument) if argument in _OF_LOOPS else self.undefined(obj="loop", name=argument)
        try:
            if isinstance(obj, dict) or (isinstance(obj, list | tuple | str) and isinstance(argument, int | slice)):
                return obj[argument]
        except (LookupError, TypeError, ValueError):
            pass
        return self.undefined(obj=obj, name=argument)


_MISFITS = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError, MemoryError)


class Filling:
    """A template, ready to be filled in. Errors: InvalidTemplate."""

    def __init__(self, source: str) -> None:
        language = Language()
        try:
            tree = language.parse(source)
            for node in tree.iter_child_nodes():
                _check(node)
            wanted = meta.find_undeclared_variables(tree)
            named = (node.name for node in sorted(tree.find_all(nodes.Name), key=lambda node: node.lineno))
            self.variables = [name for name in dict.fromkeys(named) if name in wanted]
            if "loop" in wanted:
                raise InvalidTemplate("'loop' is something inside of a loop only")
            _metered(tree)
            self._template: Template = language.from_string(tree)
        except InvalidTemplate:
            raise
        except TemplateError as error:
            raise InvalidTemplate(_at(getattr(error, "lineno", 0), str(error.message or error))) from None
        except (RecursionError, SyntaxError, MemoryError):
            raise InvalidTemplate("the template is nested too deeply") from None
        except (ValueError, OverflowError) as error:
            raise InvalidTemplate(str(error)) from None

    def __call__(self, inputs: dict[str, Any]) -> str:
        """The text. Values are data: nothing in them is read as a template. Errors: Refused."""
        spent = _steps_left.set([MAX_STEPS])
        parts, size = [], 0
        try:
            for part in self._template.generate(inputs):
                size += len(part.encode("utf-8", "surrogatepass"))
                if size > MAX_TEXT:
                    raise Refused(400, "bad_request", f"with these inputs the prompt is larger than {MAX_TEXT} bytes")
                parts.append(part)
        except TemplateError as error:
            raise Refused(400, "bad_request", f"the template doesn't fit these inputs: {error.message}") from None
        except _MISFITS as error:
            raise Refused(400, "bad_request", f"the template doesn't fit these inputs: {str(error)[:300]}") from None
        finally:
            _steps_left.reset(spent)
        return "".join(parts)


def _check(node: nodes.Node) -> None:
    what = type(node).__name__
    if not isinstance(node, _PARTS):
        raise InvalidTemplate(_at(node.lineno, f"{_NAMES.get(what, what)} isn't possible in a prompt"))
    if isinstance(node, nodes.Name) and node.name in _NO_VARIABLES:
        raise InvalidTemplate(_at(node.lineno, f"{node.name!r} can't be the name of a variable"))
    if isinstance(node, nodes.For) and node.recursive:
        raise InvalidTemplate(_at(node.lineno, "a recursive loop isn't possible in a prompt"))
    known: dict[type[nodes.Node], dict[str, Any]] = {nodes.Filter: _FILTERS, nodes.Test: _TESTS}
    if isinstance(node, nodes.Filter | nodes.Test):
        if node.name not in known[type(node)] or node.node is None:
            raise InvalidTemplate(
                _at(node.lineno, f"there is no {what.lower()} {node.name!r}; there are {', '.join(known[type(node)])}")
            )
        if node.dyn_args or node.dyn_kwargs:
            raise InvalidTemplate(_at(node.lineno, "* and ** aren't possible in a prompt"))
    for child in node.iter_child_nodes():
        _check(child)


_NAMES = {
    "Call": "a call", "Include": "include", "Import": "import", "FromImport": "import", "Extends": "extends",
    "Macro": "a macro", "CallBlock": "a call", "Assign": "set", "AssignBlock": "set", "Block": "a block",
    "FilterBlock": "a filter block", "With": "with", "Concat": "~", "Dict": "an object", "NSRef": "set",
    "Add": "arithmetic (+)", "Sub": "arithmetic (-)", "Mul": "arithmetic (*)", "Div": "arithmetic (/)",
    "FloorDiv": "arithmetic (//)", "Mod": "arithmetic (%)", "Pow": "arithmetic (**)", "Pos": "arithmetic (+)",
    "Scope": "autoescape", "ScopedEvalContextModifier": "autoescape",
}  # fmt: skip


def _metered(tree: nodes.Template) -> None:
    """Loops and comparisons pay for what they go through."""

    def paying(node: nodes.Node, name: str) -> nodes.Filter:
        return nodes.Filter(
            cast(nodes.Expr, node), name, [], [], None, None, lineno=node.lineno, environment=node.environment
        )

    for loop in list(tree.find_all(nodes.For)):
        loop.iter = paying(loop.iter, "(rounds)")
    for operand in list(tree.find_all(nodes.Operand)):
        operand.expr = paying(operand.expr, "(counted)")


def _at(line: int | None, why: str) -> str:
    return f"line {line}: {why}" if line else why
