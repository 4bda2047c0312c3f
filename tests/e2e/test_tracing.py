"""One trace of a nested asynchronous run, received over OTLP by a real gRPC receiver, with every span in its place."""

import re
import shutil
from collections.abc import Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from tests.e2e.mesh import Mesh, mesh_up, until

pytestmark = pytest.mark.timeout(200)


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.spans: list[Any] = []

    def Export(self, request: Any, context: Any) -> Any:
        for resource in request.resource_spans:
            for scope in resource.scope_spans:
                self.spans.extend(scope.spans)
        return trace_service_pb2.ExportTraceServiceResponse()


@pytest.fixture(scope="module")
def traced() -> Iterator[tuple[Mesh, Receiver]]:
    receiver = Receiver()
    server = grpc.server(futures.ThreadPoolExecutor(4))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with mesh_up(env={"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}"}) as mesh:
        mesh.deploy("probe")
        yield mesh, receiver
    server.stop(1)


def test_one_trace_through_everything(traced: tuple[Mesh, Receiver]) -> None:
    mesh, receiver = traced
    for environment in (mesh.home / "envs").iterdir():
        shutil.rmtree(environment)  # so that the first run has to build its environment again
    with mesh.http(mesh.new_key()["key"]) as client:  # a key that no cache knows
        accepted = client.post("/run_async/probe/nested", json={"path": "/run/probe", "json": {"name": "in"}})
        request_id = accepted.json()["request_id"]
        result = client.get(f"/result/{request_id}?timeout=60").json()
        assert result["run"]["status"] == "succeeded", result
        assert result["responseJson"]["status"] == 200
        trace_id = client.get(f"/request/{request_id}").json()["traceId"]
    assert accepted.headers["traceparent"].split("-")[1] == trace_id

    def whole() -> list[Any] | None:
        spans = [span for span in receiver.spans if span.trace_id.hex() == trace_id]
        return (
            spans if sum(span.name == "workflow.request" for span in spans) == 2 and len(parents(spans)) >= 10 else None
        )

    spans = until(whole, 20)
    tree = parents(spans)
    assert ("edge.request", "scheduler.submit") in tree
    assert ("scheduler.submit", "scheduler.queue") in tree
    assert ("scheduler.submit", "executor.run") in tree
    assert ("executor.run", "sandbox.start") in tree
    assert ("executor.run", "workflow.request") in tree
    assert ("workflow.request", "ENVOY") in tree or ("workflow.request", "edge.request") in tree
    assert ("ENVOY", "edge.request") in tree
    assert ("edge.request", "executor.run") in tree
    assert ("edge.request", "keys.verify") in tree
    assert ("executor.run", "environment.build") in tree


def test_the_key_check_is_a_span_of_the_direct_way_too(traced: tuple[Mesh, Receiver]) -> None:
    mesh, receiver = traced
    with mesh.http(mesh.new_key()["key"]) as client:
        trace_id = client.post("/run/probe", json={"name": "x"}).headers["traceparent"].split("-")[1]

    def verified() -> bool:
        spans = [span for span in receiver.spans if span.trace_id.hex() == trace_id]
        return ("edge.request", "keys.verify") in parents(spans)

    until(verified, 10)


def test_a_callers_trace_is_joined(traced: tuple[Mesh, Receiver]) -> None:
    mesh, _ = traced
    sent = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    with mesh.http() as client:
        answer = client.post("/run/probe", json={"name": "x"}, headers={"traceparent": sent})
    assert re.fullmatch(r"00-a{32}-[0-9a-f]{16}-[0-9a-f]{2}", answer.headers["traceparent"])


def parents(spans: list[Any]) -> set[tuple[str, str]]:
    """(parent's name, name) of each span; Envoy's own are called ENVOY."""
    ours = {"edge", "keys", "scheduler", "executor", "environment", "sandbox", "workflow"}

    def label(span: Any) -> str:
        return span.name if span.name.split(".")[0] in ours else "ENVOY"

    by_id = {span.span_id: span for span in spans}
    return {(label(by_id[span.parent_span_id]), label(span)) for span in spans if span.parent_span_id in by_id}
