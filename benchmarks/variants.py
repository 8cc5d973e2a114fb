"""What is compared: each variant is switched on in a process of its own."""

from __future__ import annotations

import functools
import importlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import urllib3
import wrapt
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider

import pool_telemetry
from pool_telemetry._patch import proxied

Pool = urllib3.connectionpool.HTTPConnectionPool
#: What a checkout and a return pass through.
SEAMS: tuple[tuple[Any, str], ...] = (
    (Pool, "_get_conn"),
    (urllib3.connectionpool, "is_connection_dropped"),
    (Pool, "_put_conn"),
    (Pool, "_make_request"),
)


class Sdk:
    """OpenTelemetry's SDK as a back end would set it up, but that nothing leaves the process."""

    def __init__(self) -> None:
        self.spans = _Counting()
        self.reader = InMemoryMetricReader()
        tracer_provider = TracerProvider()
        tracer_provider.add_span_processor(self.spans)
        trace.set_tracer_provider(tracer_provider)
        metrics.set_meter_provider(MeterProvider([self.reader]))

    def value(self, name: str) -> float:
        """The sum of all points of one metric."""
        data: Any = self.reader.get_metrics_data()
        found: Iterator[float] = (
            point.value
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        )
        return sum(found)


class _Counting(SpanProcessor):
    ended = 0

    def on_end(self, span: ReadableSpan) -> None:
        self.ended += 1


class Variant:
    """Something that is put around urllib3.

    Attributes:
        sdk: OpenTelemetry's, if the process has one.
    """

    def __init__(self) -> None:
        self.sdk: Sdk | None = None

    def set_up_sdk(self) -> None:
        """Let the process have an SDK, as most applications do that instrument anything."""
        self.sdk = Sdk()

    def turn_on(self) -> None:
        """Put it in."""

    def told(self) -> float | None:
        """How many requests it has told of so far, ``None`` if it tells nothing; empties its buffers."""
        return None


class Replaced(Variant):
    """Functions of urllib3 are replaced.

    Args:
        wrap: makes the replacement from the original.
        seams: owner and name of each function.
    """

    def __init__(self, wrap: Callable[[Any], Any], seams: tuple[tuple[Any, str], ...]) -> None:
        super().__init__()
        self._wrap, self._seams = wrap, seams

    def turn_on(self) -> None:
        for owner, name in self._seams:
            setattr(owner, name, self._wrap(vars(owner)[name]))


def wrapt_noop(original: Any) -> Any:
    """A wrapper of wrapt's that does nothing."""
    return wrapt.FunctionWrapper(original, lambda wrapped, instance, args, kwargs: wrapped(*args, **kwargs))


def proxy_noop(original: Any) -> Any:
    """A proxy of wrapt's that calls a plain function around the original."""
    return proxied(original, plain_noop(original))


def plain_noop(original: Any) -> Any:
    """A plain function around another one."""

    @functools.wraps(original)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return original(*args, **kwargs)

    return wrapper


class Ours(Variant):
    """pool_telemetry with some settings."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self._settings = settings

    def turn_on(self) -> None:
        pool_telemetry.install(**self._settings)

    def told(self) -> float | None:
        if self.sdk is not None:
            return self.sdk.value("urllib3.pool.checkouts")
        from pool_telemetry import _instrument

        assert _instrument._ledger is not None
        readings = _instrument._ledger.read()
        return sum(sum(reading.checkouts.values()) for reading in readings)


class Instrumentor(Variant):
    """One of OpenTelemetry's instrumentations."""

    def __init__(self, module: str, name: str) -> None:
        super().__init__()
        self._instrumentor: Any = getattr(importlib.import_module(module), name)()

    def turn_on(self) -> None:
        self._instrumentor.instrument()

    def told(self) -> float | None:
        assert self.sdk is not None
        self.sdk.reader.get_metrics_data()
        return self.sdk.spans.ended


class Datadog(Variant):
    """ddtrace, whose traces are counted and thrown away instead of being sent to an agent."""

    def __init__(self, client: str) -> None:
        super().__init__()
        os.environ |= {"DD_TRACE_STARTUP_LOGS": "0", "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "0"}
        import ddtrace
        from ddtrace.trace import TraceFilter, tracer

        counted = self._counted = [0]

        class Count(TraceFilter):  # type: ignore[misc]  # its type is not known where ddtrace is not installed
            def process_trace(self, trace: list[Any]) -> None:
                counted[0] += len(trace)

        tracer.configure(trace_processors=[Count()])
        self._ddtrace, self._client = ddtrace, client

    def turn_on(self) -> None:
        self._ddtrace.patch(**{self._client: True})

    def told(self) -> float | None:
        return self._counted[0]
