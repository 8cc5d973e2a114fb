"""How many connections are in use, who waits for one, and for how long."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import urllib3
from urllib3.exceptions import ClosedPoolError, EmptyPoolError

from misbehaving import Server
from tests.support import Telemetry, check_laws, manager

WAIT = "urllib3.pool.wait.duration"
CHECKOUTS = "urllib3.pool.checkouts"


def pool_of(server: Server, **options: Any) -> urllib3.HTTPConnectionPool:
    return urllib3.HTTPConnectionPool(server.host, server.port, **options)


def stream(pool: urllib3.HTTPConnectionPool, **options: Any) -> Any:
    return pool.urlopen("GET", "/ok", preload_content=False, retries=False, **options)


def give_back(response: Any) -> None:
    response.read()
    response.release_conn()


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not come about"
        time.sleep(0.005)


@pytest.mark.parametrize("threads", [1, 7])
@pytest.mark.parametrize("is_block", [False, True])
def test_the_peak_is_what_was_in_use_at_once_and_stays(telemetry: Telemetry, threads: int, is_block: bool) -> None:
    telemetry.install(spans="off")
    with Server() as server, pool_of(server, maxsize=7, block=is_block) as pool:
        all_hold = threading.Barrier(threads)

        def hold(_: int) -> None:
            response = stream(pool)
            all_hold.wait(60)
            give_back(response)

        with ThreadPoolExecutor(threads) as executor:
            list(executor.map(hold, range(threads)))
        assert telemetry.collect().value("urllib3.pool.active.peak") == threads
        pool.urlopen("GET", "/ok")
        metrics = telemetry.collect()
        assert metrics.value("urllib3.pool.active.peak") == threads
        assert metrics.by("http.client.open_connections", "state") == {"idle": threads}


def test_the_peak_of_an_upstream_adds_its_pools_up_and_leaves_others_out(telemetry: Telemetry) -> None:
    telemetry.install(spans="off")
    with Server() as server, Server() as other:
        pools = [pool_of(server, maxsize=3), pool_of(server, maxsize=3), pool_of(other, maxsize=3)]
        held = [stream(pool) for pool in pools for _ in range(3)]
        during = telemetry.collect()
        for response in held:
            give_back(response)
        metrics = telemetry.collect()
        assert during.value("urllib3.pool.active.peak", server__port=server.port) == 6
        assert metrics.value("urllib3.pool.active.peak", server__port=server.port) == 6
        assert metrics.value("urllib3.pool.active.peak", server__port=other.port) == 3
        assert during.by("http.client.open_connections", "state", server__port=server.port) == {"active": 6}
        assert metrics.by("http.client.open_connections", "state", server__port=server.port) == {"idle": 6}
        for pool in pools:
            pool.close()


def test_one_after_the_other_is_a_peak_of_one(telemetry: Telemetry) -> None:
    telemetry.install(spans="off")
    with Server() as server, pool_of(server, maxsize=5) as pool:
        for path in ("/ok", "/close", "/lost", "/lost", "/fin/0", "/ok"):
            pool.urlopen("GET", path, retries=3)
        assert telemetry.collect().value("urllib3.pool.active.peak") == 1


def test_an_abandoned_response_is_not_in_use_for_ever(telemetry: Telemetry) -> None:
    telemetry.install(spans="off")
    with Server() as server, pool_of(server, maxsize=5) as pool:
        for _ in range(4):
            stream(pool).close()
        metrics = telemetry.collect()
        assert metrics.value("urllib3.pool.active.peak") == 1
        assert metrics.by("urllib3.pool.closed_connections", "reason") == {"abandoned": 4}
        assert metrics.value("urllib3.pool.leaked_connections") == 4


def test_a_closed_connection_is_not_in_use(telemetry: Telemetry) -> None:
    telemetry.install(spans="off")
    with Server() as server, pool_of(server, maxsize=5) as pool:
        kept = []
        for _ in range(4):
            response = stream(pool)
            response.close()
            kept.append(response)
        metrics = telemetry.collect()
        assert metrics.value("http.client.open_connections") == 0
        assert metrics.value("urllib3.pool.active.peak") == 1
        # Nothing has leaked yet: each could still be given back.
        assert metrics.value("urllib3.pool.leaked_connections") == 0
        kept.pop().release_conn()
        del response
        kept.clear()
        assert telemetry.collect().value("urllib3.pool.leaked_connections") == 3


def test_threads_that_wait_are_pending_until_they_get_a_connection(telemetry: Telemetry) -> None:
    telemetry.install(spans="off")
    with Server() as server, pool_of(server, maxsize=2, block=True) as pool:
        held = [stream(pool), stream(pool)]
        with ThreadPoolExecutor(5) as executor:
            waiting = [executor.submit(lambda: pool.urlopen("GET", "/ok").status) for _ in range(5)]
            until(lambda: telemetry.collect().value("urllib3.pool.pending_requests") == 5)
            time.sleep(0.2)
            assert telemetry.collect().count(WAIT) == 2
            for response in held:
                give_back(response)
            assert [future.result() for future in waiting] == [200] * 5
        metrics = telemetry.collect()
        assert metrics.value("urllib3.pool.pending_requests") == 0
        # The two that got one at once count too, with a wait of zero.
        assert metrics.count(WAIT) == 7
        (point,) = metrics.points(WAIT)
        assert "error.type" not in point.attributes
        assert point.min == 0
        assert 0.2 <= point.max < 5
        assert 5 * 0.2 <= point.sum < 5 * 5
        check_laws(metrics, checkouts=7)
        assert metrics.value("urllib3.pool.active.peak") == 2


def test_no_wait_is_told_of_a_pool_that_does_not_block(telemetry: Telemetry) -> None:
    telemetry.install(spans="off")
    with Server() as server, pool_of(server, maxsize=1) as pool:
        held = stream(pool)
        pool.urlopen("GET", "/ok")
        give_back(held)
        metrics = telemetry.collect()
        assert metrics.count(WAIT) == 0
        assert metrics.value("urllib3.pool.pending_requests") == 0
        assert metrics.by("urllib3.pool.size", "block") == {False: 1}
        check_laws(metrics, checkouts=2)


def test_a_wait_in_vain_is_timed_out(telemetry: Telemetry) -> None:
    telemetry.install(metrics="all")
    with Server() as server, pool_of(server, maxsize=1, block=True) as pool:
        held = stream(pool)
        with pytest.raises(EmptyPoolError):
            stream(pool, pool_timeout=0.1)
        give_back(held)
        metrics = telemetry.collect()
        assert metrics.by(CHECKOUTS, "outcome") == {"new": 1, "timed_out": 1}
        check_laws(metrics, checkouts=2)
        (failed,) = metrics.points(WAIT, error__type="urllib3.exceptions.EmptyPoolError")
        assert (failed.count, 0.1 <= failed.sum < 2) == (1, True)
        assert metrics.count(WAIT) == 2
        assert metrics.value("urllib3.pool.pending_requests") == 0
        (span,) = telemetry.named("HTTP wait_for_connection")
        assert span.attributes is not None
        assert span.attributes["urllib3.pool.checkout.outcome"] == "timed_out"
        assert span.attributes["error.type"] == "urllib3.exceptions.EmptyPoolError"


def test_a_wait_that_is_broken_off_is_over(telemetry: Telemetry) -> None:
    class BrokenOffError(BaseException):
        """As gevent's Timeout, or a KeyboardInterrupt."""

    def break_off(*_: object) -> None:
        raise BrokenOffError

    telemetry.install(spans="off")
    with Server() as server, pool_of(server, maxsize=1, block=True) as pool:
        held = stream(pool)
        before = signal.signal(signal.SIGUSR1, break_off)
        timer = threading.Timer(0.1, signal.pthread_kill, (threading.get_ident(), signal.SIGUSR1))
        try:
            timer.start()
            with pytest.raises(BrokenOffError):
                stream(pool)
        finally:
            timer.join()
            signal.signal(signal.SIGUSR1, before)
        held.close()
        metrics = telemetry.collect()
        assert metrics.by(CHECKOUTS, "outcome") == {"new": 1, "timed_out": 1}
        assert metrics.value("urllib3.pool.pending_requests") == 0
        (failed,) = [point for point in metrics.points(WAIT) if "error.type" in point.attributes]
        assert failed.count == 1
        assert failed.sum >= 0.09
        check_laws(metrics, checkouts=2)


@pytest.mark.parametrize("is_block", [False, True])
def test_a_checkout_of_a_closed_pool_is_told_as_one(telemetry: Telemetry, is_block: bool) -> None:
    telemetry.install(spans="off")
    with Server() as server:
        pool = pool_of(server, maxsize=1, block=is_block)
        pool.urlopen("GET", "/ok")
        pool.close()
        with pytest.raises(ClosedPoolError):
            stream(pool)
        metrics = telemetry.collect()
        assert metrics.by(CHECKOUTS, "outcome") == {"new": 1, "pool_closed": 1}
        assert metrics.by("urllib3.pool.closed_connections", "reason") == {"pool_closed": 1}
        assert metrics.count(WAIT, error__type="urllib3.exceptions.ClosedPoolError") == is_block
        check_laws(metrics, checkouts=2)
        assert metrics.value("urllib3.pool.count") == 0


def test_a_pool_closed_under_a_waiting_thread_ends_the_wait(telemetry: Telemetry) -> None:
    telemetry.install(spans="off")
    with Server() as server:
        pool = pool_of(server, maxsize=1, block=True)
        held = stream(pool)
        with ThreadPoolExecutor(1) as executor:
            waiting = executor.submit(stream, pool, pool_timeout=0.5)
            until(lambda: telemetry.collect().value("urllib3.pool.pending_requests") == 1)
            pool.close()
            with pytest.raises((EmptyPoolError, ClosedPoolError)):
                waiting.result(5)
        give_back(held)
        metrics = telemetry.collect()
        assert metrics.value("urllib3.pool.pending_requests") == 0
        assert metrics.count(WAIT) == 2
        check_laws(metrics, checkouts=2)
        assert metrics.by("urllib3.pool.closed_connections", "reason") == {"pool_closed": 1}


def test_pools_are_counted_and_their_sizes_added_up_while_they_live(telemetry: Telemetry) -> None:
    telemetry.install(spans="off")
    with Server() as server:
        pools = [pool_of(server, maxsize=size, block=block) for size, block in ((3, False), (4, False), (5, True))]
        untouched = pool_of(server, maxsize=9)
        for pool in pools:
            for _ in range(2):
                pool.urlopen("GET", "/ok")
        metrics = telemetry.collect()
        assert metrics.value("urllib3.pool.count") == 3  # a pool that nobody used yet is not seen
        assert metrics.value("urllib3.pool.creations") == 3
        assert metrics.by("urllib3.pool.size", "block") == {False: 7, True: 5}

        pools.pop(0).close()
        closed = telemetry.collect()
        del pool
        pools.pop(0)  # not closed, only let go
        gone = telemetry.collect()
        assert [each.value("urllib3.pool.count") for each in (closed, gone)] == [2, 1]
        assert closed.by("urllib3.pool.size", "block") == {False: 4, True: 5}
        assert gone.by("urllib3.pool.size", "block") == {True: 5}
        assert len(gone.points("urllib3.pool.size", block=False)) == 1  # the series stays, at 0
        assert gone.value("urllib3.pool.creations") == 3
        check_laws(gone, checkouts=6)
        untouched.close()
        pools.pop().close()


def test_a_session_made_for_every_request_shows_in_the_creations(telemetry: Telemetry) -> None:
    telemetry.install(spans="off")
    with Server() as server:
        for _ in range(20):
            with manager() as http:
                http.request("GET", server.url + "/ok")
        del http
        metrics = telemetry.collect()
        assert metrics.value("urllib3.pool.creations") == 20
        assert metrics.value("urllib3.pool.count") == 0
        assert metrics.by("urllib3.pool.closed_connections", "reason") == {"pool_closed": 20}


def test_use_time_is_the_time_between_checkout_and_return(telemetry: Telemetry) -> None:
    telemetry.install(metrics="all", spans="off")
    with Server() as server, pool_of(server, maxsize=2) as pool:
        started_at = time.monotonic()
        held = [stream(pool), stream(pool)]
        time.sleep(0.3)
        for response in held:
            give_back(response)
        took = time.monotonic() - started_at
        returned = telemetry.collect().value("urllib3.pool.use.time")
        assert 2 * 0.3 <= returned <= 2 * took
        time.sleep(0.2)
        # Idle time is none of it, and closing neither adds to it nor takes from it.
        assert telemetry.collect().value("urllib3.pool.use.time") == returned
        pool.close()
        assert telemetry.collect().value("urllib3.pool.use.time") == returned


def test_use_time_ends_with_an_abandoned_connection(telemetry: Telemetry) -> None:
    telemetry.install(metrics="all", spans="off")
    with Server() as server, pool_of(server) as pool:
        response = stream(pool)
        time.sleep(0.15)
        response.close()
        closed = telemetry.collect().value("urllib3.pool.use.time")
        assert 0.15 <= closed < 2
        time.sleep(0.1)
        del response
        assert telemetry.collect().value("urllib3.pool.use.time") == closed
