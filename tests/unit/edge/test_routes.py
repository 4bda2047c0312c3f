"""edge.routes: paths of the public protos."""

import re
from pathlib import Path

import pytest
from google.api import annotations_pb2

from edge.route_wire import SERVICES, allowed_methods, route


def parameters(name: str, path: str) -> dict[str, str] | None:
    service, method = name.split(".")
    found = next(each for each in SERVICES if each.name == service)
    return route(found.methods_by_name[method]).parameters(path)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/run/x", {"service_id": "x", "path": "/"}),
        ("/run/x/", {"service_id": "x", "path": "/"}),
        ("/run/o.x%40@1/a%2Fb//c/", {"service_id": "o.x@@1", "path": "/a%2Fb//c/"}),
        ("/run/", None),
        ("/run", None),
        ("/run//a", None),
        ("/runs/x", None),
        ("/x/run/x", None),
        ("//run/x", None),
    ],
)
def test_runs(path: str, expected: dict[str, str] | None) -> None:
    assert parameters("Runs.Run", path) == expected


@pytest.mark.parametrize("name", ["openai", "anthropic", "gemini"])
def test_services_of_models_have_paths_of_their_own(name: str) -> None:
    rpc = f"Runs.Run{name.capitalize()}"
    assert parameters(rpc, f"/{name}") == {"path": "/"}
    assert parameters(rpc, f"/{name}/v1/models/a%2Fb:what") == {"path": "/v1/models/a%2Fb:what"}
    assert parameters(rpc, f"/{name}s") is None
    assert allowed_methods(f"/{name}/v1/x") == ["GET", "POST"]


def test_a_slash_at_the_end_is_optional() -> None:
    assert parameters("Keys.RotateKey", "/keys/key_1/rotate/") == {"key_id": "key_1"}
    assert parameters("Keys.IssueKey", "/keys/") == {}
    assert parameters("Keys.IssueKey", "/keys//") is None


def test_which_methods_a_path_takes() -> None:
    assert allowed_methods("/run/x/y") == ["DELETE", "GET", "PATCH", "POST", "PUT"]
    assert allowed_methods("/request/run_1") == ["DELETE", "GET"]
    assert allowed_methods("/nope") == []


def test_head_stands_for_get_where_get_is_all_there_is() -> None:
    by_name = {method.name: route(method) for service in SERVICES for method in service.methods}
    assert by_name["ReadResult"].takes("HEAD")
    assert not by_name["Run"].takes("HEAD")
    assert not by_name["IssueKey"].takes("HEAD")
    assert by_name["Refuse"].takes("ANYTHING")


def test_every_path_is_in_the_list_of_the_api() -> None:
    text = (Path(__file__).parents[3] / "docs" / "api.md").read_text()
    listed = {
        (method, _bare(target))
        for methods, target in re.findall(r"^\| `([A-Z ]+) (/[^` ]*)`", text, re.MULTILINE)
        for method in methods.split()
    }
    methods = [method for service in SERVICES for method in service.methods if method.name != "Refuse"]
    rules = [method.GetOptions().Extensions[annotations_pb2.http] for method in methods]
    offered = {
        (kind.upper(), _bare(getattr(each, kind)))
        for rule in rules
        for each in [rule, *rule.additional_bindings]
        if (kind := each.WhichOneof("pattern"))
    }
    assert listed == offered


def _bare(path: str) -> str:
    """Without the names of parameters, and what may be left out."""
    return re.sub(r"\{[^}]*\}", "{}", re.sub(r"\[.*|\?.*|/\{path=\*\*\}", "", path))
