"""Whatever fails in here, the application's requests do not notice; and what fails in them passes untouched."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import urllib3.connectionpool
import urllib3.util.connection
from urllib3 import HTTPConnectionPool
from urllib3.connection import HTTPConnection

import pool_telemetry
from misbehaving import Server
from pool_telemetry import (
    _checkout,
    _connect,
    _context,
    _histograms,
    _instruments,
    _kernel,
    _ledger,
    _metrics,
    _points,
    _reading,
    _records,
    _request,
    _semconv,
    _setup,
    _spans,
    _urllib3,
    _waiting,
    _watch,
)
from tests.support import Telemetry, check_laws, manager


class OursError(Exception):
    """A fault in this library."""


def requests(server: Server) -> list[tuple[int, bytes]]:
    """Requests that come by every hook: new, reused, dropped, lost, closed, refused, waited for, abandoned, leaked."""
    results = []

    def get(path: str, pool: HTTPConnectionPool) -> None:
        response = pool.request("GET", path)
        results.append((response.status, response.data))

    with HTTPConnectionPool(server.host, server.port, maxsize=2, retries=3) as pool:
        for path in ("/ok", "/ok", "/close", "/ok", "/lost", "/ok"):
            get(path, pool)
        drop(server, pool)
        get("/ok", pool)
        for _ in range(2):
            unread = pool.request("GET", "/big/100000", preload_content=False)
            results.append((unread.status, b"unread"))
            unread.close()
        get("/ok", pool)
    with HTTPConnectionPool(server.host, server.port, maxsize=1, block=True, retries=3) as pool:
        get("/ok", pool)
        get("/ok", pool)
        out = pool.request("GET", "/ok", preload_content=False)
        with pytest.raises(urllib3.exceptions.EmptyPoolError):
            pool.request("GET", "/ok", pool_timeout=0.001, retries=False)
        results.append((out.status, out.read()))
        out.release_conn()
    with pytest.raises(urllib3.exceptions.ClosedPoolError):
        pool.request("GET", "/ok", retries=False)
    with pytest.raises(urllib3.exceptions.NewConnectionError):
        HTTPConnectionPool("127.0.0.1", 1).request("GET", "/", retries=False)
    left = HTTPConnectionPool("localhost", server.port)
    get("/ok", left)
    del pool, left  # collected at once: neither is part of a cycle
    return results


def drop(server: Server, pool: HTTPConnectionPool) -> None:
    assert pool.pool is not None
    for connection in server.connections:
        connection.fin()
    deadline = time.monotonic() + 60
    for conn in tuple(pool.pool.queue):
        while conn is not None and not urllib3.util.connection.is_connection_dropped(conn):
            assert time.monotonic() < deadline
            time.sleep(0.001)


OK = (200, b"ok")
UNREAD = (200, b"unread")
RESULTS = [*[OK] * 7, UNREAD, UNREAD, *[OK] * 5]
HOST_CALLS = ("_get_conn", "_put_conn", "_make_request")


class Host:
    """Counts the calls of urllib3's own functions, below whatever is patched over them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls = dict.fromkeys((*HOST_CALLS, "connect"), 0)
        for owner, names in ((HTTPConnectionPool, HOST_CALLS), (HTTPConnection, ("connect",))):
            for name in names:
                monkeypatch.setattr(owner, name, self._counting(name, getattr(owner, name)))

    def _counting(self, name: str, original: Any) -> Any:
        def counting(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            return original(*args, **kwargs)

        # Who closes a connection is told from urllib3's code: this is one of its wrappers.
        counting.__wrapped__ = original  # type: ignore[attr-defined]  # functions bear attributes
        return counting

    def of(self, act: Callable[[], Any]) -> dict[str, int]:
        """The calls that this makes."""
        self.calls = dict.fromkeys(self.calls, 0)
        act()
        return self.calls


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


class Fault:
    """Something of ours that raises whenever it is called."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, error: type[Exception]) -> None:
        self.hits = 0

        def fault(*args: Any, **kwargs: Any) -> Any:
            self.hits += 1
            raise error(f"in {name}")

        monkeypatch.setattr(owner, name, fault)


def faults_logged(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.name == "pool_telemetry"]


def assert_told_once(caplog: pytest.LogCaptureFixture, part: str, error: type[Exception] = OursError) -> None:
    (record,) = faults_logged(caplog)
    assert record.levelno == logging.ERROR
    assert part in record.getMessage()
    assert "\nTraceback (most recent call last):\n" in record.getMessage()
    assert record.getMessage().endswith(f"\n{error.__module__}.{error.__qualname__}")


# Parts of the hooks, as (owner, name). A fault in one of them is a fault in the books: all hooks fall silent.
HOOK_PARTS: list[tuple[Any, str]] = [
    (_context, "_get_current"),
    *((_checkout, name) for name in ("monotonic_ns", "drop_reason", "close_wait_ns", "fin_seen", "Dropped")),
    *((_checkout, name) for name in ("CheckedOut", "type_name")),
    *((_checkout.CheckoutHooks, name) for name in ("_note_checkout", "_found_dropped", "_take_drop", "_tell_drop")),
    *((_checkout.CheckoutHooks, name) for name in ("_tell_checkout", "_returned")),
    *((_request, name) for name in ("monotonic_ns", "race_reason", "type_name", "_is_connection_error", "LostRace")),
    (_request, "Closed"),
    *((_request.RequestHooks, name) for name in ("_judge", "_closing", "_reason")),
    *((_connect, name) for name in ("Setup", "SetUp")),
    (_connect.ConnectHooks, "_begin"),
    (_setup.Setup, "phases"),
    *((_kernel, name) for name in ("inspect_dropped", "inspect_failed", "addresses", "tls_version")),
    *((_urllib3, name) for name in ("upstream_of", "is_relayed", "size_of", "pooled", "proxy_of", "protocol_version")),
    (_urllib3, "has_any_pooled"),
    *((_waiting.Ticket, name) for name in ("__init__", "is_served_at_once")),
    *(
        (_urllib3, name)
        for name in ("found_pool_closed", "Closer", "failure_of", "held_in_request", "has_response_begun", "is_closed")
    ),
    *((_watch, name) for name in ("PoolRecord", "ConnectionRecord", "Gone", "mark", "record_of")),
    *((_watch.Watch, name) for name in ("see", "set_simple", "remember_lost_race", "take_lost_race", "new_record")),
    *((_watch.Watch, name) for name in ("note_socket", "tell_checkout", "tell_set_up", "observe_drop", "sample")),
    *((_ledger.Ledger, name) for name in ("settle", "_apply", "open_book")),
    *((_ledger, name) for name in ("change_of", "enter")),
    (_ledger.Ledger, "check_process"),
    *((_records.ConnectionRecord, name) for name in ("idle_ns", "age_ns", "served")),
    # Without TCP_INFO it is never known when a FIN came.
    *([(_records.ConnectionRecord, "claim_fin")] if hasattr(socket, "TCP_INFO") else []),
    *((_records.Book, name) for name in ("take", "note_peak")),
]


@pytest.mark.parametrize(
    ("owner", "name"), HOOK_PARTS, ids=[f"{getattr(each[0], '__name__', each[0])}.{each[1]}" for each in HOOK_PARTS]
)
def test_a_fault_in_a_hook_is_logged_once_switches_the_hooks_off_and_changes_no_request(
    owner: Any,
    name: str,
    telemetry: Telemetry,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    host = Host(monkeypatch)
    bare = vars(HTTPConnectionPool)["_get_conn"]
    with monkeypatch.context() as broken:
        fault = Fault(broken, owner, name, OursError)
        install_despite(fault, telemetry, broken, owner, name)
        assert vars(HTTPConnectionPool)["_get_conn"] is not bare
        calls = host.of(lambda: check(requests(server)))
        assert fault.hits, "this test does not come by there"
        assert_told_once(caplog, "a hook")
        hits = fault.hits
        assert host.of(lambda: check(requests(server))) == calls
        assert fault.hits == hits, "what was switched off was called again"
        assert_told_once(caplog, "a hook")
    pool_telemetry.uninstall()


def check(results: list[tuple[int, bytes]]) -> None:
    assert results == RESULTS


def install_despite(fault: Fault, telemetry: Telemetry, broken: pytest.MonkeyPatch, owner: Any, name: str) -> None:
    """install(), while what it needs itself does not fail yet."""
    try:
        telemetry.install(metrics="all", spans="notable")
    except OursError:
        raising = getattr(owner, name)
        broken.undo()
        telemetry.install(metrics="all", spans="notable")
        broken.setattr(owner, name, raising)
    fault.hits = 0


def test_without_a_fault_these_requests_come_by_every_hook(
    telemetry: Telemetry, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    host = Host(monkeypatch)
    without = host.of(lambda: check(requests(server)))
    telemetry.install(metrics="all", spans="notable")
    assert host.of(lambda: check(requests(server))) == without
    metrics = telemetry.collect()
    check_laws(metrics, checkouts=without["_get_conn"])
    outcomes = metrics.by("urllib3.pool.checkouts", "outcome")
    assert set(outcomes) == {"new", "reused", "replaced", "timed_out", "pool_closed"}
    drops = metrics.by("urllib3.pool.dropped_connections", "phase")
    assert drops == {"checkout": 1, "request": 1}
    assert not faults_logged(caplog)
    pool_telemetry.uninstall()


# Other parts, which fail alone


@pytest.mark.parametrize("event", ["dropped", "set_up", "checked_out"])
@pytest.mark.parametrize("inner", ["", "start_span"])
def test_a_fault_in_the_spans_ends_the_spans_alone(
    event: str,
    inner: str,
    telemetry: Telemetry,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if inner:
        fault = Fault(monkeypatch, _spans.SpanObserver, "_make", OursError)
    else:
        fault = Fault(monkeypatch, _spans.SpanObserver, event, OursError)
    telemetry.install(metrics="all", spans="all")
    calls = Host(monkeypatch).calls
    with telemetry.tracer.start_as_current_span("request"):
        check(requests(server))
        spans = len(telemetry.spans)
        check(requests(server))
    assert fault.hits == 1
    assert_told_once(caplog, "the making of spans")
    assert len(telemetry.spans) == spans
    check_laws(telemetry.collect(), checkouts=calls["_get_conn"])


@pytest.mark.parametrize("name", ["lookup", "attempt", "connected", "handshake"])
@pytest.mark.parametrize("tls", [None, "1.3"])
def test_a_fault_in_the_timing_of_phases_ends_that_alone(
    name: str,
    tls: str | None,
    telemetry: Telemetry,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fault = Fault(monkeypatch, _setup.Setup, name, OursError)
    telemetry.install(metrics="all")
    with Server(tls=tls) as server:
        http = manager(server.ca_file)
        for _ in range(3):
            assert http.request("GET", server.url + "/close").data == b"ok"
    if tls is None and name == "handshake":
        assert not fault.hits
    else:
        assert fault.hits == 1
        assert_told_once(caplog, "the timing of set-ups")
    metrics = telemetry.collect()
    check_laws(metrics, checkouts=3)
    assert metrics.value("urllib3.pool.opened_connections") == 3


@pytest.mark.parametrize(("owner", "name"), [(_urllib3, "lookup_name"), (_urllib3, "family_of")])
def test_a_fault_in_reading_an_address_ends_the_timing_alone(
    owner: Any,
    name: str,
    telemetry: Telemetry,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fault = Fault(monkeypatch, owner, name, OursError)
    telemetry.install()
    calls = Host(monkeypatch).calls
    check(requests(server))
    assert fault.hits == 1
    assert_told_once(caplog, "the timing of set-ups")
    check_laws(telemetry.collect(), checkouts=calls["_get_conn"])


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (_histograms.SampleRecorder, "_record"),
        (_histograms.SampleRecorder, "_put"),
        (_histograms, "point_attributes"),
        (_histograms, "_exemplar_context"),
    ],
)
def test_a_fault_in_recording_ends_the_histograms_alone(
    owner: Any,
    name: str,
    telemetry: Telemetry,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    telemetry.install(metrics="all")
    calls = Host(monkeypatch).calls
    check(requests(server))
    with monkeypatch.context() as broken:
        fault = Fault(broken, owner, name, OursError)
        telemetry.collect()
        assert fault.hits == 1
        assert_told_once(caplog, "the recording of metrics")
    check(requests(server))
    metrics = telemetry.collect()
    assert metrics.value("urllib3.pool.checkouts") == calls["_get_conn"]
    assert metrics.count("urllib3.connection.setup.duration") == 0
    assert_told_once(caplog, "the recording of metrics")


def test_a_fault_in_flushing_a_full_buffer_does_not_reach_the_request(
    telemetry: Telemetry, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    telemetry.install()
    fault = Fault(monkeypatch, _histograms.SampleRecorder, "_record", OursError)
    with HTTPConnectionPool(server.host, server.port) as pool:
        for _ in range(2 * _watch.MOST_SAMPLES + 10):
            assert pool.request("GET", "/ok").data == b"ok"
        assert fault.hits == 1
        assert_told_once(caplog, "the recording of metrics")
        assert telemetry.collect().value("urllib3.pool.checkouts") == 2 * _watch.MOST_SAMPLES + 10


OBSERVABLES = [metric for metric in _semconv.METRICS if metric.kind != "histogram"]


@pytest.mark.parametrize("metric", OBSERVABLES, ids=[metric.name for metric in OBSERVABLES])
def test_a_fault_in_one_callback_silences_that_metric_alone(
    metric: _semconv.Metric,
    telemetry: Telemetry,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(reading: Any) -> Any:
        raise OursError

    telemetry.install(metrics="all")
    with HTTPConnectionPool(server.host, server.port) as pool:
        pool.request("GET", "/ok")
        pool.request("GET", "/ok")
        everything = telemetry.collect().names
        with monkeypatch.context() as patched:
            patched.setitem(_points._POINTS, metric, broken)
            assert telemetry.collect().names == everything - {metric.name}
        pool.request("GET", "/ok")
        metrics = telemetry.collect()
        assert metrics.names == everything - {metric.name}
        assert_told_once(caplog, metric.name)


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (_ledger.Ledger, "read"),
        (_ledger.Ledger, "_walk"),
        (_ledger.Ledger, "_look"),
        (_reading, "Reading"),
        (_ledger, "read_book"),
        (_kernel, "read_state"),
        (_instruments.Instruments, "has_sdk"),
        (_metrics.MetricsEmitter, "flush"),
    ],
)
def test_a_fault_in_the_reading_of_the_books_is_logged_once_and_not_for_each_metric(
    owner: Any,
    name: str,
    telemetry: Telemetry,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    telemetry.install(metrics="all")
    with HTTPConnectionPool(server.host, server.port) as pool:
        pool.request("GET", "/ok")
        fault = Fault(monkeypatch, owner, name, OursError)
        for _ in range(3):
            telemetry.collect()
            assert pool.request("GET", "/ok").data == b"ok"
        assert fault.hits
        assert len(faults_logged(caplog)) == 1


def test_a_fault_in_many_threads_at_once_is_logged_once(
    telemetry: Telemetry, server: Server, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    both = threading.Barrier(4)

    def fault(*_: Any, **__: Any) -> Any:
        both.wait(60)
        raise OursError

    monkeypatch.setattr(_checkout.CheckoutHooks, "_note_checkout", fault)
    telemetry.install()
    results = list[bytes]()
    with HTTPConnectionPool(server.host, server.port, maxsize=4) as pool:
        threads = [
            threading.Thread(target=lambda: results.append(pool.request("GET", "/ok").data))
            for _ in range(both.parties)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert results == [b"ok"] * both.parties
        assert_told_once(caplog, "a hook")


@pytest.mark.parametrize("error", [AssertionError, AttributeError, RecursionError, MemoryError, StopIteration, OSError])
def test_any_exception_of_ours_is_kept_from_the_application(
    error: type[Exception],
    telemetry: Telemetry,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fault = Fault(monkeypatch, _checkout.CheckoutHooks, "_note_checkout", error)
    telemetry.install()
    check(requests(server))
    assert fault.hits == 1
    assert_told_once(caplog, "a hook", error)


def test_after_a_fault_the_metrics_fall_silent_rather_than_lie(
    telemetry: Telemetry, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    telemetry.install()
    with HTTPConnectionPool(server.host, server.port) as pool:
        pool.request("GET", "/ok")
        with monkeypatch.context() as broken:
            Fault(broken, _watch.Watch, "new_record", OursError)
            pool.request("GET", "/close")
            pool.request("GET", "/ok")
        assert telemetry.collect().value("urllib3.pool.checkouts") == 0
        pool_telemetry.uninstall()
        telemetry.install()  # starts afresh, with what can be known
        pool.request("GET", "/ok")
        assert telemetry.collect().value("urllib3.pool.checkouts") > 0


# What the host raises


class HostError(Exception):
    pass


RAISED = [HostError, urllib3.exceptions.EmptyPoolError, KeyboardInterrupt, SystemExit, GeneratorExit, BaseException]


def an_error(kind: type[BaseException]) -> BaseException:
    # EmptyPoolError asks for its pool.
    arguments: tuple[Any, ...] = (None, "host") if issubclass(kind, urllib3.exceptions.EmptyPoolError) else ("host",)
    return kind(*arguments)


def call(name: str, pool: HTTPConnectionPool) -> None:
    """Let the host call one hooked function by the way that a request takes."""
    if name == "is_connection_dropped":
        pool._get_conn()
    elif name in ("close", "_put_conn"):
        conn: Any = pool._get_conn()
        if name == "close":
            conn.close()
        else:
            pool._put_conn(conn)
    else:
        pool.urlopen("GET", "/ok", retries=False)


HOST_FUNCTIONS: list[tuple[Any, str]] = [
    *((HTTPConnectionPool, name) for name in ("_get_conn", "_put_conn", "_make_request")),
    *((HTTPConnection, name) for name in ("connect", "close")),
    (urllib3.connectionpool, "is_connection_dropped"),
    (urllib3.util.connection, "create_connection"),
    (urllib3.util.connection, "_set_socket_options"),
]


@pytest.mark.parametrize("is_broken", [False, True], ids=["sound", "with a fault of ours"])
@pytest.mark.parametrize("block", [False, True])
@pytest.mark.parametrize("kind", RAISED)
@pytest.mark.parametrize(("owner", "name"), HOST_FUNCTIONS, ids=[each[1] for each in HOST_FUNCTIONS])
def test_what_a_wrapped_function_raises_passes_untouched(
    owner: Any,
    name: str,
    kind: type[BaseException],
    block: bool,
    is_broken: bool,
    telemetry: Telemetry,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    server: Server,
) -> None:
    error, calls = an_error(kind), list[tuple[Any, ...]]()

    def host(*args: Any, **kwargs: Any) -> Any:
        calls.append((*args, *kwargs.values()))
        raise error

    pool = HTTPConnectionPool(server.host, server.port, block=block)
    if name in ("is_connection_dropped", "close", "_put_conn"):
        pool.request("GET", "/ok")
    try:
        with monkeypatch.context() as patched:
            patched.setattr(owner, name, host)
            if is_broken:
                patched.setattr(_watch.Watch, "tell_checkout", a_fault_of_ours)
                patched.setattr(_watch.Watch, "tell_set_up", a_fault_of_ours)
                patched.setattr(_request.RequestHooks, "_closing", a_fault_of_ours)
            telemetry.install(spans="all")
            raised = caught(lambda: call(name, pool))
            # urlopen wraps some of what is raised within it; what passed is the cause then.
            chain = list(chained(raised))
            assert error in chain
            assert len(calls) == 1, "the host's function was called again"
            assert error.__context__ is None
            assert error.__cause__ is None
            assert not any(isinstance(each, OursError) for each in chain)
            pool_telemetry.uninstall()
        assert len(faults_logged(caplog)) <= is_broken
    finally:
        pool.close()
        for given in calls:  # what the host was kept from closing
            for each in given:
                if isinstance(each, (socket.socket, HTTPConnection)):
                    each.close()


def a_fault_of_ours(*args: Any) -> Any:
    raise OursError


def caught(act: Callable[[], Any]) -> BaseException:
    try:
        act()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def chained(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def test_an_interrupted_wait_is_counted_and_leaves_nobody_waiting(
    telemetry: Telemetry, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(HTTPConnectionPool, "_get_conn", interrupted)
    telemetry.install()
    with HTTPConnectionPool(server.host, server.port, maxsize=1, block=True) as pool:
        with pytest.raises(KeyboardInterrupt):
            pool._get_conn()
        metrics = telemetry.collect()
        assert metrics.by("urllib3.pool.checkouts", "outcome") == {"timed_out": 1}
        assert metrics.value("urllib3.pool.pending_requests") == 0
    pool_telemetry.uninstall()
