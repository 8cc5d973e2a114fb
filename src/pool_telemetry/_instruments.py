"""The instruments of a meter provider, made once, and answered by whoever is installed at the time."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import ClassVar

from opentelemetry import metrics
from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, NoOpMeterProvider, Observation

from . import _semconv as names
from ._faults import Fuse
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
        provider = self._provider()
        if provider is not None and is_api_only(provider):
            provider = metrics.get_meter_provider()
        return provider is not None and not is_api_only(provider)

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
