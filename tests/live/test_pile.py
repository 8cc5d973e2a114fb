"""The pile of parked CLOSE_WAIT sockets that no checkout reaches, as the kernel itself counts it."""

from __future__ import annotations

import gc
import queue
import select
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import urllib3

from misbehaving import Server
from tests.live.wire import (
    CLOCKS_AGREE_WITHIN,
    CLOSE_WAIT,
    PROTOCOLS,
    attributes_of,
    drops,
    last_of,
    pooled,
    tcp_states,
    wait_for_peer,
)
from tests.support import Metrics, Telemetry, check_laws, manager

KEEPALIVE = 0.5  # far beyond what a busy machine keeps a request waiting for
# Seconds: the threads of ten connections look at the clock in the same instant, and act one after the other.
TEN_ACT_WITHIN = 0.05


def burst(http: urllib3.PoolManager, server: Server, size: int) -> None:
    """As many requests at the same time, so that the pool then holds as many connections."""
    with ThreadPoolExecutor(size) as threads:
        # Slow enough that the last has begun before the first is answered.
        list(threads.map(lambda _: http.request("GET", f"{server.url}/slow/0.5"), range(size)))


def parked(metrics: Metrics) -> float:
    return metrics.value(
        "urllib3.pool.socket.count", http__connection__state="idle", network__connection__state="close_wait"
    )


def age(metrics: Metrics) -> float:
    (point,) = metrics.points("urllib3.pool.close_wait.age")
    return float(point.value)


@pytest.mark.parametrize("tls", PROTOCOLS)
def test_the_pile_after_a_burst_is_told_as_the_kernel_counts_it(telemetry: Telemetry, tls: str | None) -> None:
    telemetry.install(metrics="all")
    with Server(tls=tls, keepalive=KEEPALIVE) as server, manager(server.ca_file, maxsize=10) as http:
        url = f"{server.url}/ok"
        http.request("GET", url)
        assert (parked(telemetry.collect()), age(telemetry.collect())) == (0, 0)  # born at zero
        burst(http, server, 10)
        pool = http.connection_from_url(server.url)
        assert len(pooled(pool)) == 10
        # The one on top is used on, and told to outlive the others.
        for _ in range(12):
            http.request("GET", f"{server.url}/fin/60")
            time.sleep(KEEPALIVE / 4)
        for conn in pooled(pool)[:-1]:
            wait_for_peer(conn.sock)
        metrics, states = telemetry.collect(), tcp_states(server.port)
        check_laws(metrics, checkouts=23)
        assert states.count(CLOSE_WAIT) == 9
        assert parked(metrics) == 9
        assert metrics.by("urllib3.pool.socket.count", "network.connection.state") == {
            "close_wait": 9,
            "established": 1,
        }
        assert metrics.by("http.client.open_connections", "http.connection.state") == {"idle": 10}
        assert drops(metrics) == {}
        # Since the burst the top one was used for 3 KEEPALIVE at least, and the others' FIN came meanwhile.
        assert 2 * KEEPALIVE - CLOCKS_AGREE_WITHIN <= age(metrics) <= 12 * KEEPALIVE
        before = time.monotonic()
        sooner = telemetry.collect()
        later = telemetry.collect()
        elapsed = time.monotonic() - before
        assert age(metrics) <= age(sooner) <= age(later) <= age(sooner) + elapsed + CLOCKS_AGREE_WITHIN

        # Once a connection, though no checkout has reached one.
        ages = sorted(close.seconds for close in server.books.idle_closes)
        for seen in (metrics, later):
            assert seen.count("urllib3.connection.remote_close.duration") == 9
            assert seen.sum("urllib3.connection.remote_close.duration") == pytest.approx(
                sum(ages), abs=9 * TEN_ACT_WITHIN
            )
            (histogram,) = seen.points("urllib3.connection.remote_close.duration")
            assert histogram.min == pytest.approx(ages[0], abs=TEN_ACT_WITHIN)
            assert histogram.max == pytest.approx(ages[-1], abs=TEN_ACT_WITHIN)

        # Nor once more when a checkout does: two of the pile, and the one on top that is dropped by now.
        top = pooled(pool)[-1].sock
        (served,) = [each for each in server.connections if each.peer_port == top.getsockname()[1]]
        served.fin()
        wait_for_peer(top)
        burst(http, server, 3)
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=26)
        assert drops(metrics) == {("fin", "checkout"): 3}
        assert parked(metrics) == 7
        assert metrics.count("urllib3.connection.remote_close.duration") == 10
        assert metrics.count("urllib3.connection.close_wait.duration") == 3

        del pool, conn, top
        http.clear()
        gc.collect()
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=26)
        assert tcp_states(server.port).count(CLOSE_WAIT) == 0
        assert parked(metrics) == 0
        assert len(metrics.points("urllib3.pool.socket.count", network__connection__state="close_wait")) == 1
        assert age(metrics) == 0
        assert metrics.by("urllib3.pool.closed_connections", "reason") == {"dropped": 3, "pool_closed": 10}


@pytest.mark.parametrize("tls", ["1.2", "1.3"])
def test_a_close_notify_alone_is_told_once_from_the_pile(telemetry: Telemetry, tls: str) -> None:
    # The socket is still established; only a checkout can tell, and the walk must not take it for anything.
    telemetry.install()
    with Server(tls=tls) as server, manager(server.ca_file) as http:
        http.request("GET", f"{server.url}/close-notify/0.1")
        wait_for_peer(pooled(http.connection_from_url(server.url))[0].sock, select.POLLIN)
        assert parked(telemetry.collect()) == 0
        http.request("GET", f"{server.url}/ok")
        metrics = telemetry.collect()
        assert drops(metrics) == {("close_notify", "checkout"): 1}
        assert metrics.count("urllib3.connection.remote_close.duration") == 1


class Opaque(queue.LifoQueue[Any]):
    """A queue whose content cannot be read."""

    def _init(self, maxsize: int) -> None:
        self._kept: list[Any] = []

    def _qsize(self) -> int:
        return len(self._kept)

    def _put(self, item: Any) -> None:
        self._kept.append(item)

    def _get(self) -> Any:
        return self._kept.pop()


def test_a_pool_whose_queue_cannot_be_read_is_counted_too(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(urllib3.HTTPConnectionPool, "QueueCls", Opaque)
    telemetry.install()
    with Server(keepalive=KEEPALIVE) as server, manager(maxsize=3) as http:
        burst(http, server, 3)
        if hasattr(urllib3.HTTPConnectionPool, "_new_pool_queue"):
            assert isinstance(http.connection_from_url(server.url).pool, queue.LifoQueue)
        assert not hasattr(http.connection_from_url(server.url).pool, "queue")
        server.wait_for(lambda books: books.ended["fin"] == 3)
        # It stays open for longer than this test takes, however busy the machine is.
        response = http.request("GET", f"{server.url}/fin/60", preload_content=False)
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=4)
        assert parked(metrics) == 2 == tcp_states(server.port).count(CLOSE_WAIT)
        assert metrics.by("http.client.open_connections", "http.connection.state") == {"idle": 2, "active": 1}
        assert metrics.count("urllib3.connection.remote_close.duration") == 3
        response.read()
        metrics = telemetry.collect()
        assert metrics.by("http.client.open_connections", "http.connection.state") == {"idle": 3}


def test_collecting_takes_nothing_from_the_sockets(telemetry: Telemetry) -> None:
    telemetry.install(metrics="all")
    with Server() as server, manager(maxsize=2) as http:
        burst(http, server, 2)
        parked_one, reset = pooled(http.connection_from_url(server.url))
        by_port = {each.peer_port: each for each in server.connections}
        by_port[parked_one.sock.getsockname()[1]].send_raw(b"stray")
        by_port[reset.sock.getsockname()[1]].rst()
        wait_for_peer(reset.sock)
        wait_for_peer(parked_one.sock, select.POLLIN)
        for _ in range(3):
            metrics = telemetry.collect()
        states = metrics.by("urllib3.pool.socket.count", "network.connection.state")
        assert states == {"established": 1, "closed": 1}
        assert parked_one.sock.recv(10) == b"stray"
        with pytest.raises(ConnectionResetError):
            reset.sock.recv(10)


def test_collecting_does_not_take_the_error_from_a_request_that_is_out(telemetry: Telemetry) -> None:
    telemetry.install()
    with Server() as server, manager() as http:
        response: Any = http.request("GET", f"{server.url}/chunked/2/9", preload_content=False)
        sock: socket.socket = response.connection.sock
        last_of(server).rst()
        wait_for_peer(sock)
        metrics = telemetry.collect()
        states = metrics.points("urllib3.pool.socket.count", http__connection__state="active")
        assert [point.attributes["network.connection.state"] for point in states if point.value] == ["closed"]
        with pytest.raises(urllib3.exceptions.ProtocolError, match="reset by peer"):
            response.read()


def test_a_connection_that_is_out_is_never_part_of_the_pile(telemetry: Telemetry) -> None:
    telemetry.install()
    with Server() as server, manager() as http:
        # Read to no end here, while the server has sent all and closed.
        response: Any = http.request("GET", f"{server.url}/truncate", preload_content=False)
        wait_for_peer(response.connection.sock)
        metrics = telemetry.collect()
        assert tcp_states(server.port).count(CLOSE_WAIT) == 1
        assert parked(metrics) == age(metrics) == 0
        active = metrics.points("urllib3.pool.socket.count", http__connection__state="active")
        assert [(point.attributes["network.connection.state"], point.value) for point in active] == [("close_wait", 1)]
        assert not metrics.count("urllib3.connection.remote_close.duration")
        response.close()


def test_the_span_of_a_parked_connection_says_how_long_it_lay_there(telemetry: Telemetry) -> None:
    telemetry.install()
    with Server(keepalive=KEEPALIVE) as server, manager() as http:
        requested = time.monotonic()
        http.request("GET", f"{server.url}/ok")
        sock = pooled(http.connection_from_url(server.url))[0].sock
        wait_for_peer(sock)
        arrived = time.monotonic()
        time.sleep(2 * KEEPALIVE)
        looked = time.monotonic()
        before = age(telemetry.collect())
        asked = time.monotonic()
        http.request("GET", f"{server.url}/ok")
        answered = time.monotonic()
        (told,) = attributes_of(telemetry.named("HTTP connection_dropped"))
        (closed,) = server.books.idle_closes
    # The FIN came before it was seen here, and not before the server had waited so long after its response.
    earliest = requested + closed.seconds - CLOCKS_AGREE_WITHIN
    latest = arrived + CLOCKS_AGREE_WITHIN
    assert looked - latest <= before <= asked - earliest
    assert asked - latest <= told["close_wait.duration"] <= answered - earliest
