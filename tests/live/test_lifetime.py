"""Nothing of ours keeps the application's objects alive, and nothing of ours grows, or is left behind."""

from __future__ import annotations

import gc
import os
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import closing
from typing import Any

import pytest
import urllib3
from urllib3.exceptions import HTTPError

import pool_telemetry
from misbehaving import Server
from pool_telemetry import _instrument, _ledger
from pool_telemetry._records import ConnectionRecord, PoolRecord
from tests.live.apart import run_apart
from tests.support import Telemetry, check_laws

ALIVE = dict[str, weakref.ref[Any]]


def pool_of(server: Server, **options: Any) -> urllib3.HTTPConnectionPool:
    return urllib3.HTTPConnectionPool(server.host, server.port, **options)


def stream(pool: urllib3.HTTPConnectionPool, path: str = "/ok", **options: Any) -> Any:
    return pool.urlopen("GET", path, preload_content=False, retries=False, **options)


def refer(**things: Any) -> ALIVE:
    return {name: weakref.ref(thing) for name, thing in things.items()}


# Each makes something, lets all of it go, and gives what may be dead now.


def idle_connection(server: Server) -> ALIVE:
    pool = pool_of(server)
    response = stream(pool)
    conn = response._connection
    response.read()
    response.release_conn()
    return refer(pool=pool, conn=conn, sock=conn.sock, response=response)


def connection_reused_many_times(server: Server) -> ALIVE:
    pool = pool_of(server)
    for _ in range(300):
        pool.urlopen("GET", "/ok")
    return idle_connection(server) | refer(reused=pool)


def leaked_response(server: Server) -> ALIVE:
    pool = pool_of(server)
    response = stream(pool)
    return refer(pool=pool, response=response, conn=response._connection, sock=response._connection.sock)


def response_closed_unread(server: Server) -> ALIVE:
    pool = pool_of(server)
    response = stream(pool)
    things = refer(pool=pool, response=response, conn=response._connection, sock=response._connection.sock)
    response.close()
    return things


def dropped_connection(server: Server) -> ALIVE:
    pool = pool_of(server)
    before = server.books.ended["fin"]
    response = stream(pool, "/fin/0")
    things = refer(pool=pool, conn=response._connection, sock=response._connection.sock)
    response.read()
    response.release_conn()
    del response
    server.wait_for(lambda books: books.ended["fin"] > before)
    time.sleep(0.02)
    pool.urlopen("GET", "/ok")
    return things


def lost_race(server: Server) -> ALIVE:
    pool = pool_of(server)
    response = stream(pool, "/lost")
    things = refer(pool=pool, conn=response._connection, sock=response._connection.sock)
    response.read()
    response.release_conn()
    del response
    with pytest.raises(HTTPError):
        stream(pool, "/lost")
    return things


def failed_setup(server: Server) -> ALIVE:
    pool = urllib3.HTTPConnectionPool("127.0.0.1", 1, timeout=2)
    with pytest.raises(HTTPError):
        stream(pool)
    return refer(pool=pool)


def closed_pool(server: Server) -> ALIVE:
    things = None
    with pool_of(server) as pool:
        response = stream(pool)
        things = refer(pool=pool, response=response, conn=response._connection, sock=response._connection.sock)
        response.read()
        response.release_conn()
    return things


def blocking_pool(server: Server) -> ALIVE:
    pool = pool_of(server, block=True)
    held = stream(pool)
    with pytest.raises(HTTPError):
        stream(pool, pool_timeout=0.02)
    things = refer(pool=pool, response=held, conn=held._connection, sock=held._connection.sock)
    held.close()
    return things


MAKERS = [
    idle_connection,
    connection_reused_many_times,
    leaked_response,
    response_closed_unread,
    dropped_connection,
    lost_race,
    failed_setup,
    closed_pool,
    blocking_pool,
]


def alive_after(make: Callable[[Server], ALIVE], server: Server) -> set[str]:
    """Which of the things outlive their last name, without a collection."""
    gc.collect()
    gc.disable()
    try:
        things = make(server)
        alive = {name for name, reference in things.items() if reference() is not None}
    finally:
        gc.enable()
    # urllib3's exceptions hold what they are of in cycles; but nothing else may.
    gc.collect()
    assert not [name for name, reference in things.items() if reference() is not None]
    return alive


@pytest.mark.parametrize("collects", [False, True], ids=["", "collecting"])
@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__.replace("_", " "))
def test_what_dies_with_plain_urllib3_dies_with_us(
    telemetry: Telemetry, make: Callable[[Server], ALIVE], collects: bool
) -> None:
    with Server() as server:
        plain = alive_after(make, server)
        telemetry.install(metrics="all", spans="all")

        def watched(server: Server) -> ALIVE:
            with telemetry.tracer.start_as_current_span("request"):
                things = make(server)
            if collects:
                telemetry.collect()
            return things

        if collects:
            telemetry.collect()
        assert alive_after(watched, server) == plain


def test_records_of_what_has_ended_need_no_garbage_collection(telemetry: Telemetry) -> None:
    def records() -> list[Any]:
        return [each for each in gc.get_objects() if isinstance(each, (ConnectionRecord, PoolRecord))]

    telemetry.install(metrics="all", spans="all")
    with Server() as server:
        gc.collect()
        gc.disable()
        try:
            before = records()  # of other tests
            for _ in range(20):
                with urllib3.HTTPConnectionPool(server.host, server.port) as pool:
                    pool.request("GET", "/ok")
            del pool
            telemetry.collect()
            left = [each for each in records() if not any(each is other for other in before)]
        finally:
            gc.enable()
    assert not left


def test_the_applications_span_is_not_kept(telemetry: Telemetry) -> None:
    telemetry.install(metrics="all", spans="all")
    with Server() as server, pool_of(server) as pool:
        gc.disable()
        try:
            with telemetry.tracer.start_as_current_span("first") as span:
                pool.urlopen("GET", "/ok")
                pool.urlopen("GET", "/ok")
            reference = weakref.ref(span)
            del span
            assert reference() is None
        finally:
            gc.enable()


def size_of(ledger: _ledger.Ledger) -> dict[str, int]:
    """Whatever could grow."""
    books = ledger._books.values()
    return {
        "posted": len(ledger._posted),
        "samples": len(ledger.samples.waiting),
        "left alone": len(ledger._left_alone),
        "books": len(books),
        "pools": sum(len(book.pools) for book in books),
        "connections": sum(len(book.connections) for book in books),
        "out": sum(len(book.out) for book in books),
        "waiting": sum(len(book.waiting) for book in books),
        "series": sum(len(book.open_keys) + len(book.socket_keys) + len(book.size_keys) for book in books),
    }


def many_sessions(sessions: int) -> None:
    telemetry = Telemetry()
    telemetry.install(metrics="all", spans="off")
    ledger = _instrument._ledger
    assert ledger is not None
    paths = ("/ok", "/close", "/lost")
    with Server() as server:

        def work(count: int) -> None:
            for number in range(count):
                with urllib3.PoolManager(retries=3, maxsize=3, block=bool(number % 2)) as http:
                    for _ in range(2):
                        http.request("GET", server.url + paths[number % 3])
                    if number % 5 == 0:
                        http.request("GET", server.url + "/ok", preload_content=False)  # leaked
                    if number % 7 == 0:
                        http.request("GET", server.url + "/ok", preload_content=False).close()
            del http

        def look() -> tuple[dict[str, int], int, int, int]:
            gc.collect()
            telemetry.collect()
            server.wait_for(lambda books: books.open == 0)
            while threading.active_count() > 2:  # the server's own, of connections that have just ended
                time.sleep(0.01)
            gc.collect()
            return size_of(ledger), len(gc.get_objects()), threading.active_count(), len(os.listdir("/proc/self/fd"))

        work(150)
        before, objects, threads, descriptors = look()
        work(sessions)
        after, objects_after, threads_after, descriptors_after = look()
        live = {name: size for name, size in after.items() if name not in ("books", "series")}
        assert not any(live.values()), live
        assert after == before
        assert threads_after == threads
        assert descriptors_after == descriptors
        assert objects_after - objects < 100, f"{objects} objects have become {objects_after}"
        metrics = telemetry.collect()
        check_laws(metrics)
        assert metrics.value("urllib3.pool.creations") == sessions + 150
        assert metrics.value("urllib3.pool.count") == 0
        assert metrics.value("http.client.open_connections") == 0
        assert metrics.value("urllib3.pool.leaked_connections") > 0


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="missing: /proc/self/fd")
def test_thousands_of_short_sessions_leave_nothing_behind() -> None:
    run_apart(many_sessions, 2_000)


@pytest.mark.parametrize("metrics", ["off", "core"])
def test_the_ledger_stays_flat_when_nobody_collects(telemetry: Telemetry, metrics: str) -> None:
    telemetry.install(metrics=metrics, spans="off")
    ledger = _instrument._ledger
    assert ledger is not None
    with Server() as server:
        sizes = []
        for _ in range(2):
            for _ in range(200):
                with closing(pool_of(server)) as pool:
                    pool.urlopen("GET", "/ok")
                    pool.urlopen("GET", "/ok")
            del pool
            sizes.append(size_of(ledger))
        # Booked by whoever comes next: the last pool's end alone may be waiting.
        for size in sizes:
            assert size["posted"] <= 3
            assert size["samples"] <= 256
            assert size["connections"] <= 1
            assert size["pools"] <= 1
            assert size["out"] == 0


@pytest.mark.parametrize("metrics", ["off", "core"])
def test_snapshots_alone_let_no_samples_gather(telemetry: Telemetry, metrics: str) -> None:
    telemetry.install(metrics=metrics, spans="off")
    ledger = _instrument._ledger
    assert ledger is not None
    with Server() as server, pool_of(server) as pool:
        for _ in range(30):
            for _ in range(30):
                pool.urlopen("GET", "/ok")
            (upstream,) = pool_telemetry.snapshot().upstreams
            assert len(ledger.samples.waiting) + len(ledger.samples.tallied) <= 256
        assert upstream.idle_seconds["reused"].count == 899  # each once
    if metrics == "core":
        assert telemetry.collect().count("urllib3.connection.idle.duration") == 899


def test_installing_a_hundred_times_leaves_nothing_behind(telemetry: Telemetry) -> None:
    with Server() as server, pool_of(server) as pool:

        def cycle() -> None:
            telemetry.install(metrics="all")
            pool.urlopen("GET", "/ok")
            telemetry.collect()
            pool_telemetry.uninstall()

        for _ in range(10):
            cycle()
        gc.collect()
        threads, objects = threading.active_count(), len(gc.get_objects())
        for _ in range(100):
            cycle()
        gc.collect()
        assert threading.active_count() == threads
        assert len(gc.get_objects()) - objects < 100
