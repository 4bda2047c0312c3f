"""The public paths: patterns over raw paths. Their templates are the protos' (route_wire.py)."""

import re
from dataclasses import dataclass
from urllib.parse import unquote

_VARIABLE = re.compile(r"\\\{(\w+)(=\\\*\\\*)?\\\}")


@dataclass(frozen=True)
class Route:
    """One rpc's path: a pattern over the raw path, and the methods that lead there. `template`: as the proto has it."""

    pattern: re.Pattern[str]
    methods: frozenset[str]
    template: str = ""

    def parameters(self, path: str) -> dict[str, str] | None:
        """The path's parameters (edge.http.Request.params); None when this isn't its path."""
        found = self.pattern.fullmatch(path)
        if found is None:
            return None
        return {
            name: value or "/" if name == "path" else unquote(value, errors="replace")
            for name, value in found.groupdict(default="").items()
        }

    def takes(self, method: str) -> bool:
        """HEAD stands for GET where GET is all there is; elsewhere it would start a run."""
        return not self.methods or method in self.methods or (method == "HEAD" and self.methods == {"GET"})


def route_of(template: str, methods: frozenset[str]) -> Route:
    """The route of `/a/{b}` (a slash at the end is optional), `/a/{b}/{path=**}` (`path`: all that follows), `/**`."""

    def group(found: re.Match[str]) -> str:
        return f"(?P<{found[1]}>/.*)?" if found[2] else f"(?P<{found[1]}>[^/]+)"

    if template == "/**":
        return Route(re.compile(".*", re.DOTALL), methods, template)
    text = _VARIABLE.sub(group, re.escape(template)).replace("/(?P<path>", "(?P<path>")
    return Route(re.compile(text if template.endswith("**}") else text + "/?"), methods, template)
