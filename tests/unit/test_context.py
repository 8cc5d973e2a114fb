"""What a use is taken for, in every kind of context that it may have."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from opentelemetry import baggage, context, trace
from opentelemetry.context import Context
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF

from pool_telemetry._context import current_use
from pool_telemetry._lifecycle import SUPPRESSED

CONTEXT = trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(1))


class Foreign(trace.NonRecordingSpan):
    """Has, where others keep their SpanContext, something of its own."""

    def __init__(self, context: trace.SpanContext, kept: Any) -> None:
        super().__init__(context)
        self._foreign, self._context = context, kept

    def get_span_context(self) -> trace.SpanContext:
        return self._foreign


@contextmanager
def attached(found: Context) -> Iterator[None]:
    token = context.attach(found)
    try:
        yield
    finally:
        context.detach(token)


SPANS = {
    "recorded": TracerProvider(shutdown_on_exit=False).get_tracer("t").start_span("s"),
    "sampled out": TracerProvider(ALWAYS_OFF, shutdown_on_exit=False).get_tracer("t").start_span("s"),
    "remote": trace.NonRecordingSpan(CONTEXT),
    "of another make": Foreign(CONTEXT, kept={"trace": 1}),
    "of another make, keeping nothing": Foreign(CONTEXT, kept=None),
}


@pytest.mark.parametrize("span", SPANS.values(), ids=SPANS)
@pytest.mark.parametrize("has_more", [False, True], ids=["alone", "with baggage"])
def test_a_use_is_the_current_span_s(span: trace.Span, has_more: bool) -> None:
    found = trace.set_span_in_context(span, Context())
    with attached(baggage.set_baggage("name", "value", found) if has_more else found):
        assert current_use() is trace.get_current_span().get_span_context()


@pytest.mark.parametrize(
    "found", [Context(), baggage.set_baggage("name", "value", Context())], ids=["empty", "baggage"]
)
def test_without_a_span_there_is_none(found: Context) -> None:
    with attached(found):
        assert current_use() is None


@pytest.mark.parametrize("key", [context._SUPPRESS_INSTRUMENTATION_KEY, "suppress_instrumentation"])
@pytest.mark.parametrize("span", [None, *SPANS.values()], ids=["no span", *SPANS])
def test_suppression_comes_before_any_span(key: str, span: trace.Span | None) -> None:
    found = context.set_value(key, True, Context())
    with attached(found if span is None else trace.set_span_in_context(span, found)):
        assert current_use() is SUPPRESSED
    with attached(context.set_value(key, False, found)):
        assert current_use() is None


def test_of_a_span_nothing_but_its_span_context_is_kept() -> None:
    with attached(trace.set_span_in_context(SPANS["recorded"], Context())):
        assert type(current_use()) is trace.SpanContext
