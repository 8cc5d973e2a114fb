"""With hundreds of pooled sockets: what each weighs, and that looking at them lets others have their turn."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
import urllib3

import pool_telemetry
from misbehaving import Server
from pool_telemetry import _turns
from tests.support import Telemetry, check_laws

CONNECTIONS = 300


@pytest.fixture
def pool() -> Iterator[urllib3.HTTPConnectionPool]:
    with Server() as server, urllib3.HTTPConnectionPool(server.host, server.port, maxsize=2 * CONNECTIONS) as pool:
        yield pool


def fill(pool: urllib3.HTTPConnectionPool, connections: int) -> None:
    taken: list[Any] = [pool._get_conn() for _ in range(connections)]
    for conn in taken:
        if conn.sock is None:
            conn.connect()
    for conn in taken:
        pool._put_conn(conn)


def test_what_is_kept_of_a_connection_weighs_less_than_a_kilobyte(
    telemetry: Telemetry, pool: urllib3.HTTPConnectionPool
) -> None:
    def weigh(connections: int) -> int:
        fill(pool, connections)
        telemetry.collect()  # what waits for it is no longer there
        gc.collect()
        return sum(trace.size for trace in tracemalloc.take_snapshot().filter_traces([ours]).traces)

    telemetry.install(spans="off")  # what the exporter of the tests keeps is not ours
    ours = tracemalloc.Filter(True, "*pool_telemetry*")
    tracemalloc.start()
    try:
        weight = (-weigh(CONNECTIONS) + weigh(2 * CONNECTIONS)) / CONNECTIONS
    finally:
        tracemalloc.stop()
    assert 200 < weight < 1024


def test_what_reads_hundreds_of_sockets_lets_others_have_their_turn_in_between(
    telemetry: Telemetry, pool: urllib3.HTTPConnectionPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    telemetry.install()
    fill(pool, CONNECTIONS)
    checkouts: list[int] = []

    def request() -> None:
        checkouts.append(pool.urlopen("GET", "/ok").status)

    def let_another_request() -> None:  # which must not wait for the lock that this thread holds
        other = threading.Thread(target=request, daemon=True)
        other.start()
        other.join(30)

    monkeypatch.setattr(_turns, "_let_others_run", let_another_request)
    (upstream,) = pool_telemetry.snapshot().upstreams
    assert len(upstream.connections) == CONNECTIONS
    assert checkouts == [200] * 6  # twice each: in the look, in the counting, in the view
    checkouts.clear()
    metrics = telemetry.collect()
    assert checkouts == [200] * 4
    monkeypatch.undo()
    assert metrics.value("urllib3.pool.socket.count") == CONNECTIONS
    check_laws(telemetry.collect(), checkouts=CONNECTIONS + 10)
