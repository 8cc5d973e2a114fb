"""What OpenTelemetry's context says of the current use of a connection."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from opentelemetry import context as otel_context
from opentelemetry.context import Context
from opentelemetry.context.contextvars_context import ContextVarsRuntimeContext
from opentelemetry.trace import INVALID_SPAN, Span, SpanContext, TraceFlags, propagation

from ._faults import let_signals_pass
from ._lifecycle import SUPPRESSED, Use

# The general suppression that exporters set, and the plain string that older ones use. The key of HTTP suppression is
# left alone on purpose: the instrumentations of requests, urllib3 and botocore set it around every call.
_SUPPRESS = otel_context._SUPPRESS_INSTRUMENTATION_KEY
_SUPPRESS_LEGACY = "suppress_instrumentation"
# What trace.get_current_span() reads, and then asks an abstract class whether it is a span.
_SPAN = propagation._SPAN_KEY


def _reader() -> Callable[[], Context]:
    # The API's get_current() without its two calls of Python functions. Both names are private to the API; and another
    # runtime context may be set up by OTEL_PYTHON_CONTEXT.
    runtime = getattr(otel_context, "_RUNTIME_CONTEXT", None)
    variable: ContextVar[Context] | None = getattr(runtime, "_current_context", None)
    if type(runtime) is not ContextVarsRuntimeContext or not isinstance(variable, ContextVar):
        return otel_context.get_current
    return variable.get


_get_current = _reader()


def current_use() -> Use:
    """The current span's SpanContext, ``None`` without a span, ``SUPPRESSED`` under general suppression.

    It may be invalid: whether it is, is asked where it is made use of.
    """
    context = _get_current()
    if len(context) == 1:  # a span and nothing else, as it nearly always is: not suppressed
        # By get(): "in" and "[]" look up a method by its name first, in a subclass of dict, which a Context is.
        span: Any = context.get(_SPAN)
        if span is not None:
            try:
                # What get_span_context() of the SDK's spans and the API's gives, without the call.
                found = span._context  # of spans of another make it is something else
                if type(found) is SpanContext:
                    return found
            except Exception:
                let_signals_pass()
    if (_SUPPRESS in context and context[_SUPPRESS]) or (_SUPPRESS_LEGACY in context and context[_SUPPRESS_LEGACY]):  # noqa: RUF019 - get() is what costs
        return SUPPRESSED
    if _SPAN not in context:
        return None
    span = context[_SPAN]
    try:
        # A SpanContext weighs 250 bytes and keeps nothing alive; the span and the Context would.
        span_context = span.get_span_context()
    except Exception:  # it is none
        let_signals_pass()
        return None
    return span_context if isinstance(span_context, SpanContext) else None


def current_span() -> Span:
    """What ``trace.get_current_span()`` gives, without three of its calls."""
    found = _get_current().get(_SPAN)
    return found if isinstance(found, Span) else INVALID_SPAN


_SPAN_ID_BITS, _FLAGS_BITS, _REMOTE_BITS = 64, 8, 1


def packed(use: Use) -> Use:
    """A use as it is kept for as long as a connection lives: a SpanContext as a number, a quarter of its weight.

    ``None`` of one that no link can lead to. One with a trace state stays whole, as does that of another make.
    """
    if type(use) is not SpanContext:
        return use
    if not use.is_valid:
        return None
    if use.trace_state or type(use.is_remote) is not bool or not isinstance(use.trace_flags, int):
        return use
    if use.trace_flags >> _FLAGS_BITS:
        return use
    ids = use.trace_id << _SPAN_ID_BITS | use.span_id
    return (ids << _FLAGS_BITS | use.trace_flags) << _REMOTE_BITS | use.is_remote


def unpacked(use: Use) -> SpanContext | None:
    """What a link can lead to, of a use that was kept."""
    if isinstance(use, int):
        rest, is_remote = _split(use, _REMOTE_BITS)
        rest, flags = _split(rest, _FLAGS_BITS)
        trace_id, span_id = _split(rest, _SPAN_ID_BITS)
        return SpanContext(trace_id, span_id, bool(is_remote), TraceFlags(flags))
    return use if isinstance(use, SpanContext) and use.is_valid else None


def _split(number: int, bits: int) -> tuple[int, int]:
    return number >> bits, number & ((1 << bits) - 1)
