"""Lets providers of our own stand in where the application has none, in each process anew."""

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
        self.is_wanted = False

    def provide(self) -> None:
        """Make this process's providers, if they are wanted, and where the application has set none.

        Raises:
            MissingExporterError: the package of an exporter is not installed.
        """
        if not self.is_wanted:
            return
        from . import _export

        observer = self._observer if is_unset(trace.get_tracer_provider()) else None
        emitter = self._emitter if is_unset(metrics.get_meter_provider()) else None
        # Both before anything is made, so that nothing is half set up.
        _export.check_exporters(traces=observer is not None, metrics=emitter is not None)
        is_fork = os.getpid() != self._started_in
        if observer is not None:
            observer.let_stand_in(_export.tracer_provider(is_fork=is_fork))
        if emitter is not None:
            emitter.let_stand_in(_export.meter_provider(is_fork=is_fork))

    def withdraw(self) -> None:
        """Leave those of the parent process to the parent."""
        if self._observer is not None:
            self._observer.let_stand_in(None)
        if self._emitter is not None:
            self._emitter.let_stand_in(None)

    def provide_for_child(self) -> None:
        """Make a forked child's providers, or log once why there are none."""
        self.withdraw()
        try:
            self.provide()
        except Exception as error:
            self.is_wanted = False
            cause = None if isinstance(error, EXPLAINED) else error
            log.warning("nothing is exported from this process: %s", error, exc_info=cause)
