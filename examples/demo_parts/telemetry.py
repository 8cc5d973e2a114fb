"""What is emitted, kept in memory, and asked for one upstream at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_ON

from misbehaving import Server

PREFIX = "urllib3."
DROPPED = PREFIX + "pool.dropped_connections"
REASON, PHASE = PREFIX + "connection.drop.reason", PREFIX + "connection.drop.phase"
OUTCOME = PREFIX + "pool.checkout.outcome"


class Telemetry:
    """OpenTelemetry providers that keep everything in memory: a real program would export to its back end."""

    def __init__(self) -> None:
        self._reader = InMemoryMetricReader()
        self._exporter = InMemorySpanExporter()
        self.meter_provider = MeterProvider([self._reader])
        self.tracer_provider = TracerProvider(sampler=ALWAYS_ON)
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.tracer_provider.get_tracer("demo")

    def collect(self) -> Metrics:
        """All metrics as they stand."""
        return Metrics(self._reader.get_metrics_data())

    def spans(self) -> tuple[ReadableSpan, ...]:
        """All spans that have ended."""
        return self._exporter.get_finished_spans()


class Metrics:
    """One collection of metrics, asked for one upstream at a time."""

    def __init__(self, data: Any) -> None:
        self._points = {
            metric.name: list(metric.data.data_points)
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def points(self, name: str, server: Server) -> list[tuple[Mapping[str, Any], Any]]:
        """Attributes and value (of a histogram the whole point) of one upstream."""
        return [
            (point.attributes, getattr(point, "value", point))
            for point in self._points.get(name, ())
            if point.attributes["server.port"] == server.port
        ]

    def by(self, name: str, server: Server, *attributes: str) -> dict[str, Any]:
        """What is not zero, by the values of some attributes."""
        return {
            "/".join(str(found[each]) for each in attributes if each in found): value
            for found, value in self.points(name, server)
            if value
        }

    def total(self, name: str, server: Server, **wanted: str) -> int:
        """The sum of a counter or a level, over points with these attributes, named by the ends of their names."""
        return sum(
            value
            for attributes, value in self.points(name, server)
            if all(
                any(key.endswith(f".{end}") and found == value for key, found in attributes.items())
                for end, value in wanted.items()
            )
        )

    def sockets(self, server: Server) -> Counter[str]:
        """Sockets of the pools by TCP state."""
        states: Counter[str] = Counter()
        for attributes, count in self.points("urllib3.pool.socket.count", server):
            states[attributes.get("network.connection.state", "unknown")] += count
        return states
