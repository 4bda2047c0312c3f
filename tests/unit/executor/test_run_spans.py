from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from executor.run import Run
from executor.sandbox import StartFailed
from tests.fakes.executor import World, chunks, make_spec


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("kit.telemetry.trace.get_tracer", provider.get_tracer)
    return exporter


async def run(world: World) -> None:
    spec = make_spec()
    tab = world.host.metering.tab(spec)
    await Run(world.host, spec, chunks(), world.capacity.take(nested=False), tab, known=False).execute()


async def test_a_runs_spans_hang_under_its_callers(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    await run(World(tmp_path))
    found = {span.name: span for span in spans.get_finished_spans()}
    ids = {name: span.context.span_id for name, span in found.items() if span.context}
    parents = {name: span.parent.span_id for name, span in found.items() if span.parent}
    assert parents == {
        "executor.run": int("2" * 16, 16),
        "sandbox.start": ids["executor.run"],
        "workflow.request": ids["executor.run"],
    }
    assert {span.context.trace_id for span in found.values() if span.context} == {int("1" * 32, 16)}


async def test_what_user_code_says_stays_out_of_spans(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    world = World(tmp_path)
    world.driver.fails = StartFailed("import", "ValueError: s3cret", traceback="s3cret")
    await run(world)
    assert "sandbox.start" in [span.name for span in spans.get_finished_spans()]
    assert "s3cret" not in "".join(span.to_json() for span in spans.get_finished_spans())
