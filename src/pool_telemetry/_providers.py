"""Whether anybody has set OpenTelemetry up, asked without importing the SDK."""

from __future__ import annotations

from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider


def is_api_only(provider: TracerProvider | MeterProvider) -> bool:
    """Whether a provider is the API's own, whose spans and instruments do nothing."""
    return type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))
