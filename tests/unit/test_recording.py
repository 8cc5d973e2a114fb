"""Many samples of one point are recorded as the SDK's ``record()`` records them, and without it where that is known."""

from __future__ import annotations

import dataclasses
import random
from collections import deque
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import Histogram, NoOpMeterProvider, _internal
from opentelemetry.sdk.metrics import (
    AlwaysOffExemplarFilter,
    AlwaysOnExemplarFilter,
    MeterProvider,
    TraceBasedExemplarFilter,
)
from opentelemetry.sdk.metrics import Histogram as SdkHistogram
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import (
    DropAggregation,
    ExplicitBucketHistogramAggregation,
    ExponentialBucketHistogramAggregation,
    View,
)
from opentelemetry.trace import propagation

from pool_telemetry._recording import record_all

ATTRIBUTES = {"server.address": "host", "server.port": 80, "otel.metric.overflow": True}
OTHERS = {**ATTRIBUTES, "server.port": 81}
Samples = list[tuple[float, Context]]


def in_span(number: int, *, is_sampled: bool = True) -> Context:
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED if is_sampled else trace.TraceFlags.DEFAULT)
    span = trace.NonRecordingSpan(trace.SpanContext(number, number, is_remote=False, trace_flags=flags))
    return Context({propagation._SPAN_KEY: span})


def samples_of(count: int) -> Samples:
    outside = Context({propagation._SPAN_KEY: trace.INVALID_SPAN})
    contexts = [in_span(7), in_span(8, is_sampled=False), outside]
    return [(number * 0.37, in_span(100 + number) if number % 4 else contexts[number % 3]) for number in range(count)]


def one_by_one(histogram: Histogram, attributes: dict[str, Any], samples: Samples) -> None:
    for value, context in samples:
        histogram.record(value, attributes, context)


def together(histogram: Histogram, attributes: dict[str, Any], samples: Samples) -> None:
    left = deque(samples)
    record_all(histogram, attributes, left, lambda sample: sample)
    assert not left


def plain(reader: InMemoryMetricReader) -> Any:
    """What has come of it, but for the times."""
    found = reader.get_metrics_data()
    points: list[Any] = []
    for resource in found.resource_metrics if found else ():
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                points += [(metric.name, _timeless(point)) for point in metric.data.data_points]
    return points


def _timeless(point: Any) -> dict[str, Any]:
    fields = {field.name: getattr(point, field.name) for field in dataclasses.fields(point)}
    fields["exemplars"] = [(each.value, each.trace_id, each.span_id) for each in point.exemplars]
    return {name: value for name, value in fields.items() if "time" not in name}


DELTA = {SdkHistogram: AggregationTemporality.DELTA}
PROVIDERS: dict[str, Callable[[], tuple[MeterProvider, list[InMemoryMetricReader]]]] = {}


def provider(name: str, readers: int = 1, temporality: Any = None, **settings: Any) -> None:
    def make() -> tuple[MeterProvider, list[InMemoryMetricReader]]:
        found = [InMemoryMetricReader(preferred_temporality=temporality) for _ in range(readers)]
        return MeterProvider(found, **settings), found

    PROVIDERS[name] = make


provider("as it comes")
provider("delta", temporality=DELTA)
provider("two readers", readers=2)
provider("every exemplar", exemplar_filter=AlwaysOnExemplarFilter())
provider("no exemplar", exemplar_filter=AlwaysOffExemplarFilter())
provider("exemplars of traces", exemplar_filter=TraceBasedExemplarFilter())
provider("fewer attributes", views=[View(instrument_name="h", attribute_keys={"server.address"})])
provider("no attributes", views=[View(instrument_name="h", attribute_keys=set())])
provider("other buckets", views=[View(instrument_name="h", aggregation=ExplicitBucketHistogramAggregation([1, 2]))])
provider("exponential", views=[View(instrument_name="h", aggregation=ExponentialBucketHistogramAggregation())])
provider("dropped", views=[View(instrument_name="h", aggregation=DropAggregation())])
provider("two views", views=[View(instrument_name="h", name="a"), View(instrument_name="h", name="b")])


@pytest.mark.parametrize("name", PROVIDERS)
@pytest.mark.parametrize("count", [1, 7, 8, 100])
def test_together_they_are_recorded_as_one_by_one(name: str, count: int) -> None:
    def outcome(record: Callable[[Histogram, dict[str, Any], Samples], None]) -> list[Any]:
        meter_provider, readers = PROVIDERS[name]()
        histogram = meter_provider.get_meter("m").create_histogram("h", "s")
        told = []
        random.seed(1)  # the exemplars of exponential histograms are drawn by lot
        for _ in range(2):  # the second time everything is there already
            record(histogram, OTHERS, samples_of(3))
            record(histogram, ATTRIBUTES, samples_of(count))
            told += [plain(reader) for reader in readers]
        meter_provider.shutdown()
        return told

    expected = outcome(one_by_one)
    assert outcome(together) == expected
    assert any(expected) or name == "dropped"


def recorded(histogram: Histogram, count: int) -> int:
    """How often ``record()`` was called for so many samples."""
    with patch.object(SdkHistogram, "record", autospec=True, side_effect=SdkHistogram.record) as record:
        together(histogram, ATTRIBUTES, samples_of(count))
    return record.call_count


@pytest.mark.parametrize("name", [name for name in PROVIDERS if name != "no attributes"])
def test_the_short_way_is_taken(name: str) -> None:
    meter_provider, _ = PROVIDERS[name]()
    histogram = meter_provider.get_meter("m").create_histogram("h")
    assert recorded(histogram, 7) == 7, "of few the search is not worth it"
    assert recorded(histogram, 100) == 1


def test_of_a_provider_that_is_set_later_too() -> None:
    proxy = _internal._ProxyMeterProvider()
    histogram = proxy.get_meter("m").create_histogram("h")
    together(histogram, ATTRIBUTES, samples_of(20))
    meter_provider, (reader,) = PROVIDERS["as it comes"]()
    proxy.on_set_meter_provider(meter_provider)
    assert recorded(histogram, 20) == 1
    ((_, point),) = plain(reader)
    assert point["count"] == 20


def test_without_an_sdk_nothing_happens() -> None:
    together(NoOpMeterProvider().get_meter("m").create_histogram("h"), ATTRIBUTES, samples_of(20))


@pytest.mark.parametrize(
    "name", ["_measurement_consumer", "_reader_storages", "_sdk_config", "_attributes_aggregation"]
)
def test_an_sdk_that_is_built_otherwise_gets_every_sample_by_record(name: str) -> None:
    meter_provider, (reader,) = PROVIDERS["as it comes"]()
    histogram: Any = meter_provider.get_meter("m").create_histogram("h")
    recorded(histogram, 1)
    consumer = histogram._measurement_consumer
    (storage,) = consumer._reader_storages.values()
    ((match,),) = storage._instrument_view_instrument_matches.values()
    owner = next(each for each in (histogram, consumer, match) if name in vars(each))
    hidden = vars(owner)[name]

    def record(instrument: Any, *arguments: Any) -> None:
        vars(owner)[name] = hidden
        original(instrument, *arguments)
        del vars(owner)[name]

    original = SdkHistogram.record
    del vars(owner)[name]
    with patch.object(SdkHistogram, "record", record):
        together(histogram, ATTRIBUTES, samples_of(20))
    vars(owner)[name] = hidden
    ((_, point),) = plain(reader)
    assert point["count"] == 21


def test_an_exception_in_between_leaves_the_samples_that_follow() -> None:
    meter_provider, (reader,) = PROVIDERS["as it comes"]()
    histogram = meter_provider.get_meter("m").create_histogram("h")
    left = deque(range(30))

    def measure(number: int) -> tuple[float, Context]:
        if number == 12:
            raise KeyboardInterrupt
        return number, in_span(1)

    with pytest.raises(KeyboardInterrupt):
        record_all(histogram, ATTRIBUTES, left, measure)
    assert list(left) == list(range(13, 30))
    ((_, point),) = plain(reader)
    assert point["count"] == 12
