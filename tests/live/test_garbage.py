"""Garbage collection and signals strike anywhere, under our locks and under the SDK's: no hang, no loss, no fault."""

from __future__ import annotations

import gc
import itertools
import logging
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import Any

import pytest
import urllib3
from opentelemetry.sdk.metrics import MeterProvider
from urllib3.exceptions import HTTPError

from misbehaving import Server, ServerProcess
from pool_telemetry import _instrument, _ledger
from tests.live.apart import run_apart
from tests.support import Telemetry, check_laws

RETRIES = urllib3.Retry(total=100, redirect=0, status=0, backoff_factor=0)


def pool_of(server: Server | ServerProcess, host: str = "127.0.0.1", **options: Any) -> urllib3.HTTPConnectionPool:
    return urllib3.HTTPConnectionPool(host, server.port, **options)


def get(pool: urllib3.HTTPConnectionPool, path: str = "/ok", **options: Any) -> Any:
    return pool.urlopen("GET", path, retries=RETRIES, **options)


@contextmanager
def no_faults() -> Iterator[None]:
    """A fault of ours is logged, and switches the telemetry off: there must be none. Nor any in a finaliser."""
    faults: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            faults.append(self.format(record))

    logging.getLogger("urllib3").setLevel(logging.ERROR)
    logging.getLogger("pool_telemetry").addHandler(Listener())
    sys.unraisablehook = lambda what: faults.append(repr(what))
    threading.excepthook = lambda what: faults.append(repr(what))
    yield
    assert not faults, "\n".join(faults)


def drop(*things: object) -> None:
    """Leave something to the garbage collector: a cycle holds it."""
    cycle: list[object] = [*things]
    cycle.append(cycle)


class Caller:
    """Makes a request when it is collected, as objects do that deregister somewhere."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.call = call

    def __del__(self) -> None:
        self.call()


# What a lock does to whoever holds it


class StrikingLock:
    """A lock under which something strikes each time that it has been taken."""

    def __init__(self, lock: Any, strike: Callable[[], object]) -> None:
        self._lock, self._strike = lock, strike

    def acquire(self, *args: Any, **kwargs: Any) -> bool:
        if not self._lock.acquire(*args, **kwargs):
            return False
        self._strike()
        return True

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._lock, name)


class Threading:
    """Stands for the module ``threading`` within another, with locks that strike."""

    def __init__(self, module: str, strike: Callable[[str], object]) -> None:
        self._module, self._strike = module, strike

    def Lock(self) -> StrikingLock:  # noqa: N802 - threading's name
        return StrikingLock(threading.Lock(), lambda: self._strike(self._module))

    def RLock(self) -> StrikingLock:  # noqa: N802 - threading's name
        return StrikingLock(threading.RLock(), lambda: self._strike(self._module))

    def __getattr__(self, name: str) -> Any:
        return getattr(threading, name)


def arm(prefixes: tuple[str, ...], strike: Callable[[str], object]) -> None:
    """Let every lock strike that modules of these names make from now on."""
    for name, module in tuple(sys.modules.items()):
        if name.startswith(prefixes) and module is not None:
            substitute = Threading(name, strike)
            for kind in ("Lock", "RLock"):
                if getattr(module, kind, None) is getattr(threading, kind):
                    setattr(module, kind, getattr(substitute, kind))
            if getattr(module, "threading", None) is threading:
                module.threading = substitute  # type: ignore[attr-defined]  # it has one, as was just asked


class Stock:
    """Garbage kept ready: each strike lets a piece of it go, and collects."""

    def __init__(self) -> None:
        self._pieces: list[Any] = []
        self.strikes: Counter[str] = Counter()

    def fill(self, pieces: list[Any]) -> None:
        self._pieces += pieces

    def strike(self, where: str) -> None:
        # Each lock in turn, so that those taken most often do not use it all up.
        if self._pieces and self.strikes[where] < 40:
            self.strikes[where] += 1
            drop(self._pieces.pop())
            gc.collect(0)
            gc.collect(1)

    @property
    def rest(self) -> int:
        return len(self._pieces)


def check_at_the_end(telemetry: Telemetry) -> None:
    gc.collect()
    metrics = telemetry.collect()
    check_laws(metrics)
    assert metrics.value("http.client.open_connections") == 0
    assert metrics.value("urllib3.pool.count") == 0
    assert metrics.value("urllib3.pool.opened_connections") > 0


def close_idle(pools: list[urllib3.HTTPConnectionPool]) -> None:
    for pool in pools:
        for conn in tuple(pool.pool.queue):  # type: ignore[union-attr]  # these pools are open
            if conn is not None:
                conn.close()


# Programs, each run in an interpreter of its own


def collections_all_the_time(seed: int) -> None:
    telemetry = Telemetry()
    telemetry.install(metrics="all", spans="all")
    leaked = itertools.count()
    done = threading.Event()

    def work(server: ServerProcess, number: int) -> None:
        rng = random.Random(f"{seed}/{number}")
        pool = pool_of(server, maxsize=2)
        for _ in range(120):
            kind = rng.random()
            if kind < 0.6:
                get(pool)
            elif kind < 0.75:
                drop(get(pool, preload_content=False))
                next(leaked)
            elif kind < 0.85:
                try:
                    pool.urlopen("POST", "/ok", body=b"x", retries=False)
                except HTTPError as error:
                    drop(error)
            else:
                other = pool_of(server, maxsize=2)
                get(other)
                drop(other, get(other, preload_content=False), other.pool)
                next(leaked)  # if it is collected before its pool, which is the older
        drop(pool)

    def collect() -> None:
        while not done.wait(0.02):
            metrics = telemetry.collect()
            opened = metrics.value("urllib3.pool.opened_connections")
            closed = metrics.value("urllib3.pool.closed_connections")
            assert opened - closed == metrics.value("http.client.open_connections")

    with no_faults(), ServerProcess(seed=seed) as server:
        gc.set_threshold(1)
        workers = [threading.Thread(target=work, args=(server, number)) for number in range(4)]
        collector = threading.Thread(target=collect)
        for thread in (collector, *workers):
            thread.start()
        for worker in workers:
            worker.join()
        done.set()
        collector.join()
        check_at_the_end(telemetry)
        server.wait_for(lambda books: books.open == 0)
        metrics, books = telemetry.collect(), server.books()
        assert metrics.value("urllib3.pool.opened_connections") == books.accepted
        assert 0 < metrics.value("urllib3.pool.leaked_connections") <= next(leaked)


def collections_under_locks(prefixes: tuple[str, ...], expected: tuple[str, ...]) -> None:
    with no_faults(), Server() as server:
        stock = Stock()
        arm(prefixes, stock.strike)
        telemetry = Telemetry()
        telemetry.install(metrics="all", spans="all")
        pieces: list[Any] = []
        lasting = pool_of(server, maxsize=40)
        for index in range(240):
            pool = pool_of(server)
            get(pool)
            pieces.append(([lambda pool=pool: pool], pool, get(pool, preload_content=False))[index % 2 :])
            pieces.append(get(lasting, preload_content=False))  # leaked, from a pool that lives on
            parked = get(lasting, preload_content=False)
            conn = parked._connection
            parked.read()
            parked.release_conn()
            pieces.append(conn)
        del pool, parked, conn
        gc.collect()
        stock.fill(pieces)
        pieces.clear()

        def work() -> None:
            mine = pool_of(server, maxsize=1)
            for path in ("/ok", "/close", "/lost", "/lost", "/rst/0", "/ok") * 8:
                with telemetry.tracer.start_as_current_span("request"):
                    get(mine, path)
                if path == "/ok":
                    telemetry.collect()

        workers = [threading.Thread(target=work) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        missed = [name for name in expected if not any(name in where for where in stock.strikes)]
        assert not missed, f"no collection under the locks of {missed}; but of {stock.strikes}"
        while stock.rest:
            stock.strikes.clear()
            stock.strike("the rest")
        del lasting
        check_at_the_end(telemetry)


def finalisers_that_make_requests(host_of_next: bool) -> None:
    """Under our locks, and wherever a collection strikes else."""
    with no_faults(), Server(host="0.0.0.0") as server:
        stock = Stock()
        arm(("pool_telemetry._ledger",), stock.strike)
        telemetry = Telemetry()
        telemetry.install(metrics="all", spans="off")
        hosts = (f"127.0.0.{number}" for number in range(2, 250))
        calls = itertools.count()

        def call() -> None:
            # Another upstream each time, or the same: in a pool of its own.
            with pool_of(server, next(hosts) if host_of_next else "127.0.0.1") as pool:
                get(pool)
            next(calls)

        stock.fill([Caller(call) for _ in range(100)])
        for number in range(20):
            with pool_of(server, f"127.0.1.{number}") as pool:
                for path in ("/ok", "/close", "/lost", "/lost"):
                    get(pool, path)
            telemetry.collect()
        assert stock.strikes["pool_telemetry._ledger"] > 20
        # From now on a collection may come with every object that is made.
        gc.set_threshold(1)
        for number in range(20, 50):
            drop(Caller(call))
            with pool_of(server, f"127.0.1.{number}") as pool:
                get(pool)
        gc.set_threshold(700)
        del pool
        while stock.rest:
            stock.strikes.clear()
            stock.strike("the rest")
        check_at_the_end(telemetry)
        made = next(calls)
        assert made == 130
        metrics = telemetry.collect()
        requests = 20 * 4 + 2 * 20 + 30 + made  # each of the 20 pools lost one or two races, or found a close
        assert metrics.value("urllib3.pool.creations") == 50 + made
        assert metrics.value("urllib3.pool.opened_connections") == server.books.accepted
        assert metrics.value("urllib3.pool.checkouts") == server.books.requests <= requests


def a_finaliser_that_makes_a_request_while_samples_are_recorded() -> None:
    """The buffer is full then: the finaliser's request would record samples too, under the SDK's lock."""
    with no_faults(), Server() as server:
        stock = Stock()
        arm(("opentelemetry.sdk.metrics",), stock.strike)
        telemetry = Telemetry()
        telemetry.install(metrics="all", spans="off")
        other = pool_of(server)
        get(other)

        with pool_of(server) as pool:
            get(pool)
            get(pool)
            telemetry.collect()  # now the histogram is there, whose lock is to be met
            stock.fill([Caller(partial(get, other)) for _ in range(20)])
            for _ in range(600):
                get(pool)
        assert stock.strikes.total() >= 20
        other.close()
        del pool, other
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=623)
        assert metrics.count("urllib3.connection.idle.duration") == 621


def a_finaliser_that_makes_a_request_while_a_span_is_made() -> None:
    """The finaliser's request opens a connection, which would be another span, under the SDK's lock."""
    with no_faults(), Server() as server:
        stock = Stock()
        telemetry = Telemetry()
        telemetry._exporter._lock = StrikingLock(  # type: ignore[assignment]  # stands in for a lock
            telemetry._exporter._lock, lambda: stock.strike("exporter")
        )
        telemetry.install(spans="all")
        other = pool_of(server)
        get(other)
        stock.fill([Caller(partial(get, other, "/close")) for _ in range(5)])
        with pool_of(server) as pool:
            for _ in range(5):
                get(pool, "/close")
        assert stock.strikes["exporter"] == 5
        other.close()
        del pool, other
        # The SDK suppresses what is done while it exports: that is counted, but leaves no sample behind.
        metrics = telemetry.collect()
        assert metrics.value("urllib3.pool.checkouts") == 11
        assert metrics.value("urllib3.pool.opened_connections") == server.books.accepted == 10
        assert metrics.value("urllib3.pool.closed_connections") == 10
        assert len(telemetry.named("HTTP connection_setup")) == 6


def a_finaliser_that_makes_a_request_between_check_and_checkout() -> None:
    """The drop belongs to the checkout that found it."""

    class Collecting(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "Resetting dropped" in record.getMessage():
                gc.collect()

    telemetry = Telemetry()
    telemetry.install(spans="off")
    with no_faults(), Server() as server, pool_of(server) as pool, pool_of(server) as other:
        logger = logging.getLogger("urllib3.connectionpool")
        logger.setLevel(logging.DEBUG)
        logger.addHandler(Collecting())
        get(other)
        get(pool, "/fin/0")
        server.wait_for(lambda books: books.ended["fin"] == 1)
        (conn,) = [conn for conn in pool.pool.queue if conn is not None]  # type: ignore[union-attr]  # the pool is open
        while not urllib3.util.connection.is_connection_dropped(conn):
            pass
        del conn
        gc.disable()
        drop(Caller(lambda: get(other)))
        get(pool)
        metrics = telemetry.collect()
        assert metrics.by("urllib3.pool.checkouts", "outcome") == {"new": 2, "reused": 1, "replaced": 1}
        assert metrics.by("urllib3.pool.dropped_connections", "reason") == {"fin": 1}
        assert metrics.by("urllib3.pool.closed_connections", "reason") == {"dropped": 1}
        check_laws(metrics, checkouts=4)


def signals_under_our_lock(is_collecting: bool) -> None:
    """A handler collects, or closes what lies in the pools, while this very thread is booking."""
    pools: list[urllib3.HTTPConnectionPool] = []
    with no_faults(), Server() as server:
        telemetry = Telemetry()
        strikes = itertools.count()

        def strike(_: str) -> None:
            if is_armed and not is_handling:
                next(strikes)
                signal.raise_signal(signal.SIGUSR1)

        is_handling: list[bool] = []
        is_armed: list[bool] = []

        def handle(_: int, __: FrameType | None) -> None:
            is_handling.append(True)
            if is_collecting:
                telemetry.collect()
            else:
                close_idle(pools)
            is_handling.clear()

        arm(("pool_telemetry._ledger",), strike)
        telemetry.install(metrics="all", spans="off")
        pool = pool_of(server, maxsize=4)
        pools.append(pool)
        signal.signal(signal.SIGUSR1, handle)
        is_armed.append(True)
        for path in ("/ok", "/close", "/lost", "/lost", "/ok", "/rst/0") * 5:
            get(pool, path)
            held = [get(pool, preload_content=False) for _ in range(3)]
            for response in held:
                response.read()
                response.release_conn()
        is_armed.clear()
        assert next(strikes) > 20
        check_laws(telemetry.collect())
        assert telemetry.collect().value("urllib3.pool.opened_connections") == server.books.accepted
        del held, response
        pool.close()
        pools.clear()
        del pool
        check_at_the_end(telemetry)


def signals_all_the_time(is_collecting: bool, seed: int) -> None:
    telemetry = Telemetry()
    telemetry.install(metrics="all", spans="off")
    ledger: _ledger.Ledger = _instrument._ledger  # type: ignore[assignment]  # installed just before
    handled = itertools.count()
    pools: list[urllib3.HTTPConnectionPool] = []
    is_handling: list[bool] = []

    def handle(_: int, __: FrameType | None) -> None:
        if is_handling:
            return
        is_handling.append(True)
        next(handled)
        if is_collecting:
            # As the SDK would, whose own locks no handler may meet.
            for reading in ledger.read():
                closed = sum(reading.closed.values())
                assert reading.opened - closed == sum(reading.open.values()) == sum(reading.sockets.values())
        else:
            close_idle(pools)
        is_handling.clear()

    with no_faults(), ServerProcess(seed=seed) as server:
        pool = pool_of(server, maxsize=4)
        pools.append(pool)
        signal.signal(signal.SIGPROF, handle)
        signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
        for _ in range(1_000):
            get(pool)
            held = [get(pool, preload_content=False) for _ in range(2)]
            for response in held:
                response.read()
                response.release_conn()
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        assert next(handled) > 30
        del held, response
        pool.close()
        pools.clear()
        del pool
        check_at_the_end(telemetry)
        assert telemetry.collect().value("urllib3.pool.opened_connections") == server.books().accepted


# The tests


def test_books_balance_with_a_collection_at_every_allocation() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    run_apart(collections_all_the_time, seed)


@pytest.mark.parametrize(
    ("prefixes", "expected"),
    [
        (("pool_telemetry",), ("_ledger",)),
        (
            ("opentelemetry.sdk.metrics",),
            ("measurement_consumer", "view_instrument_match", "metric_reader_storage", "aggregation", "export"),
        ),
        (("opentelemetry.sdk.trace", "opentelemetry.sdk.util"), ("sdk.trace", "in_memory_span_exporter")),
    ],
    ids=["ours", "metrics", "spans"],
)
def test_a_collection_under_any_lock_neither_hangs_nor_loses(
    prefixes: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    run_apart(collections_under_locks, prefixes, expected)


@pytest.mark.parametrize("host_of_next", [False, True], ids=["one upstream", "new upstreams"])
def test_a_finaliser_may_make_requests_anywhere(host_of_next: bool) -> None:
    run_apart(finalisers_that_make_requests, host_of_next)


def test_a_finaliser_may_make_a_request_while_samples_are_recorded() -> None:
    run_apart(a_finaliser_that_makes_a_request_while_samples_are_recorded)


def test_a_finaliser_may_make_a_request_while_a_span_is_made() -> None:
    run_apart(a_finaliser_that_makes_a_request_while_a_span_is_made)


def test_a_request_within_a_checkout_does_not_take_its_drop() -> None:
    run_apart(a_finaliser_that_makes_a_request_between_check_and_checkout)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="missing: signal.setitimer")
@pytest.mark.parametrize("is_collecting", [True, False], ids=["collects", "closes"])
def test_a_signal_handler_under_our_lock_neither_hangs_nor_loses(is_collecting: bool) -> None:
    run_apart(signals_under_our_lock, is_collecting)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="missing: signal.setitimer")
@pytest.mark.parametrize("is_collecting", [True, False], ids=["collects", "closes"])
def test_a_signal_handler_at_any_moment_neither_hangs_nor_loses(is_collecting: bool) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    run_apart(signals_all_the_time, is_collecting, seed)


_ = MeterProvider  # the SDK's modules are loaded before they are armed
