"""In-memory OpenTelemetry, and reading it: what the tests see is what a back end would get."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any

import urllib3
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import pool_telemetry
from pool_telemetry import _instrument

#: Begins the reason of a skip that no machine could spare: the version under test lacks it.
NOT_TO_BE_HAD = "not to be had"
#: The variable by which every other skip is a failure.
REQUIRE = "POOL_TELEMETRY_TEST_REQUIRE_SERVERS"
Point = Any  # a NumberDataPoint or HistogramDataPoint of the SDK


class Telemetry:
    """Providers of our own, with what has been emitted through them."""

    def __init__(self) -> None:
        self.reader = InMemoryMetricReader()
        self.meter_provider = MeterProvider([self.reader])
        self._exporter = InMemorySpanExporter()
        self.tracer_provider = TracerProvider()
        self.tracer_provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracer = self.tracer_provider.get_tracer("test")

    def __enter__(self) -> Telemetry:
        # Books outlive install() and uninstall() on purpose; a test wants to see its own only.
        if _instrument._ledger is not None:
            _instrument._ledger.reset()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pool_telemetry.uninstall()
        self.meter_provider.shutdown()
        self.tracer_provider.shutdown()

    def install(self, **settings: Any) -> None:
        """``install()`` with these providers."""
        pool_telemetry.install(tracer_provider=self.tracer_provider, meter_provider=self.meter_provider, **settings)

    def collect(self) -> Metrics:
        """All metrics now, from one collection."""
        return Metrics(self.reader.get_metrics_data())

    @property
    def spans(self) -> tuple[ReadableSpan, ...]:
        """Spans that have ended so far, those of the test's own tracer left out."""
        ours = self._exporter.get_finished_spans()
        return tuple(span for span in ours if span.instrumentation_scope and span.instrumentation_scope.name != "test")

    def named(self, start: str) -> list[ReadableSpan]:
        """Spans whose name begins so."""
        return [span for span in self.spans if span.name.startswith(start)]


class Metrics:
    """One collection."""

    def __init__(self, data: Any) -> None:
        self._metrics = {
            metric.name: metric
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    @property
    def names(self) -> set[str]:
        """Names of all metrics that have points."""
        return set(self._metrics)

    def metric(self, name: str) -> Any:
        """The SDK's metric."""
        return self._metrics[name]

    def points(self, name: str, **wanted: Any) -> list[Point]:
        """Points whose attributes hold these values; by the last part of an attribute's name, or the whole."""
        metric = self._metrics.get(name)
        points = [] if metric is None else list(metric.data.data_points)
        return [point for point in points if _has(point.attributes or {}, wanted)]

    def value(self, name: str, **wanted: Any) -> float:
        """Sum of a counter's or level's points."""
        return float(sum(point.value for point in self.points(name, **wanted)))

    def count(self, name: str, **wanted: Any) -> int:
        """How many samples a histogram holds."""
        return sum(point.count for point in self.points(name, **wanted))

    def sum(self, name: str, **wanted: Any) -> float:
        """Sum of a histogram's samples."""
        return float(sum(point.sum for point in self.points(name, **wanted)))

    def by(self, name: str, attribute: str, **wanted: Any) -> dict[Any, float]:
        """Values by one attribute, those that are not 0."""
        values: dict[Any, float] = {}
        for point in self.points(name, **wanted):
            key = _get(point.attributes or {}, attribute)
            values[key] = values.get(key, 0) + point.value
        return {key: value for key, value in values.items() if value}


def _get(attributes: Mapping[str, Any], name: str) -> Any:
    dotted = name.replace("__", ".")
    for key, value in attributes.items():
        if key == dotted or key.endswith(f".{dotted}"):
            return value
    return None


def _has(attributes: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    return all(_get(attributes, name) == value for name, value in wanted.items())


def check_laws(
    metrics: Metrics, *, checkouts: int | None = None, adopted: int = 0, unsampled: int = 0, **upstream: Any
) -> None:
    """The laws of the contract, for the upstream whose attributes are given, or for all of them together.

    Args:
        checkouts: calls of ``_get_conn``, where the test knows them.
        adopted: connections that were open before ``install()``.
        unsampled: connections that were opened by a suppressed use, of which no duration is kept.
    """
    value, count = metrics.value, metrics.count
    if checkouts is not None:
        assert value("urllib3.pool.checkouts", **upstream) == checkouts
    replaced = value("urllib3.pool.checkouts", outcome="replaced", **upstream)
    assert replaced == value("urllib3.pool.dropped_connections", phase="checkout", **upstream)
    opened = value("urllib3.pool.opened_connections", **upstream)
    set_ups = count("urllib3.connection.setup.duration", **upstream)
    failed = sum(
        point.count
        for point in metrics.points("urllib3.connection.setup.duration", **upstream)
        if "error.type" in point.attributes
    )
    assert opened - unsampled == set_ups - failed
    closed = value("urllib3.pool.closed_connections", **upstream)
    open_now = value("http.client.open_connections", **upstream)
    assert opened + adopted - closed == open_now
    assert open_now == value("urllib3.pool.socket.count", **upstream)
    lost = value("urllib3.pool.closed_connections", reason="lost_race", **upstream)
    assert lost == value("urllib3.pool.dropped_connections", phase="request", **upstream)


def manager(ca_file: str | None = None, **options: Any) -> urllib3.PoolManager:
    """A PoolManager that trusts a test server's certificate."""
    return urllib3.PoolManager(ca_certs=ca_file, **options)
