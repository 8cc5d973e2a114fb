"""What others of the telemetry's chain may do to us: requests go as without us, and nobody waits for them."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import urllib3
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Sampler

import pool_telemetry
from misbehaving import Server
from pool_telemetry import _checkout, _connect, _instrument, _request
from tests.live.wire import pooled, wait_for_peer
from tests.support import Telemetry, check_laws

PATIENCE = 60  # seconds, after which something hangs


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def outcomes(server: Server, kind: type[urllib3.HTTPConnectionPool] = urllib3.HTTPConnectionPool) -> list[Any]:
    """Requests of all kinds: what comes of each."""
    results: list[Any] = []

    def get(path: str, **options: Any) -> None:
        try:
            response = pool.request("GET", path, **options)
            results.append((response.status, response.data))
        except urllib3.exceptions.HTTPError as error:
            results.append(type(error).__name__)

    with kind(server.host, server.port, maxsize=2) as pool:
        get("/ok")
        get("/fin/0")
        wait_for_peer(pooled(pool)[0].sock)
        get("/lost", retries=False)
        get("/lost", retries=False)
        get("/lost")
        get("/lost", retries=1)
        get("/close")
        get("/garbage", retries=False)
        get("/hang", retries=False, timeout=0.01)
        get("/ok")
    with kind(server.host, server.port, maxsize=1, block=True) as pool:
        out = pool.request("GET", "/ok", preload_content=False)
        get("/ok", pool_timeout=0.001, retries=False)
        results.append(out.read())
    get("/ok", retries=False)
    return results


CHECKOUTS = 14  # of these requests


@pytest.fixture(scope="module")
def expected(server: Server) -> list[Any]:
    return outcomes(server)


def assert_others_do_not_wait(work: Callable[[], Any]) -> Any:
    """Does it in a thread of its own, which must come to its end."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(work()), daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert results, "it hangs, or has failed"
    return results[0]


# Exporters and readers


class Hanging(SpanExporter, MetricExporter):
    """Exports nothing until it may go on."""

    def __init__(self) -> None:
        MetricExporter.__init__(self)
        self.is_called, self.may_go_on = threading.Event(), threading.Event()

    def export(self, *_: Any, **__: Any) -> Any:
        self.is_called.set()
        self.may_go_on.wait()
        return self._result

    _result: Any = SpanExportResult.SUCCESS

    def shutdown(self, *_: Any, **__: Any) -> None:
        pass

    def force_flush(self, *_: Any, **__: Any) -> bool:
        return True


class HangingMetrics(Hanging):
    _result = MetricExportResult.SUCCESS


def test_an_exporter_of_spans_that_hangs_holds_nobody_up(server: Server, expected: list[Any]) -> None:
    exporter = Hanging()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=1, max_export_batch_size=1))
    with Telemetry() as telemetry:
        pool_telemetry.install(tracer_provider=provider, meter_provider=telemetry.meter_provider)
        try:
            assert_others_do_not_wait(lambda: outcomes(server))
            assert exporter.is_called.wait(PATIENCE)
            assert assert_others_do_not_wait(lambda: outcomes(server)) == expected
            check_laws(telemetry.collect(), checkouts=2 * CHECKOUTS)
        finally:
            exporter.may_go_on.set()
            provider.shutdown()


def test_an_exporter_of_metrics_that_hangs_holds_nobody_up(server: Server, expected: list[Any]) -> None:
    exporter = HangingMetrics()
    reader = PeriodicExportingMetricReader(exporter, export_interval_millis=1)
    provider = MeterProvider([reader], shutdown_on_exit=False)
    with Telemetry() as telemetry:
        pool_telemetry.install(tracer_provider=telemetry.tracer_provider, meter_provider=provider)
        try:
            assert_others_do_not_wait(lambda: outcomes(server))
            assert exporter.is_called.wait(PATIENCE)
            for _ in range(25):  # more samples than the buffer holds
                assert assert_others_do_not_wait(lambda: outcomes(server)) == expected
        finally:
            exporter.may_go_on.set()
            provider.shutdown()


def test_a_collection_that_runs_out_of_time_is_made_up_for_by_the_next(
    telemetry: Telemetry, server: Server, expected: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    telemetry.install(metrics="all")
    assert outcomes(server) == expected
    ledger = _instrument._ledger
    assert ledger is not None
    with ledger._lock:  # somebody is long at the books
        failures: list[str] = []

        def collect_in_vain() -> None:
            try:
                telemetry.reader.collect(timeout_millis=20)
            except Exception as error:
                failures.append(type(error).__name__)

        slow = threading.Thread(target=collect_in_vain)
        slow.start()
        assert assert_others_do_not_wait(lambda: outcomes(server)) == expected
        assert slow.is_alive()
    slow.join(PATIENCE)
    assert failures == ["MetricsTimeoutError"]
    telemetry.collect()  # in which the SDK adds what it had asked for to what it asks for now
    check_laws(telemetry.collect(), checkouts=2 * CHECKOUTS)
    assert not [record for record in caplog.records if record.name == "pool_telemetry"]


# Tracers


class BrokenError(Exception):
    """Of a tracer."""


class Broken:
    """Something of a tracing library that raises at one of its methods."""

    def __init__(self, inner: Any, broken: str) -> None:
        self._inner, self._broken = inner, broken

    def __getattr__(self, name: str) -> Any:
        if name == self._broken:
            raise BrokenError(name)
        found = getattr(self._inner, name)
        if name in ("get_tracer", "start_span"):
            return lambda *args, **kwargs: Broken(found(*args, **kwargs), self._broken)
        return found


class BrokenProcessor(SpanProcessor):
    def __init__(self, broken: str) -> None:
        self._broken = broken

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        if self._broken == "on_start":
            raise BrokenError

    def on_end(self, span: ReadableSpan) -> None:
        if self._broken == "on_end":
            raise BrokenError


class BrokenSampler(Sampler):
    def should_sample(self, *_: Any, **__: Any) -> Any:
        raise BrokenError

    def get_description(self) -> str:
        return "broken"


def broken_provider(broken: str) -> Any:
    if broken == "should_sample":
        return TracerProvider(BrokenSampler(), shutdown_on_exit=False)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BrokenProcessor(broken))
    return provider if broken.startswith("on_") else Broken(provider, broken)


@pytest.mark.parametrize("broken", ["start_span", "end", "set_status", "on_start", "on_end", "should_sample"])
def test_a_tracer_that_raises_ends_the_spans_and_nothing_else(
    telemetry: Telemetry, server: Server, expected: list[Any], caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    caplog.set_level(logging.ERROR, "pool_telemetry")
    pool_telemetry.install(
        tracer_provider=broken_provider(broken), meter_provider=telemetry.meter_provider, spans="all", metrics="all"
    )
    assert outcomes(server) == expected
    assert outcomes(server) == expected
    check_laws(telemetry.collect(), checkouts=2 * CHECKOUTS)
    faults = [record for record in caplog.records if record.name == "pool_telemetry"]
    if faults:  # what a processor raises the SDK of some versions keeps to itself
        assert len(faults) == 1
        assert "the making of spans" in faults[0].getMessage()
    else:
        assert broken in ("on_start", "on_end", "set_status")


class BrokenSpan(trace.NonRecordingSpan):
    """A current span of the application's own making, which tells nobody anything."""

    def get_span_context(self) -> Any:
        raise BrokenError

    def is_recording(self) -> bool:
        raise BrokenError


def test_a_current_span_that_raises_is_none(telemetry: Telemetry, server: Server, expected: list[Any]) -> None:
    telemetry.install(metrics="all", spans="all")
    with trace.use_span(BrokenSpan(trace.INVALID_SPAN_CONTEXT), record_exception=False, set_status_on_exception=False):
        assert outcomes(server) == expected
    metrics = telemetry.collect()
    check_laws(metrics, checkouts=CHECKOUTS)


# Sockets


class Secretive(socket.socket):
    """A socket that fails at every question about itself."""

    def _refuse(self, *_: Any) -> Any:
        raise OSError("not to be asked")

    getsockopt = getpeername = getsockname = _refuse

    def ioctl(self, *_: Any) -> Any:
        raise OSError("not to be asked")

    def version(self) -> Any:
        raise OSError("not to be asked")


def test_a_socket_that_fails_at_every_question_is_told_as_far_as_is_known(
    telemetry: Telemetry,
    server: Server,
    expected: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    real = urllib3.util.connection.create_connection

    def create_connection(*args: Any, **kwargs: Any) -> Any:
        sock = real(*args, **kwargs)
        timeout = sock.gettimeout()
        secretive = Secretive(sock.family, sock.type, sock.proto, sock.detach())
        secretive.settimeout(timeout)
        return secretive

    monkeypatch.setattr(urllib3.util.connection, "create_connection", create_connection)
    telemetry.install(metrics="all", spans="all", peer_address=True)
    assert outcomes(server) == expected
    with urllib3.HTTPConnectionPool(server.host, server.port) as pool:
        pool.request("GET", "/ok")
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=CHECKOUTS + 1)
        (level,) = [point for point in metrics.points("urllib3.pool.socket.count") if point.value]
        assert dict(level.attributes).get("network.connection.state") is None
    assert metrics.by("urllib3.pool.dropped_connections", "phase")["checkout"] == 1
    assert not [record for record in caplog.records if record.name == "pool_telemetry"]
    pool_telemetry.uninstall()


def of_a_closed_descriptor(server: Server, look: Callable[[], Any], *, is_python_told: bool) -> list[Any]:
    """What comes of requests of a pool whose socket was closed from under it."""
    results: list[Any] = []
    pool = urllib3.HTTPConnectionPool(server.host, server.port, retries=False)
    pool.request("GET", "/ok")
    (conn,) = pooled(pool)
    sock = conn.sock
    if is_python_told:
        sock.close()
    else:
        os.close(sock.fileno())
    with contextlib.suppress(OSError):  # the number is as good as any for the next socket, which would be looked at
        look()
    for _ in range(2):
        try:
            results.append(pool.request("GET", "/ok").status)
        except Exception as error:  # noqa: PERF203 - two are made
            results.append((type(error), str(error)))
    if not is_python_told:
        sock.detach()
    pool.close()
    return results


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.parametrize("is_python_told", [True, False], ids=["socket closed", "descriptor closed"])
def test_a_closed_descriptor_is_the_applications_affair(
    telemetry: Telemetry, server: Server, caplog: pytest.LogCaptureFixture, is_python_told: bool
) -> None:
    without = of_a_closed_descriptor(server, lambda: None, is_python_told=is_python_told)
    telemetry.install(metrics="all", spans="all")

    def look() -> None:
        telemetry.collect()
        pool_telemetry.snapshot()

    assert of_a_closed_descriptor(server, look, is_python_told=is_python_told) == without
    check_laws(telemetry.collect(), checkouts=3)
    assert not [record for record in caplog.records if record.name == "pool_telemetry"]


# Clocks


def standing_still() -> Iterator[int]:
    return itertools.repeat(1_000_000_000)


def jumping() -> Iterator[int]:
    """A day ahead with each look."""
    return itertools.count(0, 86_400_000_000_000)


def running_backwards() -> Iterator[int]:
    return itertools.count(10**18, -1_000_000_000)


@pytest.mark.parametrize("clock", [standing_still, jumping, running_backwards])
def test_a_clock_that_does_not_run_as_clocks_do_is_no_fault(
    telemetry: Telemetry,
    server: Server,
    expected: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    clock: Callable[[], Iterator[int]],
) -> None:
    ticks = clock()
    for module in (_checkout, _connect, _request):
        monkeypatch.setattr(module, "monotonic_ns", lambda: next(ticks))
    telemetry.install(metrics="all", spans="all")
    assert _instrument._ledger is not None
    monkeypatch.setattr(_instrument._ledger, "_clock", lambda: next(ticks))
    assert outcomes(server) == expected
    metrics = telemetry.collect()
    check_laws(metrics, checkouts=CHECKOUTS)
    assert pool_telemetry.snapshot().to_json()
    assert pool_telemetry.diagnose(pool_telemetry.snapshot()) is not None
    assert not [record for record in caplog.records if record.name == "pool_telemetry"]
