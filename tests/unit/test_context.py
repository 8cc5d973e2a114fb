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

from pool_telemetry._context import current_use, packed, unpacked
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


LARGEST_TRACE, LARGEST_SPAN = 2**128 - 1, 2**64 - 1
PACKED = {
    "usual": trace.SpanContext(0x0AF7 << 112, 0xB7AD << 48, is_remote=False, trace_flags=trace.TraceFlags(1)),
    "remote": CONTEXT,
    "sampled out": trace.SpanContext(1, 1, is_remote=True, trace_flags=trace.TraceFlags(0)),
    "largest": trace.SpanContext(LARGEST_TRACE, LARGEST_SPAN, is_remote=True, trace_flags=trace.TraceFlags(255)),
}
STRANGE: Any = 1.5
WHOLE = {
    "with a trace state": trace.SpanContext(1, 2, is_remote=True, trace_state=trace.TraceState([("vendor", "value")])),
    "with strange flags": trace.SpanContext(1, 2, is_remote=True, trace_flags=trace.TraceFlags(256)),
    "with flags that are none": trace.SpanContext(1, 2, is_remote=True, trace_flags=STRANGE),
    "of which it is not known whether it is remote": trace.SpanContext(1, 2, is_remote=STRANGE),
}


@pytest.mark.parametrize("use", PACKED.values(), ids=PACKED)
def test_what_is_kept_of_a_use_weighs_little_and_is_whole_again_when_it_is_unpacked(use: trace.SpanContext) -> None:
    kept = packed(use)
    assert type(kept) is int
    assert kept.__sizeof__() < 64
    again = unpacked(kept)
    assert again == use
    assert again is not None
    assert type(again) is trace.SpanContext
    assert (type(again.trace_flags), type(again.is_remote)) == (trace.TraceFlags, bool)


@pytest.mark.parametrize("use", WHOLE.values(), ids=WHOLE)
def test_a_use_of_which_a_number_would_not_tell_all_is_kept_whole(use: trace.SpanContext) -> None:
    assert packed(use) is use
    assert unpacked(use) is use


def test_what_no_link_can_lead_to_is_not_kept() -> None:
    assert packed(None) is packed(trace.INVALID_SPAN_CONTEXT) is None
    assert unpacked(None) is unpacked(SUPPRESSED) is unpacked(trace.INVALID_SPAN_CONTEXT) is None
