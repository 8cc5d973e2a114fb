"""Metrics: observable instruments read the ledger, histograms are fed from its samples when metrics are collected.

Nothing is recorded while a request runs, but for the one in ``MOST_SAMPLES`` that finds the buffer full.
"""

from __future__ import annotations

import functools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import Histogram, MeterProvider, Observation
from opentelemetry.trace import propagation

from . import _semconv as names
from ._facts import CheckedOut, Closed, Dropped, FinSeen, SetUp
from ._faults import Fuse, log
from ._forking import Recorders
from ._instruments import Instruments, Source
from ._ledger import Ledger
from ._lifecycle import OTHER, SUPPRESSED, DropPhase, Outcome, Upstream, Use
from ._providers import is_unset
from ._reading import Reading
from ._recording import record_all
from ._records import ConnectionRecord, PoolRecord
from ._semconv import Attributes, Metric, known, seconds, upstream_attributes
from ._settings import Settings

_TOO_MANY = 10_000  # samples

Histograms = dict[str, Histogram]  # by the metric's name


class MetricsEmitter:
    """Feeds one meter provider from a ledger, while it is the active one.

    Args:
        settings: which metrics, and whether connections carry their peer.
        ledger: read by the callbacks.
    """

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self._settings = settings
        self._ledger = ledger
        self._instruments: Instruments | None = None
        self._stand_ins: Instruments | None = None
        self._readings: list[Reading] = []
        self._served: set[str] = set()
        self._recorders = Recorders(lambda: self._instruments is not None and self._instruments.is_collecting())
        self._is_cut_off = False
        self._reading_fuse = Fuse("the reading of the books", self._fall_silent)
        self._fuse = Fuse("the recording of metrics", self._let_nothing_gather)
        self._tallied: deque[Any] = deque()
        ledger.tallied = self._tallied

    def start(self, meter_provider: MeterProvider | None) -> None:
        """Make the instruments of a meter provider that it does not have yet, and feed them from now on.

        Args:
            meter_provider: the global one if ``None``, also one that is set later.
        """
        self._instruments = Instruments.of(meter_provider)
        self._take_over(self._instruments, self.observe)

    def let_stand_in(self, meter_provider: MeterProvider | None) -> None:
        """Feed this provider, or no longer any, as long as there is no global one."""
        stand_ins = None if meter_provider is None else Instruments.of(meter_provider)
        if self._stand_ins is not None and self._stand_ins is not stand_ins:
            self._stand_ins.source = None
        self._stand_ins = stand_ins
        if stand_ins is not None:
            self._take_over(stand_ins, self._observe_as_stand_in)

    def _take_over(self, instruments: Instruments, source: Source) -> None:
        instruments.ensure(filter(self._wants, names.METRICS))
        instruments.source = source

    def _let_go(self) -> None:
        for instruments in (self._instruments, self._stand_ins):
            # Of another emitter, if install() has given the provider a new one meanwhile.
            if instruments is not None and instruments.source in (self.observe, self._observe_as_stand_in):
                instruments.source = None

    def fall_silent(self) -> None:
        """Tell nothing any more, after a fault; may run inside garbage collection, so nothing is recorded."""
        self._let_go()
        self._let_nothing_gather()

    def _let_nothing_gather(self) -> None:
        if self._ledger.tallied is self._tallied:  # and not that of an emitter that install() has made meanwhile
            self._ledger.tallied = deque(maxlen=0)

    def stop(self) -> None:
        """Fall silent; the instruments stay, for one that is made twice would lose its callback."""
        if self._instruments is not None:
            self.flush()
        self._let_go()
        self._let_nothing_gather()
        if self._stand_ins is not None and not self._reading_fuse.is_blown:
            # It exports once more when the program ends, and would not have the totals of the time since the last one.
            try:
                totals = self._ledger.read()
            except Exception:
                self._reading_fuse.blow()
                return
            self._stand_ins.source = lambda metric: (
                _observations(metric, totals) if metric.kind == "counter" and self._wants(metric) else ()
            )

    def before_fork(self) -> None:
        """Let other threads finish what they record: the child could never get a lock of the SDK that they hold."""
        self._recorders.before_fork()

    def after_fork_in_parent(self) -> None:
        """Go on."""
        self._recorders.after_fork_in_parent()

    def after_fork_in_child(self) -> None:
        """Go on, but record nothing by what the parent has left locked: a request would wait there for ever."""
        is_locked = self._recorders.after_fork_in_child()
        if is_locked and self._instruments is not None:
            self._is_cut_off = self._instruments.cut_off()

    def _wants(self, metric: Metric) -> bool:
        # Asked at each point too: an earlier install() may have given the provider more instruments than this one does.
        return metric.is_core or self._settings.metrics == "all"

    def _fall_silent(self) -> None:
        self._readings = []
        self._let_nothing_gather()

    # Observable instruments

    def _observe_as_stand_in(self, metric: Metric) -> Iterable[Observation]:
        return self.observe(metric) if is_unset(metrics.get_meter_provider()) else ()

    def observe(self, metric: Metric) -> Iterable[Observation]:
        """The points of one observable instrument.

        All instruments of one collection are served from one walk: the first that asks a second time starts the next.
        """
        if self._reading_fuse.is_blown or not self._wants(metric):
            return []
        if not self._served or metric.name in self._served:
            self._served = set()
            try:
                self._readings = self._ledger.read()
                self.flush()
            except Exception:
                self._reading_fuse.blow()
                return []
        self._served.add(metric.name)
        return _observations(metric, self._readings)

    # Histograms

    def flush(self, *, can_wait: bool = False) -> None:
        """Tally and record the samples that have gathered; drop them then where no SDK would take them.

        Args:
            can_wait: leave them for later if a thread is about to fork.
        """
        samples = self._ledger.tallied
        me = threading.get_ident()
        if me in self._recorders.at_it:
            # A finaliser's request, while the SDK holds its own lock for this thread. Or a child that was forked by a
            # signal handler in the middle of it, and that goes on from there: it must not keep all that comes.
            if len(self._ledger.samples) > _TOO_MANY:
                self._ledger.samples.clear()
            return
        if can_wait and self._recorders.should_wait():
            return
        try:
            self._recorders.at_it.add(me)
            if can_wait and self._recorders.should_wait():  # one that has not seen this thread
                return
            self._ledger.drain()
            instruments = self._stand_ins
            if instruments is None or not is_unset(metrics.get_meter_provider()):
                instruments = self._instruments
            if self._fuse.is_blown or instruments is None or not instruments.has_sdk():
                samples.clear()
                self._tell_if_cut_off()
                return
            self._record_samples(samples, instruments.histograms)
        except Exception:
            self._fuse.blow()
        finally:
            self._recorders.at_it.discard(me)

    def _tell_if_cut_off(self) -> None:
        if self._is_cut_off:
            self._is_cut_off = False
            log.warning(
                "this process records no histograms: it was forked while another thread held a lock of OpenTelemetry's "
                "SDK, which nobody can release here; let each process set up providers of its own, or use `export`"
            )

    def _record_samples(self, samples: deque[Any], into: Histograms) -> None:
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
                record_all(into[names.IDLE_TIME.name], _point_attributes(*point, (_REUSED,)), of_point, _measured)
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
        histogram.record(amount, _point_attributes(*self._point(of), attributes), _exemplar_context(use))

    def _point(self, of: ConnectionRecord | PoolRecord) -> tuple[Upstream, str | None]:
        """What tells one point from another, beside the metric's own attributes."""
        peer = None
        if isinstance(of, ConnectionRecord):
            peer = self._ledger.told_peer(of) if self._settings.peer_address else None
            of = of.pool
        assert of.book is not None
        return of.book.upstream, peer


def _observations(metric: Metric, readings: list[Reading]) -> list[Observation]:
    points = _POINTS[metric]
    return [
        Observation(value, {**_upstream_attributes(reading.upstream), **known(attributes)})
        for reading in readings
        for attributes, value in points(reading)
    ]


def _measured(reuse: tuple[ConnectionRecord, int, Use]) -> tuple[float, Context]:
    _, idle_ns, use = reuse
    return (idle_ns / 1e9 if idle_ns > 0 else 0.0), _exemplar_context(use)


_REUSED = (names.OUTCOME, Outcome.REUSED.value)
_REPLACED = (names.OUTCOME, Outcome.REPLACED.value)


@functools.lru_cache(maxsize=1024)
def _upstream_attributes(upstream: Upstream) -> Attributes:
    overflow = True if upstream.address == OTHER else None
    return known({**upstream_attributes(upstream), names.METRIC_OVERFLOW: overflow})


@functools.lru_cache(maxsize=1024)
def _point_attributes(
    upstream: Upstream, peer: str | None, attributes: tuple[tuple[str, str | None], ...]
) -> Attributes:
    return known({**_upstream_attributes(upstream), names.PEER_ADDRESS: peer, **dict(attributes)})


# Not empty: in an empty context's place the SDK takes the current one, of whoever records.
_NO_SPAN = Context({propagation._SPAN_KEY: trace.INVALID_SPAN})


def _exemplar_context(use: Use) -> Context:
    # The sample is recorded later, by another thread or request: its exemplar must lead to the request's own trace.
    return (
        _NO_SPAN if use is None or not use.is_valid else Context({propagation._SPAN_KEY: trace.NonRecordingSpan(use)})
    )


# The points of each observable instrument: attributes beside the upstream's, and the value.
Points = Iterator[tuple[Attributes, float]]


def _open(reading: Reading) -> Points:
    for (state, version, peer), count in reading.open.items():
        yield {names.POOL_STATE: state, names.PROTOCOL_VERSION: version, names.PEER_ADDRESS: peer}, count


def _sockets(reading: Reading) -> Points:
    for (state, tcp_state), count in reading.sockets.items():
        yield {names.POOL_STATE: state, names.TCP_STATE: tcp_state}, count


def _drops(reading: Reading) -> Points:
    for (reason, phase), count in reading.drops.items():
        yield {names.DROP_REASON: reason.value, names.DROP_PHASE: phase.value}, count


def _by(attribute: str, pick: Callable[[Reading], dict[Any, int]]) -> Callable[[Reading], Points]:
    def points(reading: Reading) -> Points:
        for key, count in pick(reading).items():
            yield {attribute: getattr(key, "value", key)}, count

    return points


def _one(pick: Callable[[Reading], float | None]) -> Callable[[Reading], Points]:
    def points(reading: Reading) -> Points:
        value = pick(reading)
        if value is not None:
            yield {}, value

    return points


_POINTS: dict[Metric, Callable[[Reading], Points]] = {
    names.CHECKOUTS: _by(names.OUTCOME, lambda reading: reading.checkouts),
    names.DROPPED: _drops,
    names.OPENED_CONNECTIONS: _one(lambda reading: reading.opened),
    names.CLOSED_CONNECTIONS: _by(names.CLOSE_REASON, lambda reading: reading.closed),
    names.LEAKED: _one(lambda reading: reading.leaked),
    names.OPEN: _open,
    names.SOCKETS: _sockets,
    names.CLOSE_WAIT_AGE: _one(lambda reading: seconds(reading.close_wait_age_ns)),
    names.PENDING: _one(lambda reading: reading.pending),
    names.SIZE: _by(names.POOL_BLOCK, lambda reading: reading.sizes),
    names.PEAK: _one(lambda reading: reading.peak),
    names.POOLS: _one(lambda reading: reading.pools),
    names.CREATIONS: _one(lambda reading: reading.creations),
    names.USE_TIME: _one(lambda reading: seconds(reading.use_ns)),
}
