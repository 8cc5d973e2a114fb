"""What OpenTelemetry's context says of the current use of a connection."""

from __future__ import annotations

from opentelemetry import context as otel_context
from opentelemetry import trace

from ._lifecycle import SUPPRESSED, Use

# The general suppression that exporters set, and the plain string that older ones use. The key of HTTP suppression is
# left alone on purpose: the instrumentations of requests, urllib3 and botocore set it around every call.
_SUPPRESS = otel_context._SUPPRESS_INSTRUMENTATION_KEY
_SUPPRESS_LEGACY = "suppress_instrumentation"


def current_use() -> Use:
    """The current span's SpanContext, ``None`` without a span, ``SUPPRESSED`` under general suppression."""
    context = otel_context.get_current()
    if not context:
        return None
    if context.get(_SUPPRESS) or context.get(_SUPPRESS_LEGACY):
        return SUPPRESSED
    # A SpanContext weighs 250 bytes and keeps nothing alive; the span and the Context would.
    span_context = trace.get_current_span(context).get_span_context()
    return span_context if span_context.is_valid else None
