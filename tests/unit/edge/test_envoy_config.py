"""cli.envoy: what the rendered configuration says. Whether Envoy does it is in tests/integration/edge."""

from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from cli.envoy import EnvoySettings, public_services, render
from edge.route_wire import SERVICES

RUN_DIR = Path("/run dir/x")


def rendered(**settings: Any) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(render(EnvoySettings(run_dir=RUN_DIR, **settings)))
    return found


def listeners(config: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: each for each in config["static_resources"]["listeners"]}


def connections(listener: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return found


def test_the_transcoder_serves_what_the_edge_serves() -> None:
    assert sorted(public_services()) == sorted(service.full_name for service in SERVICES)


def test_nothing_but_the_public_port_is_on_the_network() -> None:
    config = rendered(host="0.0.0.0", port=81)
    assert config["admin"]["address"] == {"pipe": {"path": "/run dir/x/envoy-admin.sock", "mode": 0o600}}
    found = listeners(config)
    assert set(found) == {"public", "nested"}
    assert found["public"]["address"]["socket_address"] == {"address": "0.0.0.0", "port_value": 81}
    assert found["nested"]["address"]["pipe"]["path"] == "/run dir/x/nested.sock"


def test_only_the_sandboxes_listeners_read_an_identity() -> None:
    found = listeners(rendered(tls_cert="/c", tls_key="/k"))
    assert set(found) == {"public", "nested", "nested-tls"}
    assert "listener_filters" not in found["public"]
    for name in ("nested", "nested-tls"):
        assert found[name]["listener_filters"][0]["name"] == "envoy.filters.listener.proxy_protocol"
    assert "transport_socket" not in found["nested"]["filter_chains"][0]
    for name in ("public", "nested-tls"):
        assert "transport_socket" in found[name]["filter_chains"][0]


@pytest.mark.parametrize("name", ["public", "nested"])
def test_waiting_for_a_result_outlives_every_timeout(name: str) -> None:
    config = connections(listeners(rendered())[name])
    assert float(config["stream_idle_timeout"].removesuffix("s")) > 35 * 60
    for route in config["route_config"]["virtual_hosts"][0]["routes"]:
        assert route["route"]["timeout"] == "0s"


def test_cors_and_traces_only_when_asked_for() -> None:
    plain = connections(listeners(rendered())["public"])
    assert "tracing" not in plain
    assert next(each["name"] for each in plain["http_filters"]) == "envoy.filters.http.lua"
    config = rendered(cors_origins=("https://a.b",), otlp_endpoint="https://collector:4318")
    filters = [each["name"] for each in connections(listeners(config)["public"])["http_filters"]]
    assert filters[0] == "envoy.filters.http.cors"
    collector = next(each for each in config["static_resources"]["clusters"] if each["name"] == "otlp")
    address = collector["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"]
    assert address == {"address": "collector", "port_value": 4318}
    assert "transport_socket" in collector


def test_settings_cannot_break_out_of_their_place() -> None:
    config = rendered(cors_origins=('https://a"\n  - exact: "*',), host='0"\n#')
    policy = connections(listeners(config)["public"])["route_config"]["virtual_hosts"][0]["typed_per_filter_config"]
    assert policy["envoy.filters.http.cors"]["allow_origin_string_match"] == [{"exact": 'https://a"\n  - exact: "*'}]
    assert listeners(config)["public"]["address"]["socket_address"]["address"] == '0"\n#'


def test_floods_are_stopped_on_the_public_listener_only() -> None:
    found = listeners(rendered(tls_cert="/c", tls_key="/k", flood_per_second=70))
    filters = {
        name: {each["name"]: each["typed_config"] for each in connections(listener)["http_filters"]}
        for name, listener in found.items()
    }
    name = "envoy.filters.http.local_ratelimit"
    assert [listener for listener, its in filters.items() if name in its] == ["public"]
    assert filters["public"][name]["token_bucket"] == {"max_tokens": 70, "tokens_per_fill": 70, "fill_interval": "1s"}
    assert "descriptors" not in filters["public"][name]
