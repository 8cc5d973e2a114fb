"""Checkouts and requests by many threads at once, on one pool or on sixteen: ``threads on|off PORT``."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from opentelemetry import trace
from urllib3 import HTTPConnectionPool

from .answering import Clocks, MiscountError, answer, check, set_up

MOST_THREADS = 16
PATIENCE_S = 60.0


def request(pool: HTTPConnectionPool) -> None:
    """A whole one."""
    pool.urlopen("GET", "/")


def checkout(pool: HTTPConnectionPool) -> None:
    """What a request does at the pool's door, and nothing else: so it says more of what is done there."""
    pool._put_conn(pool._get_conn())


DEEDS: dict[str, Callable[[HTTPConnectionPool], None]] = {"requests": request, "checkouts": checkout}


class Bench:
    """Threads that do the same at the same time.

    Args:
        switch: ``on`` or ``off``.
        port: of a server that keeps connections.
    """

    def __init__(self, switch: str, port: int) -> None:
        self._variant, self._is_on = set_up(switch), switch == "on"
        self._tracer = trace.get_tracer("benchmarks")
        one = HTTPConnectionPool("127.0.0.1", port, maxsize=MOST_THREADS)
        self._pools = {"one": [one], "many": [HTTPConnectionPool("127.0.0.1", port) for _ in range(MOST_THREADS)]}
        for pools in self._pools.values():
            for pool in pools:
                _fill(pool, MOST_THREADS // len(pools))

    def block(self, pools: str, threads: str, kind: str, each: str, processors: str) -> dict[str, float]:
        """CPU and wall time of one deed, of which each thread does so many, on one processor or on all."""
        gc.collect()
        before = self._told()
        with _running_on(processors):
            took = self._run(pools, int(threads), DEEDS[kind], int(each))
        check(kind, self._told() - before, int(threads) * int(each) * self._is_on)
        return took

    def make(self, pools: str, threads: str, kind: str, each: str, _: str) -> None:
        """The same, and no more."""
        self._run(pools, int(threads), DEEDS[kind], int(each))

    def locks(self, pools: str, threads: str, each: str) -> dict[str, float]:
        """How often our locks were asked for in a thousand clean checkouts; and as many again while they are taken.

        Raises:
            MiscountError: a checkout waited for a lock of ours.
        """
        before = self._told()
        with _watched_locks() as (locks, asked):
            self._run(pools, int(threads), checkout, int(each))
            times = len(asked)
            with ExitStack() as stack:
                for lock in locks:
                    stack.enter_context(lock)
                self._run(pools, int(threads), checkout, int(each), PATIENCE_S)  # by other threads than this one
        checkouts = int(threads) * int(each)
        check("checkouts", self._told() - before, 2 * checkouts)
        return {"asked_of_thousand": 1000 * times / checkouts}

    def _told(self) -> float:
        told = self._variant.told() if self._is_on else None
        return told or 0

    def _run(
        self, pools: str, threads: int, deed: Callable[[HTTPConnectionPool], None], each: int, patience: float = 600
    ) -> dict[str, float]:
        start = threading.Barrier(threads + 1)
        failed: list[BaseException] = []

        def work(mine: list[HTTPConnectionPool]) -> None:
            try:
                with self._tracer.start_as_current_span("parent"):
                    start.wait()
                    for number in range(each):
                        deed(mine[number % len(mine)])
            except BaseException as error:
                failed.append(error)
                raise

        all_pools = self._pools[pools]
        shares = [all_pools[index::threads] or all_pools for index in range(threads)]
        workers = [threading.Thread(target=work, args=(share,), daemon=True) for share in shares]
        for worker in workers:
            worker.start()
        clocks = Clocks()
        start.wait()
        for worker in workers:
            worker.join(patience)
        took = clocks.read(threads * each)
        if failed or any(worker.is_alive() for worker in workers):
            raise MiscountError(f"not all threads came to their end: {failed}")
        return took


@contextmanager
def _running_on(processors: str) -> Iterator[None]:
    """Threads that are started meanwhile run on one processor, or wherever they may."""
    all_processors = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(all_processors)} if processors == "one" else all_processors)
    try:
        yield
    finally:
        os.sched_setaffinity(0, all_processors)


def _fill(pool: HTTPConnectionPool, connections: int) -> None:
    taken = [pool._get_conn() for _ in range(connections)]
    for conn in taken:
        conn.connect()
    for conn in taken:
        pool._put_conn(conn)


class _Watched:
    """A lock that notes who asks for it."""

    def __init__(self, lock: Any, asked: list[None]) -> None:
        self._lock, self._asked = lock, asked

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        self._asked.append(None)
        return bool(self._lock.acquire(blocking, timeout))

    def release(self) -> None:
        self._lock.release()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(self, *exc_info: object) -> None:
        self.release()


@contextmanager
def _watched_locks() -> Iterator[tuple[list[Any], list[None]]]:
    """Our locks, and a list that grows each time that one is asked for."""
    from pool_telemetry import _instrument

    ledger: Any = _instrument._ledger
    locks = [ledger._lock, ledger.entering]
    asked: list[None] = []
    ledger._lock, ledger.entering = (_Watched(lock, asked) for lock in locks)
    try:
        yield locks, asked
    finally:
        ledger._lock, ledger.entering = locks


def main(switch: str, port: str) -> None:
    """Answers the lines on stdin."""
    bench = Bench(switch, int(port))
    gc.disable()
    answer(block=bench.block, make=bench.make, locks=bench.locks)


if __name__ == "__main__":
    main(*sys.argv[1:])
