"""Metrics: which there are, what they carry, and that they agree with each other."""

from __future__ import annotations

import gc
import logging
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest
import urllib3
from opentelemetry import metrics as otel_metrics
from opentelemetry.metrics import CallbackOptions, NoOpMeter, Observation
from opentelemetry.sdk.metrics import Counter as SdkCounter
from opentelemetry.sdk.metrics import Histogram as SdkHistogram
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics import ObservableCounter as SdkObservableCounter
from opentelemetry.sdk.metrics.export import AggregationTemporality, Gauge, Histogram, InMemoryMetricReader, Sum

import pool_telemetry
from misbehaving import Server
from pool_telemetry import _instrument, _watch
from tests.support import Metrics, Telemetry, check_laws, manager

IS_LINUX = sys.platform == "linux"
linux_only = pytest.mark.skipif(not IS_LINUX, reason="missing: TCP_INFO, which is Linux's")

# As the contract has them, on purpose not taken from the code.
IDLE = "0.01 0.05 0.1 0.5 1.05 2.1 3.15 5.25 10.5 15.75 21 31.5 47 63 68 79 95 126 189 315 368 630 1890 3700"
SET_UP = "0.001 0.0025 0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 5 10"
LIFE = "0.01 0.02 0.05 0.1 0.2 0.5 1 2 5 10 30 60 120 300"
REQUESTS = "1 2 5 10 20 50 100 200 500 1000 5000"
COUNTERS = {
    "urllib3.pool.checkouts": "{checkout}",
    "urllib3.pool.dropped_connections": "{connection}",
    "urllib3.pool.opened_connections": "{connection}",
    "urllib3.pool.closed_connections": "{connection}",
    "urllib3.pool.leaked_connections": "{connection}",
    "urllib3.pool.creations": "{pool}",
}
LEVELS = {
    "http.client.open_connections": "{connection}",
    "urllib3.pool.socket.count": "{connection}",
    "urllib3.pool.pending_requests": "{request}",
    "urllib3.pool.size": "{connection}",
    "urllib3.pool.count": "{pool}",
}
GAUGES = {"urllib3.pool.close_wait.age": "s", "urllib3.pool.active.peak": "{connection}"}
HISTOGRAMS = {
    "urllib3.connection.idle.duration": ("s", IDLE),
    "urllib3.connection.remote_close.duration": ("s", IDLE),
    "urllib3.connection.setup.duration": ("s", SET_UP),
    "urllib3.pool.wait.duration": ("s", SET_UP),
}
MORE_COUNTERS = {"urllib3.pool.use.time": "s"}
MORE_HISTOGRAMS = {
    "urllib3.connection.setup.phase.duration": ("s", SET_UP),
    "urllib3.connection.close_wait.duration": ("s", IDLE),
    "http.client.connection.duration": ("s", LIFE),
    "urllib3.connection.requests": ("{request}", REQUESTS),
}
CORE = {*COUNTERS, *LEVELS, *GAUGES, *HISTOGRAMS}
ALL = CORE | {*MORE_COUNTERS, *MORE_HISTOGRAMS}

OUTCOMES = {"reused", "new", "replaced", "timed_out", "pool_closed"}
REASONS = {"timed_out", "reset", "fin", "close_notify", "unexpected_data", "unknown"}
CLOSES = {
    *("dropped", "lost_race", "response_close", "discarded"),
    *("failed", "pool_closed", "abandoned", "unknown"),
}
FURTHER = {
    "urllib3.pool.checkouts": {"urllib3.pool.checkout.outcome"},
    "urllib3.pool.dropped_connections": {"urllib3.connection.drop.reason", "urllib3.connection.drop.phase"},
    "urllib3.pool.closed_connections": {"urllib3.connection.close.reason"},
    "http.client.open_connections": {"http.connection.state", "network.protocol.version"},
    "urllib3.pool.socket.count": {"http.connection.state", "network.connection.state"},
    "urllib3.connection.idle.duration": {"urllib3.pool.checkout.outcome"},
    "urllib3.connection.setup.duration": {"urllib3.connection.setup.cause"},
    "urllib3.pool.size": {"urllib3.pool.block"},
    "urllib3.connection.setup.phase.duration": {"urllib3.connection.setup.phase"},
    "http.client.connection.duration": {"network.protocol.version"},
}


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


def exercise(server: Server, block: bool = True) -> Any:
    """Make something of everything happen; gives the manager, in whose pool a connection lies."""
    http = manager(block=block, maxsize=1)
    for path in ("/ok", "/fin/0.02", "/ok", "/close", "/lost", "/lost", "/fin/0.02", "/ok"):
        ended = sum(server.books.ended.values())
        http.request("GET", server.url + path)
        if path.startswith("/fin"):
            server.wait_for(lambda books, ended=ended: sum(books.ended.values()) > ended)  # type: ignore[misc]  # mypy infers no type for its default
            time.sleep(0.02)
    return http


def park_close_wait(server: Server, http: Any) -> None:
    """Leave a connection in the pool whose peer has hung up."""
    http.request("GET", f"{server.url}/ok")
    server.connections[-1].fin()
    time.sleep(0.02)


def borders(text: str) -> tuple[float, ...]:
    return tuple(float(each) for each in text.split())


def unmarked(things: Iterable[Any]) -> bool:
    return not any(key.startswith("_pool_telemetry") for thing in things for key in vars(thing))


# The catalogue


@linux_only
@pytest.mark.parametrize(("setting", "names"), [("off", set()), ("core", CORE), ("all", ALL)])
def test_there_are_the_metrics_that_were_asked_for(
    telemetry: Telemetry, server: Server, setting: str, names: set[str]
) -> None:
    telemetry.install(metrics=setting)
    http = exercise(server)
    assert telemetry.collect().names == names
    assert http.request("GET", f"{server.url}/ok").data == b"ok"


@linux_only
def test_each_metric_has_its_instrument_unit_and_attributes(telemetry: Telemetry, server: Server) -> None:
    telemetry.install(metrics="all")
    http = exercise(server)
    metrics = telemetry.collect()
    assert http is not None
    for name, unit in {**COUNTERS, **LEVELS, **MORE_COUNTERS}.items():
        metric = metrics.metric(name)
        assert isinstance(metric.data, Sum), name
        assert metric.data.is_monotonic == (name not in LEVELS), name
        assert metric.data.aggregation_temporality is AggregationTemporality.CUMULATIVE, name
        assert metric.unit == unit, name
    for name, unit in GAUGES.items():
        assert isinstance(metrics.metric(name).data, Gauge), name
        assert metrics.metric(name).unit == unit, name
    for name, (unit, wanted) in {**HISTOGRAMS, **MORE_HISTOGRAMS}.items():
        metric = metrics.metric(name)
        assert isinstance(metric.data, Histogram), name
        assert metric.data.aggregation_temporality is AggregationTemporality.CUMULATIVE, name
        assert metric.unit == unit, name
        for point in metrics.points(name):
            assert tuple(point.explicit_bounds) == borders(wanted), name
    upstream = {"server.address": "127.0.0.1", "server.port": server.port, "url.scheme": "http"}
    for name in ALL:
        assert metrics.metric(name).description, name
        for point in metrics.points(name):
            attributes = dict(point.attributes)
            assert {key: attributes.pop(key, None) for key in upstream} == upstream, name
            assert attributes.keys() == FURTHER.get(name, set()), name


def test_the_scope_is_ours(telemetry: Telemetry, server: Server) -> None:
    telemetry.install()
    manager().request("GET", f"{server.url}/ok")
    data: Any = telemetry.reader.get_metrics_data()
    ((scope,),) = [[each.scope for each in resource.scope_metrics] for resource in data.resource_metrics]
    assert (scope.name, scope.version) == ("pool_telemetry", pool_telemetry.__version__)
    assert scope.schema_url == "https://opentelemetry.io/schemas/1.44.0"


def test_failures_and_they_alone_carry_an_error_type(telemetry: Telemetry, server: Server) -> None:
    telemetry.install(metrics="all")
    with urllib3.HTTPConnectionPool("127.0.0.1", server.port, maxsize=1, block=True) as pool:
        conn = pool._get_conn()
        with pytest.raises(urllib3.exceptions.EmptyPoolError):
            pool._get_conn(timeout=0.01)
        pool._put_conn(conn)
        pool.urlopen("GET", "/ok")
    metrics = telemetry.collect()
    waits = {point.attributes.get("error.type"): point for point in metrics.points("urllib3.pool.wait.duration")}
    assert waits.keys() == {None, "urllib3.exceptions.EmptyPoolError"}
    assert waits[None].count == 2
    assert waits["urllib3.exceptions.EmptyPoolError"].min >= 0.01
    assert metrics.by("urllib3.pool.checkouts", "outcome") == {"new": 2, "timed_out": 1}


def test_a_thread_that_waits_is_pending(telemetry: Telemetry, server: Server) -> None:
    telemetry.install()
    with urllib3.HTTPConnectionPool("127.0.0.1", server.port, maxsize=1, block=True) as pool:
        conn = pool._get_conn()
        waiter = threading.Thread(target=lambda: pool.urlopen("GET", "/ok"))
        waiter.start()
        deadline = time.monotonic() + 60
        while not telemetry.collect().value("urllib3.pool.pending_requests"):
            assert time.monotonic() < deadline
        assert telemetry.collect().value("urllib3.pool.pending_requests") == 1
        pool._put_conn(conn)
        waiter.join()
        metrics = telemetry.collect()
        assert metrics.value("urllib3.pool.pending_requests") == 0
        assert metrics.value("urllib3.pool.active.peak") == 1
        assert metrics.value("urllib3.pool.size", block=True) == 1


def test_a_leak_is_counted_and_nothing_else_is_one(telemetry: Telemetry, server: Server) -> None:
    telemetry.install()
    with urllib3.HTTPConnectionPool("127.0.0.1", server.port, maxsize=2) as pool:
        response = pool.urlopen("GET", "/big/100000", preload_content=False)
        del response
        gc.collect()
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=1)
        assert metrics.value("urllib3.pool.leaked_connections") == 1
        assert metrics.by("urllib3.pool.closed_connections", "reason") == {"abandoned": 1}
        with pytest.raises(urllib3.exceptions.HTTPError):
            pool.urlopen("GET", "/garbage", retries=False)
        response = pool.urlopen("GET", "/big/100000", preload_content=False)
    del pool, response
    gc.collect()
    assert telemetry.collect().value("urllib3.pool.leaked_connections") == 1


def test_peak_and_use_time_tell_what_was_out(telemetry: Telemetry, server: Server) -> None:
    telemetry.install(metrics="all")
    with urllib3.HTTPConnectionPool("127.0.0.1", server.port, maxsize=3) as pool:
        out = [pool.urlopen("GET", "/big/9", preload_content=False) for _ in range(3)]
        active = telemetry.collect()
        assert active.value("http.client.open_connections", http__connection__state="active") == 3
        time.sleep(0.05)
        for response in out:
            response.read()
            response.release_conn()
        metrics = telemetry.collect()
        assert metrics.value("http.client.open_connections", http__connection__state="active") == 0
        assert metrics.value("http.client.open_connections", http__connection__state="idle") == 3
        assert metrics.value("urllib3.pool.active.peak") == 3
        assert 3 * 0.05 <= metrics.value("urllib3.pool.use.time") < 3 * 5


# Series


@linux_only
def test_series_are_born_at_zero(telemetry: Telemetry, server: Server) -> None:
    telemetry.install(metrics="all")
    with urllib3.HTTPConnectionPool("127.0.0.1", server.port) as pool:
        pool.urlopen("GET", "/ok")
        metrics = telemetry.collect()
    assert {each.attributes["urllib3.pool.checkout.outcome"] for each in metrics.points("urllib3.pool.checkouts")} == (
        OUTCOMES
    )
    drops = [each.attributes for each in metrics.points("urllib3.pool.dropped_connections")]
    assert {(each["urllib3.connection.drop.reason"], each["urllib3.connection.drop.phase"]) for each in drops} == {
        (reason, phase) for reason in REASONS for phase in ("checkout", "request")
    }
    closes = metrics.points("urllib3.pool.closed_connections")
    assert {each.attributes["urllib3.connection.close.reason"] for each in closes} == CLOSES
    for state in ("established", "close_wait"):
        (point,) = metrics.points(
            "urllib3.pool.socket.count", http__connection__state="idle", network__connection__state=state
        )
        assert point.value == (state == "established")
    for state in ("idle", "active"):
        (point,) = metrics.points(
            "http.client.open_connections", http__connection__state=state, network__protocol__version="1.1"
        )
        assert point.value == (state == "idle")
    for name in ("urllib3.pool.leaked_connections", "urllib3.pool.pending_requests", "urllib3.pool.close_wait.age"):
        (point,) = metrics.points(name)
        assert point.value == 0, name
    assert metrics.value("urllib3.pool.dropped_connections") == 0
    assert metrics.value("urllib3.pool.closed_connections") == 0


def test_series_are_there_when_the_first_connect_fails(telemetry: Telemetry) -> None:
    with Server() as gone:
        pass
    telemetry.install()
    with pytest.raises(urllib3.exceptions.HTTPError):
        manager().request("GET", f"{gone.url}/ok", retries=False)
    metrics = telemetry.collect()
    check_laws(metrics, checkouts=1)
    assert len(metrics.points("urllib3.pool.closed_connections")) == len(CLOSES)
    assert metrics.value("urllib3.pool.leaked_connections") == 0


def series(metrics: Metrics) -> set[tuple[Any, ...]]:
    return {(name, *sorted(point.attributes.items())) for name in metrics.names for point in metrics.points(name)}


@linux_only
def test_series_and_totals_outlive_their_pools_and_levels_fall_to_zero(
    telemetry: Telemetry, server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    # What caplog keeps of a retry holds the exception, that the frames, and those the pool.
    caplog.set_level(logging.ERROR, "urllib3.connectionpool")
    telemetry.install(metrics="all")
    http = exercise(server)
    park_close_wait(server, http)
    full = telemetry.collect()
    assert full.by("urllib3.pool.socket.count", "network.connection.state") == {"close_wait": 1}
    assert full.value("urllib3.pool.close_wait.age") > 0
    http.clear()
    del http
    gc.collect()
    empty = telemetry.collect()
    assert series(full) <= series(empty)
    for name in COUNTERS:
        if name != "urllib3.pool.closed_connections":
            assert empty.value(name) == full.value(name), name
    closed = "urllib3.pool.closed_connections"
    assert empty.value(closed) == full.value(closed) + 1 == full.value("urllib3.pool.opened_connections")
    for name in (*LEVELS, "urllib3.pool.close_wait.age"):
        assert empty.value(name) == 0, name
    assert full.value("urllib3.pool.active.peak") == empty.value("urllib3.pool.active.peak") == 1
    check_laws(empty, checkouts=server.books.requests)


class CountingPool(urllib3.HTTPConnectionPool):
    """Keeps count of its own checkouts."""

    checkouts: list[None]

    def _get_conn(self, timeout: Any = None) -> Any:
        self.checkouts.append(None)
        return super()._get_conn(timeout)


class Recording(otel_metrics.MeterProvider):
    """Keeps the callbacks, to see what each of them gives before the SDK adds it up."""

    def __init__(self) -> None:
        self.callbacks: dict[str, Callable[[CallbackOptions], Iterable[Observation]]] = {}

    def get_meter(self, name: str, *args: Any, **options: Any) -> Any:
        return RecordingMeter(name, self.callbacks)


class RecordingMeter:
    """Of what a meter can make, that which this library has made."""

    def __init__(self, name: str, callbacks: dict[str, Any]) -> None:
        self._callbacks = callbacks
        self.create_histogram = NoOpMeter(name).create_histogram

    def _keep(self, name: str, callbacks: Any, unit: str, description: str) -> None:
        assert name not in self._callbacks, "made twice"
        (self._callbacks[name],) = callbacks

    create_observable_counter = create_observable_up_down_counter = create_observable_gauge = _keep


@pytest.mark.parametrize("max_upstreams", [100, 1])
@pytest.mark.parametrize("peer_address", [False, True])
def test_each_attribute_set_is_observed_once(telemetry: Telemetry, max_upstreams: int, peer_address: bool) -> None:
    provider = Recording()
    telemetry.install()  # books of its own
    pool_telemetry.uninstall()
    pool_telemetry.install(
        metrics="all", max_upstreams=max_upstreams, peer_address=peer_address, meter_provider=provider
    )
    with Server() as first, Server() as second, Server() as third:
        held = [exercise(server, block) for server in (first, second, third) for block in (True, False)]
        park_close_wait(first, held[0])
        assert provider.callbacks.keys() == {*COUNTERS, *LEVELS, *GAUGES, *MORE_COUNTERS}
        for name, callback in provider.callbacks.items():
            observed = Counter(tuple(sorted((each.attributes or {}).items())) for each in callback(CallbackOptions()))
            assert observed, name
            assert observed.most_common(1)[0][1] == 1, name


# Collections


def test_two_readers_of_one_provider_see_the_same(telemetry: Telemetry, server: Server) -> None:
    readers = InMemoryMetricReader(), InMemoryMetricReader()
    provider = MeterProvider(readers)
    try:
        pool_telemetry.install(metrics="all", meter_provider=provider, tracer_provider=telemetry.tracer_provider)
        http = exercise(server)
        seen = [Metrics(reader.get_metrics_data()) for reader in readers]
        http.request("GET", f"{server.url}/ok")
        again = [Metrics(reader.get_metrics_data()) for reader in reversed(readers)]
        assert seen[0].count("urllib3.connection.setup.duration") == seen[0].value("urllib3.pool.opened_connections")
        for first, second in (seen, again):
            assert series(first) == series(second)
            for name in {*COUNTERS, *LEVELS} - {"urllib3.pool.close_wait.age"}:
                assert first.value(name) == second.value(name), name
            for name in HISTOGRAMS:
                assert first.count(name) == second.count(name), name
            check_laws(first)
            check_laws(second)
        check_laws(again[0], checkouts=server.books.requests)
    finally:
        pool_telemetry.uninstall()
        provider.shutdown()


def test_samples_are_drained_exactly_once(telemetry: Telemetry, server: Server) -> None:
    telemetry.install(metrics="all")
    http = exercise(server)
    first, second = telemetry.collect(), telemetry.collect()
    check_laws(second, checkouts=server.books.requests)
    for name in {*HISTOGRAMS, *MORE_HISTOGRAMS}:
        assert first.count(name) == second.count(name), name
    assert first.count("urllib3.connection.idle.duration", outcome="reused") == first.value(
        "urllib3.pool.checkouts", outcome="reused"
    )
    assert first.count("urllib3.connection.idle.duration", outcome="replaced") == 2
    assert first.count("urllib3.pool.wait.duration") == first.value("urllib3.pool.checkouts")
    assert first.count("urllib3.connection.requests") == first.value("urllib3.pool.closed_connections")
    assert first.count("http.client.connection.duration") == first.value("urllib3.pool.closed_connections")
    assert http is not None


def test_every_collection_under_load_is_of_one_moment(telemetry: Telemetry) -> None:
    readers = [InMemoryMetricReader() for _ in range(2)]
    provider = MeterProvider(readers)
    faults: list[BaseException] = []
    collections = 0
    done = threading.Event()

    def collect(reader: InMemoryMetricReader) -> None:
        nonlocal collections
        try:
            while not done.is_set():
                metrics = Metrics(reader.get_metrics_data())
                opened = metrics.value("urllib3.pool.opened_connections")
                closed = metrics.value("urllib3.pool.closed_connections")
                open_now = metrics.value("http.client.open_connections")
                assert opened - closed == open_now == metrics.value("urllib3.pool.socket.count")
                replaced = metrics.value("urllib3.pool.checkouts", outcome="replaced")
                assert replaced <= metrics.value("urllib3.pool.dropped_connections", phase="checkout")
                collections += 1
        except BaseException as error:
            faults.append(error)

    def request(pool: Any) -> None:
        try:
            while not done.is_set():
                for path in ("/ok", "/fin/0", "/close", "/ok"):
                    pool.urlopen("GET", path, retries=5)
        except BaseException as error:
            faults.append(error)

    try:
        pool_telemetry.install(meter_provider=provider, tracer_provider=telemetry.tracer_provider)
        with Server() as server, CountingPool("127.0.0.1", server.port, maxsize=2) as pool:
            pool.checkouts = []
            threads = [threading.Thread(target=collect, args=(reader,)) for reader in readers]
            threads += [threading.Thread(target=request, args=(pool,)) for _ in range(4)]
            for thread in threads:
                thread.start()
            time.sleep(1)
            done.set()
            for thread in threads:
                thread.join()
            assert faults == []
            assert collections > 10
            for reader in readers:
                check_laws(Metrics(reader.get_metrics_data()), checkouts=len(pool.checkouts))
    finally:
        done.set()
        pool_telemetry.uninstall()
        provider.shutdown()


def test_delta_readers_get_what_came_since(telemetry: Telemetry, server: Server) -> None:
    delta = AggregationTemporality.DELTA
    reader = InMemoryMetricReader({SdkCounter: delta, SdkObservableCounter: delta, SdkHistogram: delta})
    provider = MeterProvider([reader])
    try:
        pool_telemetry.install(meter_provider=provider, tracer_provider=telemetry.tracer_provider)
        http = manager()
        for _ in range(3):
            http.request("GET", f"{server.url}/ok")
        first = Metrics(reader.get_metrics_data())
        http.request("GET", f"{server.url}/ok")
        second = Metrics(reader.get_metrics_data())
        third = Metrics(reader.get_metrics_data())
    finally:
        pool_telemetry.uninstall()
        provider.shutdown()
    assert first.metric("urllib3.pool.checkouts").data.aggregation_temporality is delta
    outcomes = [each.by("urllib3.pool.checkouts", "outcome") for each in (first, second, third)]
    assert outcomes == [{"new": 1, "reused": 2}, {"reused": 1}, {}]
    assert [each.count("urllib3.connection.idle.duration") for each in (first, second, third)] == [2, 1, 0]
    # A level is no difference.
    assert [each.value("http.client.open_connections") for each in (first, second, third)] == [1, 1, 1]
    assert len(third.points("urllib3.pool.checkouts")) == len(OUTCOMES)


def test_exemplars_lead_to_the_request(telemetry: Telemetry, server: Server) -> None:
    telemetry.install(metrics="all")
    http = manager(block=True)
    spans = {}
    for path in ("/ok", "/fin/0.02", "/again"):
        with telemetry.tracer.start_as_current_span(path) as spans[path]:
            http.request("GET", server.url + path)
        if path.startswith("/fin"):
            server.wait_for(lambda books: books.ended["fin"] == 1)
            time.sleep(0.02)
    # Collected elsewhere, under a span that has nothing to do with it.
    with telemetry.tracer.start_as_current_span("collection"):
        metrics = telemetry.collect()

    def exemplars(name: str, **wanted: Any) -> set[tuple[int, int]]:
        return {(each.trace_id, each.span_id) for point in metrics.points(name, **wanted) for each in point.exemplars}

    def ids(*paths: str) -> set[tuple[int, int]]:
        contexts = [spans[path].get_span_context() for path in paths]
        return {(context.trace_id, context.span_id) for context in contexts}

    assert exemplars("urllib3.connection.setup.duration", cause="new") == ids("/ok")
    assert exemplars("urllib3.connection.setup.duration", cause="replaced") == ids("/again")
    assert exemplars("urllib3.connection.setup.phase.duration") <= ids("/ok", "/again")
    assert exemplars("urllib3.connection.idle.duration", outcome="reused") == ids("/fin/0.02")
    assert exemplars("urllib3.connection.idle.duration", outcome="replaced") == ids("/again")
    if IS_LINUX:
        assert exemplars("urllib3.connection.close_wait.duration") == ids("/again")
    # Three samples that may share a bucket, of which the last stands.
    assert ids("/again") & exemplars("urllib3.pool.wait.duration") <= ids(*spans)
    assert exemplars("urllib3.pool.wait.duration")


def test_what_no_span_asked_for_has_no_exemplar(telemetry: Telemetry, server: Server) -> None:
    telemetry.install(metrics="all")
    http = manager()
    for _ in range(2):
        http.request("GET", f"{server.url}/ok")
    with telemetry.tracer.start_as_current_span("collection"):
        metrics = telemetry.collect()
    for name in ("urllib3.connection.idle.duration", "urllib3.connection.setup.duration"):
        (point,) = metrics.points(name)
        assert point.count == 1
        assert not point.exemplars


def test_the_buffer_stays_small_and_loses_nothing(telemetry: Telemetry, server: Server) -> None:
    telemetry.install()
    reuses = 10_000
    with urllib3.HTTPConnectionPool("127.0.0.1", server.port) as pool:
        pool.urlopen("GET", "/ok")
        assert _instrument._ledger is not None
        samples, longest = _instrument._ledger.samples.waiting, 0
        for _ in range(reuses):
            pool._put_conn(pool._get_conn())
            longest = max(longest, len(samples))
        assert 1 < longest <= _watch.MOST_SAMPLES
        metrics = telemetry.collect()
    assert metrics.count("urllib3.connection.idle.duration", outcome="reused") == reuses
    check_laws(metrics, checkouts=reuses + 1)


def test_without_an_sdk_the_buffer_stays_small_too(telemetry: Telemetry, server: Server) -> None:
    pool_telemetry.install(meter_provider=otel_metrics.NoOpMeterProvider())
    with urllib3.HTTPConnectionPool("127.0.0.1", server.port) as pool:
        pool.urlopen("GET", "/ok")
        assert _instrument._ledger is not None
        samples, longest = _instrument._ledger.samples.waiting, 0
        for _ in range(1000):
            pool._put_conn(pool._get_conn())
            longest = max(longest, len(samples))
        assert 1 < longest <= _watch.MOST_SAMPLES


# Settings


@linux_only
def test_the_peer_is_told_of_connections_only_and_only_when_asked_for(telemetry: Telemetry, server: Server) -> None:
    telemetry.install(metrics="all", peer_address=True)
    http = exercise(server)
    metrics = telemetry.collect()
    check_laws(metrics, checkouts=server.books.requests)
    assert http is not None
    with_peer = {
        name
        for name in metrics.names
        for point in metrics.points(name)
        if point.attributes.get("network.peer.address") == "127.0.0.1"
    }
    assert with_peer == {
        "http.client.open_connections",
        "http.client.connection.duration",
        "urllib3.connection.idle.duration",
        "urllib3.connection.remote_close.duration",
        "urllib3.connection.setup.duration",
        "urllib3.connection.setup.phase.duration",
        "urllib3.connection.close_wait.duration",
        "urllib3.connection.requests",
    }
    assert metrics.by("http.client.open_connections", "network.peer.address") == {"127.0.0.1": 1}


def test_beyond_max_upstreams_all_share_one(telemetry: Telemetry) -> None:
    telemetry.install(metrics="all", max_upstreams=2)
    with Server() as first, Server() as second, Server() as third, Server() as fourth:
        servers = [first, second, third, fourth]
        held = [exercise(server) for server in servers]
        assert len(held) == 4
        metrics = telemetry.collect()
        for server in servers[:2]:
            check_laws(metrics, checkouts=server.books.requests, server__port=server.port)
        others = third.books.requests + fourth.books.requests
        check_laws(metrics, checkouts=others, server__address="_OTHER")
        opened = metrics.value("urllib3.pool.opened_connections", server__address="_OTHER")
        assert opened == third.books.accepted + fourth.books.accepted
        assert metrics.value("urllib3.pool.count", server__address="_OTHER") == 2
        assert metrics.value("urllib3.pool.size", server__address="_OTHER") == 2
    ports = {server.port for server in servers[:2]}
    for name in metrics.names:
        for point in metrics.points(name):
            attributes = dict(point.attributes)
            if attributes["server.address"] == "_OTHER":
                assert "server.port" not in attributes, name
                assert attributes["otel.metric.overflow"] is True, name
                assert attributes["url.scheme"] == "http", name
            else:
                assert attributes["server.port"] in ports, name
                assert "otel.metric.overflow" not in attributes, name
    span_names = {span.name for span in telemetry.named("HTTP connection_setup")}
    assert span_names == {
        "HTTP connection_setup _OTHER",
        *(f"HTTP connection_setup 127.0.0.1:{port}" for port in ports),
    }


@pytest.mark.parametrize("by_environment", [False, True])
def test_excluded_hosts_are_left_alone(
    telemetry: Telemetry, server: Server, monkeypatch: pytest.MonkeyPatch, by_environment: bool
) -> None:
    patterns = "elsewhere.example, LOCAL*"
    if by_environment:
        monkeypatch.setenv("POOL_TELEMETRY_EXCLUDED_HOSTS", patterns)
        telemetry.install(spans="all", metrics="all")
    else:
        telemetry.install(spans="all", metrics="all", excluded_hosts=patterns.split(","))
    url = f"http://localhost:{server.port}"
    with telemetry.tracer.start_as_current_span("request"):
        http = manager(maxsize=2)
        for path in ("/ok", "/close", "/lost", "/lost", "/ok"):
            assert http.request("GET", url + path).status == 200
        pool: Any = http.connection_from_url(url)
        conns = [conn for conn in pool.pool.queue if conn is not None]
        assert len(conns) == 1
        assert unmarked(conns)
        assert telemetry.spans == ()
        assert telemetry.collect().names == set()
        # The same server by another name is another upstream.
        manager().request("GET", f"{server.url}/ok")
    metrics = telemetry.collect()
    check_laws(metrics, checkouts=1)
    assert {point.attributes["server.address"] for point in metrics.points("urllib3.pool.checkouts")} == {"127.0.0.1"}
    pool_telemetry.uninstall()
    assert unmarked([pool, *conns])


@linux_only
def test_adopted_connections_are_in_levels_drops_and_closes_but_have_no_age(
    telemetry: Telemetry, server: Server
) -> None:
    with urllib3.HTTPConnectionPool("127.0.0.1", server.port, maxsize=3) as pool:
        out = [pool.urlopen("GET", "/big/9", preload_content=False) for _ in range(3)]
        for response in out[1:]:
            response.read()
            response.release_conn()
        telemetry.install(metrics="all")
        # The other pooled one stays below, for the peer to close while nobody looks.
        top = pool.urlopen("GET", "/ok", preload_content=False)
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=1, adopted=2)
        assert metrics.by("urllib3.pool.checkouts", "outcome") == {"reused": 1}
        # What was out comes to light when it is returned.
        out[0].read()
        out[0].release_conn()
        top.read()
        top.release_conn()
        check_laws(telemetry.collect(), checkouts=1, adopted=3)
        for connection in server.connections:
            connection.fin()
        time.sleep(0.02)
        parked = telemetry.collect()
        assert parked.value("urllib3.pool.socket.count", network__connection__state="close_wait") == 3
        with telemetry.tracer.start_as_current_span("request"):
            again = [pool.urlopen("GET", "/big/9", preload_content=False) for _ in range(3)]
        for response in again:
            response.read()
            response.release_conn()
        metrics = telemetry.collect()
    check_laws(metrics, checkouts=4, adopted=3)
    assert metrics.by("urllib3.pool.checkouts", "outcome") == {"reused": 1, "replaced": 3}
    assert metrics.by("urllib3.pool.dropped_connections", "reason") == {"fin": 3}
    assert metrics.by("urllib3.pool.closed_connections", "reason") == {"dropped": 3}
    # Of all three the opening was not seen: neither age nor the number of requests is known.
    assert metrics.count("http.client.connection.duration") == 0
    assert metrics.count("urllib3.connection.requests") == 0
    # The two that were returned under our eyes have an idle time, the one that never was has none.
    assert metrics.count("urllib3.connection.idle.duration", outcome="reused") == 0
    spans = [dict(span.attributes or {}) for span in telemetry.named("HTTP connection_dropped")]
    assert len(spans) == 3
    for attributes in spans:
        assert "urllib3.connection.age" not in attributes
        assert "urllib3.connection.request.count" not in attributes
    assert sum("urllib3.connection.idle.duration" not in attributes for attributes in spans) == 1
