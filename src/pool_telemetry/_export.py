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
    if _is_unset(trace.get_tracer_provider()):
        exporter = _exporter("traces")
        if exporter is not None:
            provider = TracerProvider()
            provider.add_span_processor(BatchSpanProcessor(exporter))
            trace.set_tracer_provider(provider)
    if _is_unset(metrics.get_meter_provider()):
        exporter = _exporter("metrics")
        if exporter is not None:
            metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(exporter)]))


def _is_unset(provider: object) -> bool:
    return type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))


def _exporter(signal: str) -> Any:
    name = os.environ.get(f"OTEL_{signal.upper()}_EXPORTER", "otlp").strip() or "otlp"
    if name == "none":
        return None
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
