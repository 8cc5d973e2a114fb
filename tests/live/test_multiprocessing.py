"""Children of multiprocessing begin with empty books and count for themselves, however they are started."""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import pytest
import urllib3

import pool_telemetry
from misbehaving import Server
from tests.live.apart import CHILD_SECONDS, run_apart
from tests.live.test_fork import figures, pool_of
from tests.support import Telemetry

_telemetry: Telemetry | None = None
_at_first = -1


def begin() -> None:
    """What a child finds: the library installed, where it was forked by a process that has; else it is installed."""
    global _telemetry, _at_first
    _at_first = len(pool_telemetry.snapshot().upstreams)
    if not pool_telemetry.snapshot().is_installed:
        _telemetry = Telemetry()
        _telemetry.install(spans="off")


def ask(url: str) -> dict[str, float]:
    """Make a request; gives what this process has counted so far."""
    with urllib3.PoolManager() as http:
        http.request("GET", url + "/ok")
    assert _telemetry is not None
    return {"process": os.getpid(), "at first": _at_first, **figures(_telemetry.collect())}


def begin_and_ask(url: str, queue: Any) -> None:
    begin()
    queue.put(ask(url))


def children(method: str) -> None:
    global _telemetry
    _telemetry = Telemetry()
    _telemetry.install(spans="off")
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([__name__])
    with Server() as server, pool_of(server) as pool:
        pool.urlopen("GET", "/ok")
        pool.urlopen("GET", "/close")
        before = figures(_telemetry.collect())

        queue = context.SimpleQueue()
        child = context.Process(target=begin_and_ask, args=(server.url, queue))
        child.start()
        told = [queue.get()]
        child.join(CHILD_SECONDS)
        assert child.exitcode == 0
        with context.Pool(2, begin) as workers:
            told += workers.map(ask, [server.url] * 4, chunksize=1)
            workers.close()
            workers.join()
        with ProcessPoolExecutor(1, context, begin) as executor:
            told += executor.map(ask, [server.url] * 3)

        assert {each["at first"] for each in told} == {0}
        last: dict[float, dict[str, float]] = {}
        for each in told:
            last[each["process"]] = max(each, last.get(each["process"], each), key=lambda one: one["checkouts"])
        for each in last.values():
            assert each["checkouts"] == each["opened"] == each["closed"] == each["creations"]
            assert each["open"] == each["pools"] == 0
        assert sum(each["opened"] for each in last.values()) == len(told) == server.books.accepted - 1
        assert figures(_telemetry.collect()) == before


@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_children_of_multiprocessing_begin_with_empty_books_and_count_for_themselves(method: str) -> None:
    run_apart(children, method)
