"""Lets providers of our own stand in where the application has none, in each process that has a pool.

Not sooner: what a server's parent process has started, threads and connections, its children could only inherit broken.
"""

from __future__ import annotations

import logging

from opentelemetry import metrics, trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from ._errors import unexplained
from ._faults import let_signals_pass
from ._metrics import MetricsEmitter
from ._providers import is_unset
from ._settings import Settings
from ._spans import SpanObserver

log = logging.getLogger("pool_telemetry")


def check_exporters(
    settings: Settings, tracer_provider: TracerProvider | None, meter_provider: MeterProvider | None
) -> None:
    """Find out whether the exporters are there that would be needed now.

    Raises:
        MissingExporterError: the package of one is not installed.
    """
    from . import _export

    _export.check_exporters(
        traces=settings.spans != "off" and _lacks_tracers(tracer_provider),
        metrics=settings.metrics != "off" and _lacks_meters(meter_provider),
    )


def _lacks_tracers(given: TracerProvider | None) -> bool:
    return given is None and is_unset(trace.get_tracer_provider())


def _lacks_meters(given: MeterProvider | None) -> bool:
    return given is None and is_unset(metrics.get_meter_provider())


class StandIns:
    """Gives the observer and the emitter the providers that the environment asks for.

    Args:
        settings: whether any are wanted.
        observer: makes spans, if there are any.
        emitter: makes metrics, if there are any.
        tracer_provider: that of the application; with one there is no need for a stand-in.
        meter_provider: likewise.
    """

    def __init__(
        self,
        settings: Settings,
        observer: SpanObserver | None,
        emitter: MetricsEmitter | None,
        tracer_provider: TracerProvider | None,
        meter_provider: MeterProvider | None,
    ) -> None:
        self._settings = settings
        self._observer = observer
        self._emitter = emitter
        self._given = tracer_provider, meter_provider
        self.is_wanted = settings.export

    def provide(self) -> None:
        """Make this process's providers, if they are wanted and the application has none, or log once why not."""
        if not self.is_wanted:
            return
        tracer_provider, meter_provider = self._given
        try:
            from . import _export

            # All before any is used, so that nothing is half set up.
            check_exporters(self._settings, *self._given)
            tracers = _export.tracer_provider() if self._observer and _lacks_tracers(tracer_provider) else None
            meters = _export.meter_provider() if self._emitter and _lacks_meters(meter_provider) else None
            self._let_stand_in(tracers, meters)
        except Exception as error:
            let_signals_pass()
            self.is_wanted = False
            self.withdraw()
            log.warning("nothing is exported from this process: %s", error, exc_info=unexplained(error))

    def withdraw(self) -> None:
        """Let none stand in: those of a parent process are left to the parent."""
        self._let_stand_in(None, None)

    def _let_stand_in(self, tracers: TracerProvider | None, meters: MeterProvider | None) -> None:
        if self._observer is not None:
            self._observer.let_stand_in(tracers)
        if self._emitter is not None:
            self._emitter.let_stand_in(meters)
