"""A forked child starts with empty books of its own, adopts what it inherits, and never hangs."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import Any

import pytest
import urllib3

import pool_telemetry
from misbehaving import Server, ServerProcess
from pool_telemetry import _forking, _hooks, _instrument
from tests.live.apart import CHILD_SECONDS, in_child, run_apart
from tests.support import Metrics, Telemetry, check_laws

_ = _hooks  # imported, with all that it imports, before os.register_at_fork is taken away
THREADS = 8
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="missing: os.fork")


def pool_of(server: Server | ServerProcess, **options: Any) -> urllib3.HTTPConnectionPool:
    return urllib3.HTTPConnectionPool(server.host, server.port, **options)


def figures(metrics: Metrics) -> dict[str, float]:
    """The totals and levels of one collection; the laws hold in it."""
    names = {
        "checkouts": "urllib3.pool.checkouts",
        "opened": "urllib3.pool.opened_connections",
        "closed": "urllib3.pool.closed_connections",
        "open": "http.client.open_connections",
        "pools": "urllib3.pool.count",
        "creations": "urllib3.pool.creations",
        "peak": "urllib3.pool.active.peak",
        "leaked": "urllib3.pool.leaked_connections",
    }
    assert metrics.value("urllib3.pool.socket.count") == metrics.value("http.client.open_connections")
    return {short: metrics.value(name) for short, name in names.items()}


def fresh_telemetry(**settings: Any) -> Telemetry:
    """Providers of the child's own: those of the parent bring its histograms along, and its locks as they were."""
    pool_telemetry.uninstall()
    telemetry = Telemetry()
    telemetry.install(**settings)
    return telemetry


def is_dying_shown() -> None:
    import faulthandler

    faulthandler.enable()


# Programs, each run in an interpreter of its own


def child_with_books_of_its_own() -> None:
    is_dying_shown()
    telemetry = Telemetry()
    telemetry.install(spans="off")
    with Server() as server, pool_of(server, maxsize=3) as pool, pool_of(server) as second:
        for _ in range(3):
            pool.urlopen("GET", "/ok")
        second.urlopen("GET", "/ok")
        before = figures(telemetry.collect())
        assert before["checkouts"] == 4

        def work() -> list[dict[str, float]]:
            at_first = figures(telemetry.collect())
            with pool_of(server) as own:
                own.urlopen("GET", "/ok")
                own.urlopen("GET", "/ok")
                during = figures(telemetry.collect())
            return [at_first, during, figures(telemetry.collect())]

        at_first, during, at_last = in_child(work)
        assert set(at_first.values()) <= {0}
        assert (during["checkouts"], during["opened"], during["open"], during["pools"]) == (2, 1, 1, 1)
        assert during["peak"] == during["creations"] == 1
        assert (at_last["closed"], at_last["open"]) == (1, 0)
        assert figures(telemetry.collect()) == before
        pool.urlopen("GET", "/ok")
        after = figures(telemetry.collect())
        assert after == {**before, "checkouts": 5}
        check_laws(telemetry.collect(), checkouts=5)


def child_that_inherits_a_connection(is_hooked: bool, is_in_use: bool, is_busy: bool) -> None:
    """Idle or in use at the fork; also where no fork hook runs, and while another thread holds the ledger's lock."""
    is_dying_shown()
    if not is_hooked:
        del os.register_at_fork
    telemetry = Telemetry()
    telemetry.install(spans="off")
    ledger = _instrument._ledger
    assert ledger is not None
    with Server() as server, contextlib.ExitStack() as held:
        if is_busy:
            taken, done = threading.Event(), threading.Event()

            def hold() -> None:
                with ledger._lock:
                    taken.set()
                    done.wait(CHILD_SECONDS)

            holder = threading.Thread(target=hold)
            holder.start()
            taken.wait()
            held.callback(holder.join)
            held.callback(done.set)
        pool = pool_of(server)
        response = pool.urlopen("GET", "/ok", preload_content=False)
        if not is_in_use:
            response.read()
            response.release_conn()

        def work() -> list[dict[str, float]]:
            if is_in_use:
                response.read()
                response.release_conn()
            pool.urlopen("GET", "/ok")
            used = figures(telemetry.collect())
            pool.urlopen("GET", "/ok")
            again = figures(telemetry.collect())
            pool.close()
            return [used, again, figures(telemetry.collect())]

        used, again, closed = in_child(work)
        if is_hooked:
            assert (used["opened"], used["open"], used["closed"]) == (0, 1, 0), used
            assert (used["checkouts"], used["pools"], used["peak"]) == (1, 1, 1), used
        else:
            # The fork is noticed by the first connect or collection, not by a reuse.
            assert set(used.values()) <= {0}, used
        assert again["checkouts"] == used["checkouts"] + 1, again
        assert (again["open"], again["opened"], again["closed"], again["pools"]) == (1, 0, 0, 1), again
        assert (closed["open"], closed["opened"], closed["closed"], closed["pools"]) == (0, 0, 1, 0), closed
        held.close()
        assert figures(telemetry.collect())["opened"] == 1
        if is_in_use:
            response.close()
        pool.close()


def child_without_a_hook_that_connects() -> None:
    is_dying_shown()
    del os.register_at_fork
    telemetry = Telemetry()
    telemetry.install(spans="off")
    with Server() as server, pool_of(server) as pool:
        held = pool.urlopen("GET", "/ok", preload_content=False)
        pool.urlopen("GET", "/close")

        def work() -> dict[str, float]:
            with pool_of(server) as own:
                own.urlopen("GET", "/ok")
                own.urlopen("GET", "/ok")
                return figures(telemetry.collect())

        found = in_child(work)
        assert (found["checkouts"], found["opened"], found["open"], found["closed"]) == (2, 1, 1, 0)
        assert (found["pools"], found["creations"], found["peak"]) == (1, 1, 1)
        held.read()
        held.release_conn()
        check_laws(telemetry.collect(), checkouts=2)


def child_without_a_hook_whose_threads_come_together() -> None:
    is_dying_shown()
    del os.register_at_fork
    telemetry = Telemetry()
    telemetry.install(spans="off")
    sys.setswitchinterval(1e-6)
    with Server() as server, pool_of(server) as pool:
        pool.urlopen("GET", "/ok")

        def work() -> dict[str, float]:
            together = threading.Barrier(THREADS)

            def ask() -> None:
                with pool_of(server) as own:
                    together.wait()
                    own.urlopen("GET", "/ok")
                    own.urlopen("GET", "/ok")

            threads = [threading.Thread(target=ask) for _ in range(THREADS)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return figures(telemetry.collect())

        for _ in range(10):
            found = in_child(work)
            assert (found["checkouts"], found["opened"], found["closed"]) == (2 * THREADS, THREADS, THREADS), found
            assert (found["open"], found["pools"], found["creations"]) == (0, 0, THREADS), found


class SlowHistogram:
    """Stands for a histogram of the SDK, whose lock is not made anew in a child."""

    def __init__(self, may_end: threading.Event | None = None) -> None:
        self._lock = threading.Lock()
        self.is_recording = threading.Event()
        self.may_end = may_end
        self.recorded = 0

    def record(self, amount: float, attributes: Any = None, context: Any = None) -> None:
        with self._lock:
            self.is_recording.set()
            if self.may_end is None:
                time.sleep(0.02)
            else:
                self.may_end.wait(2 * CHILD_SECONDS)
            self.recorded += 1


def fork_while_samples_are_recorded() -> None:
    """Another thread is at it, under the SDK's lock; the child must be able to take that lock."""
    is_dying_shown()
    _forking._PATIENCE = CHILD_SECONDS
    telemetry = Telemetry()
    telemetry.install(spans="off", metrics="all")
    emitter = _instrument._emitter
    assert emitter is not None
    assert emitter._instruments is not None
    histogram: Any = SlowHistogram()
    emitter._instruments.histograms["urllib3.connection.idle.duration"] = histogram
    with Server() as server, pool_of(server) as pool:

        def work() -> int:
            before: int = histogram.recorded
            for _ in range(3):  # how long it was idle before the first of them nobody knows here
                pool.urlopen("GET", "/ok")
            emitter.flush()
            after: int = histogram.recorded
            return after - before

        for round_ in range(5):
            pool.urlopen("GET", "/ok")
            pool.urlopen("GET", "/ok")
            recorder = threading.Thread(target=emitter.flush, kwargs={"can_wait": round_ % 2 == 0})
            recorder.start()
            assert histogram.is_recording.wait(CHILD_SECONDS)
            assert in_child(work) == 2
            recorder.join()
            histogram.is_recording.clear()


def fork_while_samples_are_recorded_for_long() -> None:
    """The fork does not wait for ever; then the child leaves alone what it could only hang at."""
    is_dying_shown()
    _forking._PATIENCE = 0.05
    telemetry = Telemetry()
    telemetry.install(spans="off", metrics="all")
    emitter = _instrument._emitter
    assert emitter is not None
    assert emitter._instruments is not None
    histogram: Any = SlowHistogram(threading.Event())
    emitter._instruments.histograms["urllib3.connection.idle.duration"] = histogram
    with Server() as server, pool_of(server) as pool:

        def work() -> list[float]:
            with pool_of(server) as own:
                own.urlopen("GET", "/ok")
                own.urlopen("GET", "/ok")
                emitter.flush()
                (upstream,) = pool_telemetry.snapshot().upstreams
                own_telemetry = fresh_telemetry()
                for _ in range(2):
                    own.urlopen("GET", "/ok")
                metrics = own_telemetry.collect()
                counted = upstream.idle_seconds["reused"].count
                return [counted, metrics.count("urllib3.connection.idle.duration"), histogram.recorded]

        pool.urlopen("GET", "/ok")
        pool.urlopen("GET", "/ok")
        recorder = threading.Thread(target=emitter.flush)
        recorder.start()
        assert histogram.is_recording.wait(CHILD_SECONDS)
        try:
            assert in_child(work) == [1, 1, 0]
        finally:
            histogram.may_end.set()
            recorder.join()
        pool.urlopen("GET", "/ok")
        emitter.flush()
        assert histogram.recorded == 2


def fork_while_a_pool_is_being_entered() -> None:
    is_dying_shown()
    telemetry = Telemetry()
    telemetry.install(spans="off")
    ledger = _instrument._ledger
    assert ledger is not None
    with Server() as server:
        taken, done = threading.Event(), threading.Event()

        def hold() -> None:
            with ledger.entering:
                taken.set()
                done.wait(CHILD_SECONDS + 5)

        holder = threading.Thread(target=hold)
        holder.start()
        taken.wait()

        def work() -> float:
            with pool_of(server) as own:
                own.urlopen("GET", "/ok")
                return telemetry.collect().value("urllib3.pool.opened_connections")

        try:
            assert in_child(work) == 1
        finally:
            done.set()
            holder.join()


# The tests


def test_a_child_begins_with_empty_books_and_leaves_the_parents_alone() -> None:
    run_apart(child_with_books_of_its_own)


@pytest.mark.parametrize("is_busy", [False, True], ids=["", "lock held"])
@pytest.mark.parametrize("is_in_use", [False, True], ids=["idle", "in use"])
@pytest.mark.parametrize("is_hooked", [True, False], ids=["hooked", "no hook"])
def test_an_inherited_connection_is_adopted(is_hooked: bool, is_in_use: bool, is_busy: bool) -> None:
    run_apart(child_that_inherits_a_connection, is_hooked, is_in_use, is_busy)


def test_a_child_is_noticed_where_no_hook_runs() -> None:
    run_apart(child_without_a_hook_that_connects)


def test_threads_that_come_together_where_no_hook_has_run_empty_the_books_once() -> None:
    run_apart(child_without_a_hook_whose_threads_come_together)


def test_a_fork_while_samples_are_recorded_leaves_no_lock_of_the_sdk_locked() -> None:
    run_apart(fork_while_samples_are_recorded)


def test_a_fork_while_samples_are_recorded_for_long_costs_the_child_those_histograms_and_nothing_else() -> None:
    run_apart(fork_while_samples_are_recorded_for_long)


def test_a_fork_while_a_pool_is_being_entered_does_not_hang_the_child() -> None:
    run_apart(fork_while_a_pool_is_being_entered)
