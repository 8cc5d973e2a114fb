"""Whether anybody has set OpenTelemetry up, asked without importing the SDK."""

from __future__ import annotations

from opentelemetry.metrics import MeterProvider, NoOpMeterProvider
from opentelemetry.trace import NoOpTracerProvider, TracerProvider


def is_api_only(provider: TracerProvider | MeterProvider) -> bool:
    """Whether a provider is the API's own, whose spans and instruments do nothing."""
    return type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics"))


def is_unset(provider: TracerProvider | MeterProvider) -> bool:
    """Whether a global provider is the API's place-holder; who sets one that does nothing has set one."""
    return is_api_only(provider) and not isinstance(provider, (NoOpTracerProvider, NoOpMeterProvider))
