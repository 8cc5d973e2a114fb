"""Looks at pooled sockets, and requests meanwhile: ``looks PORT SOCKETS POOLS``."""

from __future__ import annotations

import gc
import socket
import sys
import threading
import time
from collections.abc import Callable
from statistics import quantiles
from typing import Any

import psutil
from urllib3 import HTTPConnectionPool

import pool_telemetry

from .answering import Clocks, answer, check, set_up

INFO_SIZE = 208  # what the library asks the kernel for
REQUESTING_THREADS = 4
PAUSE_S = 0.001  # of each thread between two requests
REST_S = 1.0  # between two looks; the SDK rests for a minute

Look = Callable[[], object]


class Bench:
    """Sockets that lie in pools, and ways to look at them.

    Args:
        port: of a server that keeps connections, on each address of the loopback.
        sockets: so many in all.
        pools: among which they are divided, each of an upstream to itself.
    """

    def __init__(self, port: int, sockets: int, pools: int) -> None:
        self._sdk = set_up("on").sdk
        addresses = [f"127.0.{1 + index // 250}.{1 + index % 250}" for index in range(pools)]
        self._pools = [HTTPConnectionPool(address, port, maxsize=sockets // pools) for address in addresses]
        taken: list[tuple[HTTPConnectionPool, Any]] = [
            (pool, pool._get_conn()) for pool in self._pools for _ in range(sockets // pools)
        ]
        for _, conn in taken:
            conn.connect()
        for pool, conn in taken:
            pool._put_conn(conn)
        self._sockets: list[Any] = [conn.sock for _, conn in taken]
        self._busy = HTTPConnectionPool(addresses[0], port, maxsize=REQUESTING_THREADS)
        self._busy.urlopen("GET", "/")
        self._ways: dict[str, Look] = {
            "nothing": lambda: None,
            "bare": self._look_bare,
            "snapshot": self._snapshot,
            "collection": self._collect,
            "psutil": lambda: psutil.Process().net_connections("tcp"),
            "psutil_all": lambda: psutil.net_connections("tcp"),
        }
        seen = pool_telemetry.snapshot()
        idle = sum(each.tcp_state == "established" for upstream in seen.upstreams for each in upstream.connections)
        check("sockets in a snapshot", idle, sockets + 1)
        assert self._sdk is not None
        check("sockets in a collection", self._sdk.value("urllib3.pool.socket.count"), sockets + 1)

    def look(self, way: str, times: str) -> dict[str, float]:
        """CPU and wall time of one look."""
        look = self._ways[way]
        clocks = Clocks()
        for _ in range(int(times)):
            look()
        return clocks.read(int(times))

    def meanwhile(self, way: str, seconds: str) -> dict[str, float]:
        """Nanoseconds that requests took while a look was taken now and then, and those that met one."""
        until = time.perf_counter_ns() + int(float(seconds) * 1e9)
        requests: list[tuple[int, int]] = []
        threads = [threading.Thread(target=self._request, args=(until, requests)) for _ in range(REQUESTING_THREADS)]
        before = self._told()
        for thread in threads:
            thread.start()
        looks = []
        while time.perf_counter_ns() < until:
            began = time.perf_counter_ns()
            self._ways[way]()
            looks.append((began, time.perf_counter_ns()))
            time.sleep(REST_S)
        for thread in threads:
            thread.join()
        check("requests", self._told() - before, len(requests))
        met = [end - start for start, end in requests if any(start < until and end > since for since, until in looks)]
        return {
            **_spread("", [end - start for start, end in requests]),
            **_spread("met_", met),
            "looks": len(looks),
            "look_ns": sum(end - start for start, end in looks) / len(looks),
        }

    def _request(self, until: int, took: list[tuple[int, int]]) -> None:
        while (start := time.perf_counter_ns()) < until:
            self._busy.urlopen("GET", "/")
            took.append((start, time.perf_counter_ns()))
            time.sleep(PAUSE_S)

    def _look_bare(self) -> None:
        for sock in self._sockets:
            sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, INFO_SIZE)

    def _snapshot(self) -> None:
        pool_telemetry.snapshot()

    def _collect(self) -> None:
        assert self._sdk is not None
        self._sdk.reader.get_metrics_data()

    def _told(self) -> float:
        assert self._sdk is not None
        return self._sdk.value("urllib3.pool.checkouts")


def _spread(prefix: str, took: list[int]) -> dict[str, float]:
    if len(took) < 2:
        return {f"{prefix}requests": len(took)}
    parts = quantiles(took, n=100, method="inclusive")
    return {
        f"{prefix}requests": len(took),
        f"{prefix}median": parts[49],
        f"{prefix}p99": parts[98],
        f"{prefix}most": max(took),
    }


def main(port: str, sockets: str, pools: str) -> None:
    """Answers the lines on stdin."""
    bench = Bench(int(port), int(sockets), int(pools))
    gc.collect()  # and not switched off: what looks leave for it is part of what they cost
    answer(look=bench.look, meanwhile=bench.meanwhile)


if __name__ == "__main__":
    main(*sys.argv[1:])
