"""What of each sample goes into which histogram."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import Histogram
from opentelemetry.trace import propagation

from . import _semconv as names
from ._facts import CheckedOut, Closed, Dropped, FinSeen, SetUp
from ._lifecycle import SUPPRESSED, DropPhase, Outcome, Upstream, Use
from ._points import point_attributes
from ._recording import record_all
from ._records import ConnectionRecord, PoolRecord
from ._semconv import Metric

Histograms = dict[str, Histogram]  # by the metric's name

_REUSED = (names.OUTCOME, Outcome.REUSED.value)
_REPLACED = (names.OUTCOME, Outcome.REPLACED.value)


class SampleRecorder:
    """Records samples in the histograms of a provider.

    Args:
        wants: whether a metric is wanted.
        peer_of: gives the peer's address by which points are kept apart, if they are.
    """

    def __init__(
        self, wants: Callable[[Metric], bool], peer_of: Callable[[ConnectionRecord], str | None] | None
    ) -> None:
        self._wants = wants
        self._peer_of = peer_of

    def record(self, samples: deque[Any], into: Histograms) -> None:
        """Record what has gathered, and take it out; an exception of a signal handler leaves what is not recorded."""
        reuses: dict[Any, deque[Any]] = {}  # there are most of these by far: those of one point are recorded together
        try:
            # Not "while there are any": those who add more would keep this thread at it, under the SDK's lock.
            for _ in range(len(samples)):
                try:
                    sample = samples.popleft()
                except IndexError:  # another thread is at it as well
                    break
                if isinstance(sample, tuple):
                    reuses.setdefault(self._point(sample[0]), deque()).append(sample)
                else:
                    self._record(sample, into)
            for point, of_point in reuses.items():
                record_all(into[names.IDLE_TIME.name], point_attributes(*point, (_REUSED,)), of_point, _measured)
        finally:
            for of_point in reuses.values():  # an exception of a signal handler came in between
                samples.extend(of_point)

    def _record(self, sample: Any, into: Histograms) -> None:
        if isinstance(sample, Dropped):
            if sample.phase is DropPhase.CHECKOUT:
                self._put(into, names.IDLE_TIME, sample.idle_ns, sample.connection, sample.use, _REPLACED)
                self._put(into, names.CLOSE_WAIT_TIME, sample.close_wait_ns, sample.connection, sample.use)
        elif isinstance(sample, FinSeen):
            self._put(into, names.REMOTE_CLOSE, sample.remote_close_ns, sample.connection, None)
        elif isinstance(sample, CheckedOut):
            self._put(into, names.WAIT, sample.waited_ns, sample.pool, sample.use, (names.ERROR_TYPE, sample.error))
        elif isinstance(sample, SetUp):
            self._record_setup(sample, into)
        elif isinstance(sample, Closed):
            version = (names.PROTOCOL_VERSION, sample.connection.version)
            self._put(into, names.LIFE, sample.age_ns, sample.connection, None, version)
            self._put(into, names.REQUESTS, sample.served, sample.connection, None)

    def _record_setup(self, set_up: SetUp, into: Histograms) -> None:
        cause, error = (names.SETUP_CAUSE, set_up.cause.value), (names.ERROR_TYPE, set_up.error)
        took_ns = set_up.ended_at - set_up.started_at
        self._put(into, names.SETUP, took_ns, set_up.connection, set_up.use, cause, error)
        for phase in set_up.phases:
            name, error = (names.SETUP_PHASE, phase.name.value), (names.ERROR_TYPE, phase.error)
            took_ns = phase.ended_at - phase.started_at
            self._put(into, names.PHASE, took_ns, set_up.connection, set_up.use, name, error)

    def _put(
        self,
        into: Histograms,
        metric: Metric,
        value: int | None,
        of: ConnectionRecord | PoolRecord,
        use: Use,
        *attributes: tuple[str, str | None],
    ) -> None:
        histogram = into.get(metric.name)
        if value is None or use is SUPPRESSED or histogram is None or not self._wants(metric):
            return
        amount = max(0, value) / 1e9 if metric.unit == "s" else value  # a clock that is set by a test may run backwards
        histogram.record(amount, point_attributes(*self._point(of), attributes), _exemplar_context(use))

    def _point(self, of: ConnectionRecord | PoolRecord) -> tuple[Upstream, str | None]:
        """What tells one point from another, beside the metric's own attributes."""
        peer = None
        if isinstance(of, ConnectionRecord):
            peer = None if self._peer_of is None else self._peer_of(of)
            of = of.pool
        assert of.book is not None
        return of.book.upstream, peer


def _measured(reuse: tuple[ConnectionRecord, int, Use]) -> tuple[float, Context]:
    _, idle_ns, use = reuse
    return (idle_ns / 1e9 if idle_ns > 0 else 0.0), _exemplar_context(use)


# Not empty: in an empty context's place the SDK takes the current one, of whoever records.
_NO_SPAN = Context({propagation._SPAN_KEY: trace.INVALID_SPAN})


def _exemplar_context(use: Use) -> Context:
    # The sample is recorded later, by another thread or request: its exemplar must lead to the request's own trace.
    return (
        _NO_SPAN if use is None or not use.is_valid else Context({propagation._SPAN_KEY: trace.NonRecordingSpan(use)})
    )
