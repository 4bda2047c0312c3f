"""Traces (OpenTelemetry), JSON logs (structlog) and metrics (Prometheus), all three carrying the trace id.

Nothing is exported unless OTEL_EXPORTER_OTLP_ENDPOINT is set; ids are made all the same, since every answer bears one.
"""

import logging
import sys
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from datetime import datetime
from random import getrandbits
from typing import Any

import structlog
from opentelemetry import context, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from kit.errors import Unavailable

_propagator = TraceContextTextMapPropagator()
_SAMPLED = trace.TraceFlags(trace.TraceFlags.SAMPLED)
_provider: TracerProvider | None = None
_unrecorded = False  # spans are ids and nothing more: nobody gets them


def configure(service: str, *, level: str = "INFO", otlp_endpoint: str = "") -> None:
    """Sets up logs and traces of this process; call once, in `main`."""
    global _provider, _unrecorded  # noqa: PLW0603  # OpenTelemetry's provider is one per process by its own design
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _add_trace,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping().get(level, logging.INFO)),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    _unrecorded = not otlp_endpoint
    if _unrecorded:
        return
    # Unless it is wanted it would cost every process 0.1 s and some MiB.
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415

    _provider = TracerProvider(resource=Resource.create({"service.name": service}))
    exporter = OTLPSpanExporter(endpoint=otlp_endpoint, insecure=not otlp_endpoint.startswith("https://"))
    _provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=500))
    trace.set_tracer_provider(_provider)


def shutdown() -> None:
    """Sends what is left; the last thing a process does."""
    if _provider is not None:
        _provider.shutdown()


def log() -> Any:
    """The process's logger: `log().info("what.happened", key=value)`."""
    return structlog.get_logger()


def announce(event: str, **fields: Any) -> None:
    """A line that is out whatever the level: somebody waits for it."""
    always = structlog.make_filtering_bound_logger(logging.INFO)
    structlog.wrap_logger(structlog.PrintLogger(sys.stderr), wrapper_class=always).info(event, **fields)


@contextmanager
def tried_again(work: str) -> Iterator[None]:
    """Around one round of a loop that comes again: what it needs is Unavailable now, which is logged."""
    try:
        yield
    except Unavailable as problem:
        log().warning("background.waiting", work=work, reason=problem.message)


def current_traceparent() -> str:
    """W3C `traceparent` of the span that we are in; empty outside of one."""
    current = trace.get_current_span().get_span_context()
    if not current.is_valid:
        return ""
    return f"00-{current.trace_id:032x}-{current.span_id:016x}-{current.trace_flags:02x}"


def entered(traceparent: str) -> Any:
    """Makes the span of a `traceparent` the current one; to be given to `left`, in the same task."""
    return context.attach(_propagator.extract({"traceparent": traceparent}))


def left(token: Any) -> None:
    """The span that was current before `entered` is so again."""
    context.detach(token)


def trace_id(traceparent: str) -> str:
    """The 32 hex digits of a `traceparent`; empty for garbage."""
    parts = traceparent.split("-")
    return parts[1] if len(parts) >= 4 and len(parts[1]) == 32 else ""


def valid_traceparent(text: str) -> str:
    """`text` if it is a usable W3C `traceparent`, else empty: callers send anything."""
    span = trace.get_current_span(_propagator.extract({"traceparent": text}, context=context.Context()))
    return text if span.get_span_context().is_valid else ""


@contextmanager
def span(
    name: str, *, parent: str | None = None, since: datetime | None = None, **attributes: Any
) -> Iterator[trace.Span]:
    """A span as the current one. `parent` is a `traceparent`; None: the current span; "": a new trace. `since`: when
    it began, if not now.
    """
    if parent is None:
        outer = context.get_current()
    elif parent:
        outer = _propagator.extract({"traceparent": parent}, context=context.Context())
    else:
        outer = context.Context()
    if _unrecorded:
        with _current(_unrecorded_span(outer)) as current:
            yield current
        return
    tracer = trace.get_tracer("runmesh")
    began = None if since is None else int(since.timestamp() * 1e9)
    # What an exception says may hold a secret (user code raises some of them): a span bears its type alone.
    with tracer.start_as_current_span(
        name,
        context=outer,
        attributes=attributes,
        start_time=began,
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        try:
            yield current
        except Exception as error:
            current.set_status(trace.StatusCode.ERROR, type(error).__name__)
            raise


def _unrecorded_span(outer: context.Context) -> trace.Span:
    """A span's identity alone, sampled as its parent is: a tenth of what the SDK's cost."""
    parent = trace.get_current_span(outer).get_span_context()
    known = parent.is_valid
    return trace.NonRecordingSpan(
        trace.SpanContext(
            parent.trace_id if known else getrandbits(128) or 1,
            getrandbits(64) or 1,
            is_remote=False,
            trace_flags=parent.trace_flags if known else _SAMPLED,
        )
    )


@contextmanager
def _current(current: trace.Span) -> Iterator[trace.Span]:
    token = context.attach(trace.set_span_in_context(current))
    try:
        yield current
    finally:
        context.detach(token)


def _add_trace(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    current = trace.get_current_span().get_span_context()
    if current.is_valid:
        event["trace_id"] = f"{current.trace_id:032x}"
    return event
