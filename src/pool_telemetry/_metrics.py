"""Metrics: observable instruments read the ledger, histograms are fed from its samples when metrics are collected.

Nothing is recorded while a request runs, but for the one in ``MOST_SAMPLES`` that finds the buffer full.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import Any

from opentelemetry import metrics
from opentelemetry.metrics import MeterProvider, Observation

from . import _semconv as names
from ._faults import Fuse, log
from ._forking import Recorders
from ._histograms import SampleRecorder
from ._instruments import Instruments, Source
from ._ledger import Ledger
from ._points import observations
from ._providers import is_unset
from ._reading import Reading
from ._semconv import Metric
from ._settings import Settings

_TOO_MANY = 10_000  # samples


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
        self._sample_recorder = SampleRecorder(self._wants, ledger.told_peer if settings.peer_address else None)
        self._recorders = Recorders(lambda: self._instruments is not None and self._instruments.is_collecting())
        self._is_cut_off = False
        self._reading_fuse = Fuse("the reading of the books", self._fall_silent)
        self._fuse = Fuse("the recording of metrics", self._let_nothing_gather)
        self._samples = ledger.samples
        self._tallied: deque[Any] = deque()
        self._samples.tallied = self._tallied

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
        if self._samples.tallied is self._tallied:  # and not that of an emitter that install() has made meanwhile
            self._samples.tallied = deque(maxlen=0)

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
                observations(metric, totals) if metric.kind == "counter" and self._wants(metric) else ()
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
        return observations(metric, self._readings)

    # Histograms

    def flush(self, *, can_wait: bool = False) -> None:
        """Tally and record the samples that have gathered; drop them then where no SDK would take them.

        Args:
            can_wait: leave them for later if a thread is about to fork.
        """
        tallied = self._samples.tallied
        me = threading.get_ident()
        if me in self._recorders.recording:
            # A finaliser's request, while the SDK holds its own lock for this thread. Or a child that was forked by a
            # signal handler in the middle of it, and that goes on from there: it must not keep all that comes.
            if len(self._samples.waiting) > _TOO_MANY:
                self._samples.waiting.clear()
            return
        if can_wait and self._recorders.should_wait():
            return
        try:
            self._recorders.recording.add(me)
            if can_wait and self._recorders.should_wait():  # one that has not seen this thread
                return
            self._ledger.drain()
            instruments = self._stand_ins
            if instruments is None or not is_unset(metrics.get_meter_provider()):
                instruments = self._instruments
            if self._fuse.is_blown or instruments is None or not instruments.has_sdk():
                tallied.clear()
                self._tell_if_cut_off()
                return
            self._sample_recorder.record(tallied, instruments.histograms)
        except Exception:
            self._fuse.blow()
        finally:
            self._recorders.recording.discard(me)

    def _tell_if_cut_off(self) -> None:
        if self._is_cut_off:
            self._is_cut_off = False
            log.warning(
                "this process records no histograms: it was forked while another thread held a lock of OpenTelemetry's "
                "SDK, which nobody can release here; let each process set up providers of its own, or use `export`"
            )
