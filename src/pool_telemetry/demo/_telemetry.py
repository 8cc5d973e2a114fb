"""What OpenTelemetry gets of the story: the providers keep it in memory, where a program would export it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON
from opentelemetry.trace import SpanKind

from .._snapshot import UpstreamSnapshot
from .._text import BOLD, DIM, NOTE, TIE, duration
from ._screen import INDENT, Line, Screen
from ._truth import expect

# The same for all: there is one upstream, and one protocol.
_EVERYWHERE = ("server.address", "server.port", "url.scheme", "network.protocol.version", "network.peer.address")
_TOLD = ("urllib3.connection.", "network.connection.", "error.type")


class Telemetry:
    """Providers of the demo's own."""

    def __init__(self) -> None:
        self._reader, self._exporter = InMemoryMetricReader(), InMemorySpanExporter()
        self.meter_provider = MeterProvider([self._reader])
        self.tracer_provider = TracerProvider(sampler=ALWAYS_ON)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._tracer = self.tracer_provider.get_tracer("demo")

    def span(self, name: str) -> AbstractContextManager[Any]:
        """A span such as the instrumentation of a client makes."""
        return self._tracer.start_as_current_span(name, kind=SpanKind.CLIENT)

    def metrics(self) -> dict[str, Any]:
        """All that have points, by name."""
        data = self._reader.get_metrics_data()
        scopes = [scope for resource in data.resource_metrics for scope in resource.scope_metrics] if data else []
        return {metric.name: metric for scope in scopes for metric in scope.metrics}

    def spans(self) -> tuple[ReadableSpan, ...]:
        """All that have ended."""
        return self._exporter.get_finished_spans()


def show(telemetry: Telemetry, screen: Screen, upstream: UpstreamSnapshot) -> None:
    """The metrics, and the spans of two requests.

    Raises:
        DisagreementError: the metrics are not those of the report.
    """
    metrics = telemetry.metrics()
    checkouts = {attributes: point.value for attributes, point in _points(metrics["urllib3.pool.checkouts"])}
    for outcome in {*checkouts, *upstream.checkouts}:
        expect(f"checkouts, {outcome}", upstream.checkouts.get(outcome, 0), "by the metric", checkouts.get(outcome, 0))
    heading = f"{BOLD} {NOTE}"
    screen.tell([], [("What OpenTelemetry gets: metrics", heading), ("   of histograms, how many and the mean", DIM)])
    screen.write(_rows(metrics))
    shortened = "   without 'urllib3.connection.'; -> is a link"
    screen.tell([], [("and spans: below a request, what kept it waiting", heading), (shortened, DIM)])
    trees = _Trees(telemetry.spans())
    for phase in ("checkout", "request"):
        screen.write(trees.lines(trees.first_that_met_a_drop(phase)))


def _points(metric: Any) -> Iterator[tuple[str, Any]]:
    """Each point, by what tells it from the others."""
    for point in metric.data.data_points:
        own = {key: value for key, value in point.attributes.items() if key not in _EVERYWHERE}
        yield "/".join(key.rpartition(".")[2] if value is True else str(value) for key, value in own.items()), point


def _rows(metrics: Mapping[str, Any]) -> Iterator[Line]:
    widest = max(map(len, metrics))
    for name, metric in sorted(metrics.items()):
        parts = []
        for attributes, point in _points(metric):
            if hasattr(point, "bucket_counts"):
                figure = f"{point.count} x {_figure(point.sum / point.count, metric.unit)}" if point.count else ""
            else:
                figure = _figure(point.value, metric.unit) if point.value else ""
            if figure:
                parts.append(f"{attributes} {figure}".strip().replace(" ", TIE))
        if parts:
            yield Line([(", ".join(parts), "")], [(f"{'':{INDENT}}{name:<{widest}}  ", DIM)])


def _figure(value: float, unit: str) -> str:
    return duration(value) if unit == "s" else f"{value:.1f}".removesuffix(".0")


class _Trees:
    """The spans, as trees."""

    def __init__(self, spans: tuple[ReadableSpan, ...]) -> None:
        self._by_id = {_id(span): span for span in spans}
        self._children: dict[int, list[ReadableSpan]] = {}
        for span in sorted(spans, key=lambda span: span.start_time or 0):
            if span.parent:
                self._children.setdefault(span.parent.span_id, []).append(span)

    def first_that_met_a_drop(self, phase: str) -> ReadableSpan:
        """The request that found, or lost, a dropped connection."""
        drops = [
            span for span in self._by_id.values() if _attributes(span).get("urllib3.connection.drop.phase") == phase
        ]
        first = min(drops, key=lambda span: span.start_time or 0)
        assert first.parent is not None
        return self._by_id[first.parent.span_id]

    def lines(self, span: ReadableSpan, depth: int = 0) -> Iterator[Line]:
        """A span with all below it."""
        margin = " " * (INDENT + 3 * depth)
        took = duration(((span.end_time or 0) - (span.start_time or 0)) / 1e9)
        yield Line([(span.name.replace(" ", TIE), "" if depth else BOLD), (f"  {took}", NOTE)], [(margin, "")])
        told = [
            f"{key.removeprefix('urllib3.connection.')}={duration(value) if isinstance(value, float) else value}"
            for key, value in _attributes(span).items()
            if depth and key.startswith(_TOLD) and not key.endswith(("trace_id", "span_id"))
        ]
        for link in span.links:
            other, kind = self._by_id.get(link.context.span_id), (link.attributes or {}).get("urllib3.link.kind")
            told += [f"{kind}->'{other.name}'"] if other else []
        if told:
            yield Line([("  ".join(each.replace(" ", TIE) for each in told), DIM)], [(f"{margin}   ", "")])
        for child in self._children.get(_id(span), []):
            yield from self.lines(child, depth + 1)


def _attributes(span: ReadableSpan) -> Mapping[str, Any]:
    return span.attributes or {}


def _id(span: ReadableSpan) -> int:
    context = span.get_span_context()
    return context.span_id if context else 0
