"""What the layout promises: the closed list of kit/, sizes of files and functions, where protobuf and SQL stop."""

import ast
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SERVICES = ("edge", "executor", "filestore", "keys", "scheduler")
KIT = {
    "addresses", "bus", "clock", "db", "errors", "lifecycle", "names", "postgres", "rpc_client", "rpc_errors",
    "rpc_server", "settings", "sqlite", "telemetry",
}  # fmt: skip
CODE = sorted(
    path
    for folder in (*SERVICES, "kit", "cli", "library", "migrations", "runmesh", "tests")
    for path in (ROOT / folder).rglob("*.py")
)
FORBIDDEN_NAMES = re.compile(r"(Manager|Helper|Util|Utils|Base|Impl|Common)$")
# Who may import what, by file name; everything else in a service is plain Python.
WIRE_FILES = re.compile(r"^(rpc|wire|clients|events|main|[a-z]+_clients|[a-z]+_rpc|[a-z]+_wire)\.py$")


def imports(path: Path) -> set[str]:
    """The modules that a file names in its import statements."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def test_the_kit_is_the_closed_list() -> None:
    modules = {path.stem for path in (ROOT / "kit").glob("*.py")} - {"__init__"}
    listed = set(re.findall(r"^\| `([a-z_]+)` \|", (ROOT / "kit" / "README.md").read_text(), re.MULTILINE))
    assert modules == KIT == listed


def test_the_kit_stays_small() -> None:
    lines = {path.name: len(path.read_text().splitlines()) for path in (ROOT / "kit").glob("*.py")}
    assert max(lines.values()) <= 250
    assert sum(lines.values()) <= 1900


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_readable(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= (500 if "tests" in path.parts else 400)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= 60, f"{node.name} has {length} lines"
        elif isinstance(node, ast.ClassDef):
            assert not FORBIDDEN_NAMES.search(node.name), node.name


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_says_what_it_is(service: str) -> None:
    docstring = ast.get_docstring(ast.parse((ROOT / service / "__init__.py").read_text())) or ""
    assert 1 <= len(docstring.splitlines()) <= 15
    assert "TODO" not in docstring


@pytest.mark.parametrize("service", SERVICES)
def test_the_composition_root_is_short(service: str) -> None:
    assert len((ROOT / service / "main.py").read_text().splitlines()) <= 100


@pytest.mark.parametrize("service", SERVICES)
def test_protobuf_grpc_and_sql_stop_at_the_door(service: str) -> None:
    for path in (ROOT / service).glob("*.py"):
        roots = {name.split(".")[0] for name in imports(path)}
        if not WIRE_FILES.match(path.name):
            assert not roots & {"mesh", "grpc", "google"}, path.name
        if path.name != "store.py" and not path.name.endswith("_store.py"):
            assert "sqlalchemy" not in roots, path.name


def test_only_settings_read_the_environment() -> None:
    for service in SERVICES:
        for path in (ROOT / service).glob("*.py"):
            if path.name in {"shim.py", "spawner.py", "__main__.py", "settings.py"}:
                continue  # the shim runs inside a sandbox, the spawner is a process of its own
            assert "os.environ" not in path.read_text(), path


def test_tests_are_no_package() -> None:
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_every_dependency_has_a_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"]:
        assert re.search(r">=\d", requirement), requirement
