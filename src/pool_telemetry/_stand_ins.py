"""Lets providers of our own stand in where the application has none, in each process that has a pool.

Not sooner: what a server's parent process has started, threads and connections, its children could only inherit broken.
"""

from __future__ import annotations

import logging
import os
import sys

from opentelemetry import metrics, trace
from opentelemetry.metrics import MeterProvider
from opentelemetry.trace import TracerProvider

from ._children import before_child_ends
from ._discretion import told
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


def flush_exporters() -> None:
    """Send what this process's own providers have not sent yet, or log why that could not be done."""
    exporting = sys.modules.get(f"{__package__}._export")  # there if anything was to be exported
    if exporting is None:
        return
    try:
        exporting.flush()
    except Exception as error:
        let_signals_pass()
        log.warning("what is left has not been sent: %s", told(error))


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
        self._observer = observer
        self._emitter = emitter
        self._given = tracer_provider, meter_provider
        self._provided_in: int | None = None
        self.is_wanted = settings.export

    def provide(self) -> None:
        """Make this process's providers, if they are wanted and the application has none, or log once why not."""
        process = os.getpid()
        if not self.is_wanted or self._provided_in == process:
            return
        tracer_provider, meter_provider = self._given
        # Each for itself: an exporter that cannot be made is no reason to go without the other.
        if self._observer is not None:
            self._let_stand_in("spans", self._observer, _lacks_tracers(tracer_provider))
        if self._emitter is not None:
            self._let_stand_in("metrics", self._emitter, _lacks_meters(meter_provider))
        self._provided_in = process
        before_child_ends(flush_exporters)

    def _let_stand_in(self, what: str, user: SpanObserver | MetricsEmitter, is_lacking: bool) -> None:
        try:
            from . import _export

            if isinstance(user, SpanObserver):
                user.let_stand_in(_export.tracer_provider() if is_lacking else None)
            else:
                user.let_stand_in(_export.meter_provider() if is_lacking else None)
        except Exception as error:
            let_signals_pass()
            user.let_stand_in(None)
            log.warning("no %s are exported from this process: %s", what, told(error))

    def withdraw(self) -> None:
        """Let none stand in: those of a parent process are left to the parent."""
        for user in (self._observer, self._emitter):
            if user is not None:
                user.let_stand_in(None)
