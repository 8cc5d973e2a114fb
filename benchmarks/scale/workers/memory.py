"""What the books weigh, and what is left of what is over: ``memory on|off PORT``."""

from __future__ import annotations

import gc
import os
import socket
import sys
import tracemalloc
from typing import Any

from opentelemetry import trace
from urllib3 import HTTPConnectionPool

from .answering import answer, check, set_up

FEW = 200  # before anything is weighed
TURN = 10_000  # checkouts after which metrics are collected


class Bench:
    """Opens connections, uses them and lets them go.

    Args:
        switch: ``on`` or ``off``.
        port: of a server.
    """

    def __init__(self, switch: str, port: int) -> None:
        self._variant, self._is_on, self._port = set_up(switch), switch == "on", port
        self._tracer = trace.get_tracer("benchmarks")
        self._kept: list[Any] = []

    def weigh(self, connections: str, uses: str, meter: str) -> float:
        """Bytes of each connection that lies in a pool, with all that hangs on it: by tracemalloc, or of the process.

        Each use is under a span of its own, as in a request; without any it was opened and never used.
        """
        self._open(FEW, int(uses))
        self._told("urllib3.pool.checkouts")
        gc.collect()
        if meter == "tracemalloc":
            tracemalloc.start()
        weighed = _traced if meter == "tracemalloc" else _resident
        before = weighed()
        self._open(int(connections), int(uses))
        self._told("urllib3.pool.checkouts")  # what waits for a collection is of no connection
        gc.collect()
        return (weighed() - before) / int(connections)

    def _open(self, connections: int, uses: int) -> None:
        pool = HTTPConnectionPool("127.0.0.1", self._port, maxsize=connections)
        self._kept.append(pool)
        taken: list[Any] = []
        conn: Any
        for _ in range(max(uses, 1)):
            for _ in range(connections):
                if uses:
                    with self._tracer.start_as_current_span("request"):
                        conn = pool._get_conn()
                        if conn.sock is None:
                            conn.connect()
                else:
                    conn = pool._get_conn()
                    conn.connect()
                taken.append(conn)
            for conn in taken:
                pool._put_conn(conn)
            taken.clear()

    def churn(self, connections: str) -> dict[str, float]:
        """What is left of so many connections that were opened, used, dropped by the server and closed."""
        pool = HTTPConnectionPool("127.0.0.1", self._port)
        self._churn(pool, FEW * 5)
        before = self._left()
        told = self._told("urllib3.pool.opened_connections")
        self._churn(pool, int(connections))
        check("opened", self._told("urllib3.pool.opened_connections") - told, int(connections) * self._is_on)
        return self._compared(before)

    def _churn(self, pool: HTTPConnectionPool, connections: int) -> None:
        for _ in range(connections):
            with self._tracer.start_as_current_span("request"):
                pool.urlopen("GET", "/after")
            assert pool.pool is not None
            sock = pool.pool.queue[-1].sock
            sock.settimeout(10)
            sock.recv(1, socket.MSG_PEEK)  # until the FIN has come

    def turns(self, checkouts: str) -> dict[str, float]:
        """What is left of so many checkouts and returns of a live connection: requests that are not sent."""
        pool = HTTPConnectionPool("127.0.0.1", self._port)
        pool.urlopen("GET", "/")
        self._turn(pool, 20 * TURN)
        before, told = self._left(), self._told("urllib3.pool.checkouts")
        self._turn(pool, int(checkouts))
        check("checkouts", self._told("urllib3.pool.checkouts") - told, int(checkouts) * self._is_on)
        return self._compared(before)

    def _turn(self, pool: HTTPConnectionPool, checkouts: int) -> None:
        get, put = pool._get_conn, pool._put_conn
        for start in range(0, checkouts, TURN):
            with self._tracer.start_as_current_span("request"):
                for _ in range(min(TURN, checkouts - start)):
                    put(get())
            self._told("urllib3.pool.checkouts")

    def _told(self, metric: str) -> float:
        assert self._variant.sdk is not None
        return self._variant.sdk.value(metric) if self._is_on else 0

    def _left(self) -> dict[str, float]:
        """What there is: objects of ours, blocks of Python's allocator, bytes of the process."""
        self._told("urllib3.pool.checkouts")
        gc.collect()
        ours = sum(str(type(each).__module__).startswith("pool_telemetry.") for each in gc.get_objects())
        return {"ours": ours, "blocks": sys.getallocatedblocks(), "bytes": _resident()}

    def _compared(self, before: dict[str, float]) -> dict[str, float]:
        after = self._left()
        return {name: after[name] - before[name] for name in before}


def _traced() -> int:
    return tracemalloc.get_traced_memory()[0]


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as figures:
        return int(figures.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main(switch: str, port: str) -> None:
    """Answers the lines on stdin."""
    bench = Bench(switch, int(port))
    answer(weigh=bench.weigh, churn=bench.churn, turns=bench.turns)


if __name__ == "__main__":
    main(*sys.argv[1:])
