"""SDK providers from the standard ``OTEL_*`` variables, where the application has set none.

The only importer of the SDK, and imported only when asked for.
"""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from ._errors import MissingExporterError

# The names that OTEL_TRACES_EXPORTER and OTEL_METRICS_EXPORTER may hold, as the entry points of exporters have them.
_ALIASES = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}


def build_providers() -> None:
    """Set the global providers that are not set yet; they flush at exit, as the SDK's do.

    Raises:
        MissingExporterError: the package of the exporter that the variables name is not installed.
    """
    # All exporters first: where one is missing, nothing has been set.
    wants_traces, wants_metrics = _is_unset(trace.get_tracer_provider()), _is_unset(metrics.get_meter_provider())
    span_exporters = _exporters("traces") if wants_traces else []
    metric_exporters = _exporters("metrics") if wants_metrics else []
    if span_exporters:
        provider = TracerProvider()
        for exporter in span_exporters:
            provider.add_span_processor(BatchSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
    if metric_exporters:
        metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(each) for each in metric_exporters]))


def _is_unset(provider: object) -> bool:
    return type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))


def _exporters(signal: str) -> list[Any]:
    names = os.environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").split(",")
    named = [name.strip() for name in names if name.strip()] or ["otlp"]
    return [_exporter(signal, name) for name in named if name != "none"]


def _exporter(signal: str, name: str) -> Any:
    if name == "otlp":
        protocol = os.environ.get(f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL") or os.environ.get(
            "OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"
        )
        name = _ALIASES.get(protocol, protocol)
    for entry_point in entry_points(group=f"opentelemetry_{signal}_exporter", name=name):
        return entry_point.load()()
    raise MissingExporterError(
        f"no OpenTelemetry exporter {name!r} for {signal} is installed: for OTLP over HTTP "
        "install opentelemetry-exporter-otlp-proto-http, or set "
        f"OTEL_{signal.upper()}_EXPORTER to console or none"
    )
