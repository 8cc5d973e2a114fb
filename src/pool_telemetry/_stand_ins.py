"""Lets providers of our own stand in where the application has none, in each process that has a pool.

Not sooner: what a server's parent process has started, threads and connections, its children could only inherit broken.
"""

from __future__ import annotations

import logging
import os

from opentelemetry import metrics, trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from ._errors import EXPLAINED
from ._metrics import MetricsEmitter
from ._providers import is_unset
from ._spans import SpanObserver

log = logging.getLogger("pool_telemetry")


class StandIns:
    """Gives the observer and the emitter the providers that the environment asks for.

    Args:
        observer: makes spans, if there are any.
        emitter: makes metrics, if there are any.
        tracer_provider: that of the application; with one there is no need for a stand-in.
        meter_provider: likewise.
        started_in: the process that has imported the library; another one is its child.
    """

    def __init__(
        self,
        observer: SpanObserver | None,
        emitter: MetricsEmitter | None,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
        started_in: int,
    ) -> None:
        self._observer = observer if tracer_provider is None else None
        self._emitter = emitter if meter_provider is None else None
        self._started_in = started_in
        self._provided_in: int | None = None
        self.is_wanted = False

    def check(self) -> None:
        """Find out whether the exporters are there that are wanted.

        Raises:
            MissingExporterError: the package of one is not installed.
        """
        if self.is_wanted:
            from ._export import check_exporters

            check_exporters(traces=self._lacks_tracers(), metrics=self._lacks_meters())

    def provide(self) -> None:
        """Make this process's providers, if they are wanted, and where the application has set none.

        Raises:
            MissingExporterError: the package of an exporter is not installed.
            ValueError: the SDK does not like an ``OTEL_*`` variable.
        """
        if self.is_wanted:
            from . import _export

            # All before any is used, so that nothing is half set up.
            self.check()
            is_fork = os.getpid() != self._started_in
            tracers = _export.tracer_provider(is_fork=is_fork) if self._lacks_tracers() else None
            meters = _export.meter_provider(is_fork=is_fork) if self._lacks_meters() else None
            self._let_stand_in(tracers, meters)

    def withdraw(self) -> None:
        """Let none stand in: those of a parent process are left to the parent."""
        self._let_stand_in(None, None)

    def _lacks_tracers(self) -> bool:
        return self._observer is not None and is_unset(trace.get_tracer_provider())

    def _lacks_meters(self) -> bool:
        return self._emitter is not None and is_unset(metrics.get_meter_provider())

    def _let_stand_in(self, tracers: TracerProvider | None, meters: MeterProvider | None) -> None:
        if self._observer is not None:
            self._observer.let_stand_in(tracers)
        if self._emitter is not None:
            self._emitter.let_stand_in(meters)

    def provide_or_log(self) -> None:
        """Make this process's providers at its first pool, or log once why there are none."""
        process = os.getpid()
        if self._provided_in == process:  # several threads have come with their first pool
            return
        self._provided_in = process
        try:
            self.provide()
        except Exception as error:
            self.is_wanted = False
            self.withdraw()
            cause = None if isinstance(error, EXPLAINED) else error
            log.warning("nothing is exported from this process: %s", error, exc_info=cause)
