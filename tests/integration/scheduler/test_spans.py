from collections.abc import Iterator

import pytest
from mesh.runs.v1 import run_pb2
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from kit import telemetry
from tests.integration.scheduler.rig import Service


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """Spans of this process, without touching OpenTelemetry's one global provider."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    yield exporter
    provider.shutdown()


def parent(span: ReadableSpan) -> int:
    assert span.parent is not None
    return span.parent.span_id


async def test_submit_and_queue_hang_under_the_caller(service: Service, spans: InMemorySpanExporter) -> None:
    version_id = await service.deploy()
    with telemetry.span("edge.request", parent="") as outer:
        run_id = await service.submit(version_id)
    record = await service.until(run_id, run_pb2.RUN_STATUS_RUNNING)
    found = {span.name: span for span in spans.get_finished_spans()}
    submit, queue = found["scheduler.submit"], found["scheduler.queue"]
    assert submit.context is not None
    assert parent(submit) == outer.get_span_context().span_id
    assert parent(queue) == submit.context.span_id
    assert record.trace_id == f"{submit.context.trace_id:032x}" == f"{outer.get_span_context().trace_id:032x}"
    sent = service.neighbours.starts[0].spec.traceparent
    assert sent.split("-")[2] == f"{submit.context.span_id:016x}"  # executor.run will be its child too
    assert queue.start_time == pytest.approx(record.created_at.ToNanoseconds(), abs=1000)
