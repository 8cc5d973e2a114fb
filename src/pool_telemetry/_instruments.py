"""The instruments of a meter provider, made once, and answered by whoever is installed at the time."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import ClassVar

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, NoOpMeterProvider, Observation

from . import _semconv as names
from ._faults import Fuse, let_signals_pass
from ._providers import is_api_only
from ._semconv import Metric
from ._version import __version__

#: Who answers the callbacks: with the points of one observable instrument.
Source = Callable[[Metric], Iterable[Observation]]


class Instruments:
    """The instruments of one meter provider, made once: a second observable of the same name would stay mute.

    Attributes:
        source: who answers the callbacks; nobody does after ``uninstall()``.
    """

    _made: ClassVar[weakref.WeakKeyDictionary[MeterProvider, Instruments]] = weakref.WeakKeyDictionary()
    _cut_off: ClassVar[weakref.WeakSet[MeterProvider]] = weakref.WeakSet()

    def __init__(self, meter_provider: MeterProvider) -> None:
        self._provider = weakref.ref(meter_provider)
        self._meter: Meter = metrics.get_meter(names.SCOPE, __version__, meter_provider, schema_url=names.SCHEMA_URL)
        self._observables: set[str] = set()
        self.histograms: dict[str, Histogram] = {}
        self.source: Source | None = None

    @classmethod
    def of(cls, meter_provider: MeterProvider | None) -> Instruments:
        """The instruments of a provider, of the global one if ``None``."""
        provider = meter_provider or metrics.get_meter_provider()
        instruments = cls._made.get(provider)
        if instruments is None and provider is metrics.get_meter_provider():
            # What was made before the provider was set hangs on the API's proxy, which now hands on to this one.
            proxied = [each for each in cls._made if is_api_only(each) and not isinstance(each, NoOpMeterProvider)]
            instruments = cls._made[proxied[0]] if proxied else None
        if instruments is None:
            instruments = cls._made[provider] = cls(provider)
        return instruments

    def ensure(self, wanted: Iterable[Metric]) -> None:
        """Make those instruments that are not there yet."""
        if self._sdk() in self._cut_off:
            return
        for metric in wanted:
            if metric.kind == "histogram":
                if metric.name not in self.histograms:
                    self.histograms[metric.name] = self._meter.create_histogram(
                        metric.name,
                        metric.unit,
                        metric.description,
                        explicit_bucket_boundaries_advisory=metric.buckets,
                    )
            elif metric.name not in self._observables:
                self._observables.add(metric.name)
                create = getattr(self._meter, f"create_observable_{metric.kind}")
                create(metric.name, [self._callback(metric)], metric.unit, metric.description)

    def has_sdk(self) -> bool:
        """Whether somebody takes what is recorded: not the API alone, whose instruments do nothing."""
        provider = self._sdk()
        return provider is not None and provider not in self._cut_off

    def is_collecting(self) -> bool:
        """Whether the SDK is in the midst of a collection, as far as it is built as is known of 1.30 to 1.45."""
        consumer = getattr(self._sdk(), "_measurement_consumer", None)
        try:
            return bool(consumer is not None and consumer._lock.locked())
        except Exception:
            let_signals_pass()
            return False

    def cut_off(self) -> bool:
        """Leave the SDK's provider alone in this process, as its locks are locked for good; whether there is one."""
        provider = self._sdk()
        if provider is not None:
            self._cut_off.add(provider)
        return provider is not None

    def _sdk(self) -> MeterProvider | None:
        provider = self._provider()
        if provider is not None and is_api_only(provider):
            provider = metrics.get_meter_provider()
        return None if provider is None or is_api_only(provider) else provider

    def _callback(self, metric: Metric) -> Callable[[CallbackOptions], Iterable[Observation]]:
        fuse = Fuse(f"the callback of {metric.name}", lambda: None)

        def callback(_: CallbackOptions) -> Iterable[Observation]:
            source = self.source
            if source is None or fuse.is_blown:
                return ()
            try:
                return source(metric)
            except Exception:
                fuse.blow()
                return ()

        return callback
