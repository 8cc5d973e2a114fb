"""The books balance to the last connection, at every moment, under threads and against a server's own books."""

from __future__ import annotations

import gc
import logging
import queue
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import urllib3
from urllib3.exceptions import HTTPError

import pool_telemetry
from misbehaving import Server, ServerProcess
from tests.support import Metrics, Telemetry, check_laws, manager

THREADS = 16
RETRIES = urllib3.Retry(total=100, redirect=0, status=0, backoff_factor=0)
COUNTERS = (
    "urllib3.pool.checkouts",
    "urllib3.pool.dropped_connections",
    "urllib3.pool.opened_connections",
    "urllib3.pool.closed_connections",
    "urllib3.pool.leaked_connections",
    "urllib3.pool.creations",
    "urllib3.pool.use.time",
)


@pytest.fixture(autouse=True)
def urllib3_is_quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR, "urllib3")


@contextmanager
def threads_switched_often() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


def let_go(http: urllib3.PoolManager) -> None:
    """Closes all pools, which takes that nothing refers to them any more; urllib3's exceptions do so in cycles."""
    gc.collect()  # what was leaked is to be collected while its pool is open
    http.clear()
    gc.collect()


class Calls:
    """Counts ``_get_conn`` on its own, beneath no hook: in subclasses of the pools."""

    def __init__(self) -> None:
        self._calls: list[None] = []  # appending is atomic without a GIL as well
        calls = self._calls

        class CountingHTTP(urllib3.HTTPConnectionPool):
            def _get_conn(self, timeout: float | None = None) -> Any:
                calls.append(None)
                return super()._get_conn(timeout)

        class CountingHTTPS(urllib3.HTTPSConnectionPool):
            def _get_conn(self, timeout: float | None = None) -> Any:
                calls.append(None)
                return super()._get_conn(timeout)

        self.classes = {"http": CountingHTTP, "https": CountingHTTPS}

    def total(self) -> int:
        return len(self._calls)

    def watch(self, http: urllib3.PoolManager) -> urllib3.PoolManager:
        http.pool_classes_by_scheme = self.classes
        return http


class Collector:
    """Collects without a pause while a load runs; each collection must balance, and no counter may go back."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._totals: dict[Any, float] = {}
        self.collections = 0
        self.faults: list[str] = []

    def __enter__(self) -> Collector:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.003):
            self.check(self._telemetry.collect())

    def check(self, metrics: Metrics, adopted: int = 0) -> None:
        self.collections += 1
        opened = metrics.value("urllib3.pool.opened_connections") + adopted
        closed = metrics.value("urllib3.pool.closed_connections")
        open_now, sockets = metrics.value("http.client.open_connections"), metrics.value("urllib3.pool.socket.count")
        if not opened - closed == open_now == sockets:
            self.faults.append(f"{opened} opened - {closed} closed, {open_now} open, {sockets} sockets")
        for name in COUNTERS:
            for point in metrics.points(name):
                key = (name, tuple(sorted(point.attributes.items())))
                if point.value < self._totals.get(key, 0):
                    self.faults.append(f"{key} went from {self._totals[key]} to {point.value}")
                self._totals[key] = point.value


class Load:
    """What the client did, counted by itself."""

    def __init__(self, http: urllib3.PoolManager, url: str, seed: int, *, is_block: bool) -> None:
        self._http, self._url, self._seed, self._is_block = http, url, seed, is_block
        self._lock = threading.Lock()
        self.statuses: Counter[int] = Counter()
        self.failures: Counter[str] = Counter()
        self.unreturned = 0
        self.faults: list[BaseException] = []

    def run(self, requests: int, one: Callable[[Load, random.Random], None], threads: int = THREADS) -> None:
        """So many requests in all."""

        def work(number: int) -> None:
            rng = random.Random(f"{self._seed}/{number}")
            try:
                for _ in range(requests // threads):
                    one(self, rng)
            except BaseException as fault:
                self.faults.append(fault)

        workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if self.faults:
            raise self.faults[0]

    def answered(self, response: Any, *, unreturned: bool = False) -> None:
        with self._lock:
            self.statuses[response.status] += 1
            self.unreturned += unreturned

    def get(self) -> None:
        self.answered(self._http.request("GET", self._url + "/ok", retries=RETRIES))

    def post(self) -> None:
        try:
            self.answered(self._http.request("POST", self._url + "/ok", body=b"x", retries=False))
        except HTTPError as error:
            with self._lock:
                self.failures[type(error).__name__] += 1

    def open_stream(self) -> Any:
        return self._http.request("GET", self._url + "/ok", retries=RETRIES, preload_content=False)

    def close_unread(self) -> None:
        response = self.open_stream()
        response.close()
        if self._is_block:  # else the slot would be lost, and after ten of them everything
            response.release_conn()
        self.answered(response, unreturned=not self._is_block)

    def read_stream(self) -> None:
        response = self.open_stream()
        response.read()
        response.release_conn()
        self.answered(response)


def one_of_many_kinds(load: Load, rng: random.Random) -> None:
    kind = rng.random()
    if kind < 0.8:
        load.get()
    elif kind < 0.9:
        load.post()
    elif kind < 0.95:
        load.close_unread()
    else:
        load.read_stream()


def check_books(metrics: Metrics, server: ServerProcess, load: Load, calls: int, *, is_block: bool) -> None:
    """Everything, after all pools have gone, against the client's figures and the server's."""
    value, count = metrics.value, metrics.count
    check_laws(metrics, checkouts=calls)
    books = server.wait_for(lambda books: books.open == 0)
    opened = value("urllib3.pool.opened_connections")
    assert opened == books.accepted == books.established == value("urllib3.pool.closed_connections")
    assert value("http.client.open_connections") == 0

    assert count("urllib3.connection.idle.duration", outcome="reused") == value(
        "urllib3.pool.checkouts", outcome="reused"
    )
    assert count("urllib3.connection.idle.duration", outcome="replaced") == value(
        "urllib3.pool.checkouts", outcome="replaced"
    )
    assert count("urllib3.pool.wait.duration") == (calls if is_block else 0)
    assert count("http.client.connection.duration") == opened
    assert count("urllib3.connection.requests") == opened
    assert metrics.sum("urllib3.connection.requests") == load.statuses.total()
    assert value("urllib3.pool.leaked_connections") == load.unreturned

    closed = metrics.by("urllib3.pool.closed_connections", "reason")
    assert closed.get("response_close", 0) == books.ended["close_header"] + load.statuses[408]
    assert closed.get("dropped", 0) == value("urllib3.pool.checkouts", outcome="replaced")
    assert closed.get("unknown", 0) == 0
    # What the server ended, the client has noticed, or has thrown away before it could.
    ends = sum(books.ended[kind] for kind in ("fin", "rst", "408", "half_close", "stray", "lost_fin"))
    noticed = sum(closed.get(reason, 0) for reason in ("dropped", "lost_race", "failed")) + load.statuses[408]
    unseen = sum(closed.get(reason, 0) for reason in ("discarded", "pool_closed", "abandoned"))
    assert noticed <= ends <= noticed + unseen
    drops = metrics.by("urllib3.pool.dropped_connections", "reason", phase="checkout")
    assert drops.get("reset", 0) <= books.ended["rst"]
    assert drops.get("unexpected_data", 0) <= books.ended["stray"] + books.ended["408"]
    assert drops.get("fin", 0) <= sum(books.ended[kind] for kind in ("fin", "half_close", "408"))
    assert drops.get("unknown", 0) == drops.get("timed_out", 0) == 0
    # The load was one: each kind of trouble came up, but for stray bytes, which need an idle moment.
    assert all(books.ended[kind] for kind in ("fin", "rst", "408", "half_close", "lost_fin"))
    assert closed.get("dropped", 0) > 100
    assert closed.get("lost_race", 0) > 10
    assert load.failures


@pytest.mark.parametrize(
    ("tls", "is_block", "requests"),
    [(None, False, 20_000), ("1.3", True, 2_400), (None, True, 3_200), ("1.2", False, 2_400)],
    ids=["plain", "tls13-block", "plain-block", "tls12"],
)
def test_the_books_balance_during_and_after_a_load(
    telemetry: Telemetry, tls: str | None, is_block: bool, requests: int
) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    telemetry.install(metrics="all", spans="off")
    calls = Calls()
    with ServerProcess(tls, seed=seed) as server, threads_switched_often():
        http = calls.watch(manager(server.ca_file, maxsize=10, block=is_block))
        load = Load(http, server.url, seed, is_block=is_block)
        with Collector(telemetry) as collector:
            load.run(requests, one_of_many_kinds)
        assert not collector.faults, collector.faults[:5]
        assert collector.collections > 20
        collector.check(telemetry.collect())
        assert not collector.faults
        let_go(http)
        metrics = telemetry.collect()
        check_books(metrics, server, load, calls.total(), is_block=is_block)
        assert load.statuses.total() + load.failures.total() == requests
        collector.check(metrics)
        assert not collector.faults
        assert metrics.value("urllib3.pool.active.peak") <= (10 if is_block else THREADS)
        assert metrics.value("urllib3.pool.pending_requests") == 0


@pytest.mark.parametrize("is_block", [False, True])
def test_the_books_balance_when_other_threads_read_and_release(telemetry: Telemetry, is_block: bool) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    telemetry.install(metrics="all", spans="off")
    calls = Calls()
    streams: queue.Queue[Any] = queue.Queue()

    def hand_over(load: Load, rng: random.Random) -> None:
        if rng.random() < 0.1:
            load.post()
        else:
            streams.put(load.open_stream())

    with ServerProcess(seed=seed) as server, threads_switched_often():
        http = calls.watch(manager(maxsize=10, block=is_block))
        load = Load(http, server.url, seed, is_block=is_block)

        def consume(number: int) -> None:
            rng = random.Random(f"{seed}/consumer/{number}")
            while (response := streams.get()) is not None:
                if rng.random() < 0.05:
                    response.close()
                else:
                    response.read()
                response.release_conn()
                load.answered(response)

        consumers = [threading.Thread(target=consume, args=(number,)) for number in range(4)]
        for consumer in consumers:
            consumer.start()
        with Collector(telemetry) as collector:
            load.run(2_400, hand_over)
            for _ in consumers:
                streams.put(None)
            for consumer in consumers:
                consumer.join()
        assert not collector.faults, collector.faults[:5]
        let_go(http)
        check_books(telemetry.collect(), server, load, calls.total(), is_block=is_block)


def test_the_levels_balance_through_uninstalling_and_installing_under_load(telemetry: Telemetry) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    telemetry.install(spans="off")
    done = threading.Event()
    with ServerProcess(seed=seed) as server, threads_switched_often():
        http = manager(maxsize=10)
        load = Load(http, server.url, seed, is_block=False)

        def run() -> None:
            try:
                load.run(2_400, one_of_many_kinds)
            finally:
                done.set()

        runner = threading.Thread(target=run)
        runner.start()
        cycles = 0
        while not done.wait(0.01):
            pool_telemetry.uninstall()
            time.sleep(0.002)
            telemetry.install(spans="off")
            cycles += 1
        runner.join()
        assert not load.faults
        assert cycles > 20
        # At rest: what lies in the pool is what the books hold, once each has been seen again.
        responses = [load.open_stream() for _ in range(10)]
        for response in responses:
            response.release_conn()
        (key,) = http.pools.keys()
        queued: Any = http.pools[key].pool
        lying = [conn for conn in queued.queue if conn is not None and conn.sock is not None]
        gc.collect()
        metrics = telemetry.collect()
        assert metrics.value("http.client.open_connections") == len(lying) > 0
        assert metrics.value("urllib3.pool.socket.count") == len(lying)
        # Nothing that was missed may be kept for open for ever.
        del lying, queued, responses, response
        let_go(http)
        assert telemetry.collect().value("http.client.open_connections") == 0
        assert telemetry.collect().value("urllib3.pool.count") == 0


def test_connections_from_before_are_adopted_once_however_many_threads_come_first(telemetry: Telemetry) -> None:
    size, rounds = 12, 30
    managers = []
    with Server() as server, threads_switched_often():
        for _ in range(rounds):
            http = manager(maxsize=size)
            managers.append(http)
            streams = [http.request("GET", server.url + "/ok", preload_content=False) for _ in range(size)]
            for stream in streams:
                stream.read()
                stream.release_conn()
        telemetry.install(spans="off", metrics="all")
        for http in managers:
            start = threading.Barrier(size)

            def first(http: urllib3.PoolManager = http, start: threading.Barrier = start) -> None:
                start.wait()
                http.request("GET", server.url + "/ok")

            workers = [threading.Thread(target=first) for _ in range(size)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
        metrics = telemetry.collect()
        assert metrics.value("urllib3.pool.creations") == rounds
        check_laws(metrics, checkouts=size * rounds, adopted=size * rounds)
        assert metrics.value("http.client.open_connections") == size * rounds
        del streams, stream
        for http in managers:
            http.clear()
        gc.collect()
        assert telemetry.collect().value("http.client.open_connections") == 0
