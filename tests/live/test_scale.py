"""With hundreds of pooled sockets: what each weighs, and that looking at them lets others have their turn."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest
import urllib3
from opentelemetry import trace
from opentelemetry.trace import SpanContext

import pool_telemetry
from misbehaving import Server
from pool_telemetry import _tally, _turns
from pool_telemetry._watch import MOST_SAMPLES
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


def span_contexts() -> int:
    gc.collect()
    return sum(type(each) is SpanContext for each in gc.get_objects())


with_gil = pytest.mark.skipif(not _tally._HAS_GIL, reason="missing: a GIL, without which nobody else may touch them")


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


@with_gil
def test_of_requests_that_are_over_no_connection_keeps_what_opentelemetry_made(
    telemetry: Telemetry, pool: urllib3.HTTPConnectionPool
) -> None:
    telemetry.install(spans="off")  # the exporter of the tests keeps all of them
    before = span_contexts()
    for number in range(1, 4):
        context = SpanContext(number, number, is_remote=False)
        with trace.use_span(trace.NonRecordingSpan(context)):
            fill(pool, CONNECTIONS)
    telemetry.collect()
    del context
    assert span_contexts() <= before


@with_gil
def test_between_collections_no_more_is_kept_than_the_buffer_of_samples_holds(
    telemetry: Telemetry, pool: urllib3.HTTPConnectionPool
) -> None:
    telemetry.install(spans="off")
    before = span_contexts()
    for _ in range(3):
        taken: list[Any] = []
        for number in range(1, CONNECTIONS + 1):
            with trace.use_span(trace.NonRecordingSpan(SpanContext(number, number, is_remote=False))):
                taken.append(pool._get_conn())
                if taken[-1].sock is None:
                    taken[-1].connect()
        for conn in taken:
            pool._put_conn(conn)
    assert span_contexts() - before <= 2 * MOST_SAMPLES < 3 * CONNECTIONS


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
