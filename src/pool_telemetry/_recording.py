"""Recording many samples of one point of a histogram, at the price of the SDK's aggregation alone.

The SDK's ``record()`` copies, checks and hashes the attributes of every sample to find the point's aggregations, which
takes three times as long as the rest. Here they are looked for once for all samples of a point. Nothing of this is the
SDK's public API: wherever it is not built as is known of 1.30 to 1.45, every sample goes through ``record()``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from time import time_ns
from typing import Any, NamedTuple, TypeVar

from opentelemetry.context import Context
from opentelemetry.metrics import Histogram

from ._faults import let_signals_pass
from ._semconv import Attributes

Sample = TypeVar("Sample")
#: Samples of a point; for fewer the search takes as long as it spares.
_WORTHWHILE = 8


class _Measurement(NamedTuple):
    """What an aggregation asks a measurement of the SDK's for."""

    value: float
    time_unix_nano: int
    instrument: Any
    context: Context
    attributes: Attributes


def record_all(
    histogram: Histogram,
    attributes: Attributes,
    samples: deque[Sample],
    measure: Callable[[Sample], tuple[float, Context]],
) -> None:
    """Record all samples of one point.

    Args:
        histogram: of any provider.
        attributes: the point's.
        samples: each is taken out just before it is recorded: an exception of a signal handler leaves the others.
        measure: gives a sample's value, and the context to which its exemplar is to lead.
    """
    shortcut = None
    if len(samples) >= _WORTHWHILE:
        value, context = measure(samples.popleft())
        histogram.record(value, attributes, context)  # makes the aggregations that are not there yet
        shortcut = _Shortcut.to(histogram, attributes)
    while samples:
        value, context = measure(samples.popleft())
        if shortcut is None:
            histogram.record(value, attributes, context)
            continue
        measurement = _Measurement(value, time_ns(), shortcut.instrument, context, attributes)
        is_sampled = shortcut.should_sample(value, measurement.time_unix_nano, attributes, context)
        for aggregation in shortcut.aggregations:
            aggregation.aggregate(measurement, is_sampled)


class _Shortcut(NamedTuple):
    """The aggregations of one point, of each reader and view, and the filter of exemplars."""

    instrument: Any
    aggregations: tuple[Any, ...]
    should_sample: Any

    @classmethod
    def to(cls, histogram: Any, attributes: Attributes) -> _Shortcut | None:
        """``None`` where there is anything but what is known, or an instrument that is switched off."""
        try:
            # The API's proxy has one of the SDK's.
            instrument = getattr(histogram, "_real_instrument", None) or histogram
            if not type(instrument).__module__.startswith("opentelemetry.sdk.metrics."):
                return None
            is_enabled = getattr(instrument, "_is_enabled", None)
            if is_enabled is not None and not is_enabled():
                return None
            consumer = instrument._measurement_consumer
            matches = [
                match
                for storage in consumer._reader_storages.values()
                for match in storage._instrument_view_instrument_matches[instrument]
            ]
            found = tuple(_aggregation(match, attributes) for match in matches)
            return cls(instrument, found, consumer._sdk_config.exemplar_filter.should_sample)
        except Exception:
            let_signals_pass()
            return None


def _aggregation(match: Any, attributes: Attributes) -> Any:
    """That of a point, in what one view makes of an instrument.

    Raises:
        ValueError: there is none, or more than one.
    """
    names = match._view._attribute_keys
    kept = attributes if names is None else {name: value for name, value in attributes.items() if name in names}
    (found,) = [each for each in tuple(match._attributes_aggregation.values()) if each._attributes == kept]
    return found
