"""Drops that the check at checkout finds: each reason, each protocol, against the server's own books."""

from __future__ import annotations

import socket
import ssl
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import urllib3

from misbehaving import Server
from tests.live.wire import (
    CLOCKS_AGREE_WITHIN,
    ENDED,
    PROTOCOLS,
    READABLE,
    DeafServer,
    attributes_of,
    causes,
    drops,
    last_of,
    pooled,
    wait_for_peer,
)
from tests.support import Telemetry, check_laws, manager

PLAIN, TLS_12, TLS_13 = PROTOCOLS
AFTER = 0.15  # seconds of idleness after which the server acts
PARKED = 0.1  # seconds that the ended connection is left lying


@dataclass(frozen=True)
class Drop:
    """What a server did, and what must be told of it."""

    path: str
    tls: str | None
    reason: str
    state: str
    unread: range
    event: int = ENDED
    is_age_known: bool = True

    def __str__(self) -> str:
        return f"{self.path[1:]}-{self.tls or 'plain'}"


NONE = range(1)
HEAD_408 = len("HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
# A record's header and tag around an alert of two bytes: RFC 8446 5.2; in 1.2 the nonce or the padding too.
ALERT_12, ALERT_13 = range(24, 100), range(24, 25)
MORE = range(1, 10_000)

DROPS = [
    Drop("/fin", PLAIN, "fin", "close_wait", NONE),
    Drop("/fin", TLS_12, "fin", "close_wait", ALERT_12),
    Drop("/fin", TLS_13, "fin", "close_wait", ALERT_13),
    Drop("/408", PLAIN, "fin", "close_wait", range(HEAD_408, HEAD_408 + 1)),
    *(Drop("/408", tls, "fin", "close_wait", range(HEAD_408 + 20, 300)) for tls in (TLS_12, TLS_13)),
    *(Drop("/half-close", tls, "fin", "close_wait", NONE) for tls in PROTOCOLS),
    *(Drop("/rst", tls, "reset", "closed", NONE, is_age_known=False) for tls in PROTOCOLS),
    Drop("/close-notify", TLS_12, "close_notify", "established", ALERT_12, READABLE),
    Drop("/close-notify", TLS_13, "close_notify", "established", ALERT_13, READABLE),
    Drop("/stray", PLAIN, "unexpected_data", "established", range(5, 6), READABLE, is_age_known=False),
    *(Drop("/stray", t, "unexpected_data", "established", MORE, READABLE, is_age_known=False) for t in PROTOCOLS[1:]),
    Drop("/late-handshake", TLS_13, "unexpected_data", "established", MORE, READABLE, is_age_known=False),
]


@pytest.mark.parametrize("drop", DROPS, ids=str)
def test_a_drop_found_by_the_check_is_told_as_the_server_saw_it(telemetry: Telemetry, drop: Drop) -> None:
    telemetry.install(metrics="all")
    with Server(tls=drop.tls) as server, manager(server.ca_file) as http:
        before_first = time.monotonic()
        http.request("GET", f"{server.url}/ok")
        local_port = last_of(server).peer_port
        before_last = time.monotonic()
        http.request("GET", f"{server.url}{drop.path}/{AFTER}")
        after_last = time.monotonic()
        pool = http.connection_from_url(server.url)
        wait_for_peer(pooled(pool)[0].sock, drop.event)
        time.sleep(PARKED)
        before_check = time.monotonic()
        assert http.request("GET", f"{server.url}/ok").status == 200
        after_check = time.monotonic()
        metrics, books = telemetry.collect(), server.books

    check_laws(metrics, checkouts=books.requests)
    assert books.accepted == 2
    assert drops(metrics) == {(drop.reason, "checkout"): 1}
    assert metrics.by("urllib3.pool.checkouts", "outcome") == {"new": 1, "reused": 1, "replaced": 1}
    assert metrics.by("urllib3.pool.closed_connections", "reason") == {"dropped": 1}
    assert causes(metrics) == {"new": 1, "replaced": 1}

    (span,) = telemetry.named("HTTP connection_dropped")
    host = server.url.split("//")[1].partition(":")[0]
    assert span.name == f"HTTP connection_dropped {host}:{server.port}"
    assert span.status.is_unset
    (told,) = attributes_of([span])
    idle, age = told.pop("idle.duration"), told.pop("age")
    close_wait, remote_close = told.pop("close_wait.duration", None), told.pop("remote_close.duration", None)
    assert told.pop("unread_bytes") in drop.unread
    assert told == {
        "server.address": host,
        "server.port": server.port,
        "url.scheme": "http" if drop.tls is None else "https",
        "network.peer.address": "127.0.0.1",
        "network.peer.port": server.port,
        "network.local.port": local_port,
        "network.connection.state": drop.state,
        "drop.reason": drop.reason,
        "drop.phase": "checkout",
        "request.count": 2,
    }
    assert before_check - after_last <= idle <= after_check - before_last
    assert before_check - before_last <= age <= after_check - before_first
    assert metrics.sum("urllib3.connection.idle.duration", outcome="replaced") == pytest.approx(idle)
    assert metrics.count("urllib3.connection.remote_close.duration") == drop.is_age_known
    assert metrics.count("urllib3.connection.close_wait.duration") == (drop.state == "close_wait")
    if drop.is_age_known:
        (closed,) = books.idle_closes
        check_limit(remote_close, closed.seconds, after_last - before_last if drop.tls else 0)
        assert metrics.sum("urllib3.connection.remote_close.duration") == pytest.approx(remote_close)
    else:
        assert remote_close is None
    if drop.state == "close_wait":
        assert close_wait >= PARKED - CLOCKS_AGREE_WITHIN
        assert close_wait + remote_close == pytest.approx(idle, abs=CLOCKS_AGREE_WITHIN)
        assert metrics.sum("urllib3.connection.close_wait.duration") == pytest.approx(close_wait)
    else:
        assert close_wait is None


@pytest.mark.parametrize("tls", PROTOCOLS)
def test_the_kernels_timeout_is_told(telemetry: Telemetry, tmp_path: Path, tls: str | None) -> None:
    # The server answers and never reads the body, most of which stays in this side's kernel. Its window stays shut,
    # and TCP_USER_TIMEOUT ends the connection while it lies in the pool.
    telemetry.install(metrics="all")
    with DeafServer(tls, tmp_path) as server, server.manager(timeout=0.1) as http:
        with server.answering():
            assert http.request("POST", server.url, body=b"x" * 100_000).status == 200
        wait_for_peer(pooled(http.connection_from_url(server.url))[0].sock)
        with server.answering():
            assert http.request("GET", server.url).status == 200
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=2)
        assert drops(metrics) == {("timed_out", "checkout"): 1}
        (told,) = attributes_of(telemetry.named("HTTP connection_dropped"))
        assert told["network.connection.state"] == "closed"
        assert told["request.count"] == 1
        assert not {"remote_close.duration", "close_wait.duration"} & told.keys()


@pytest.mark.parametrize("tls", PROTOCOLS)
@pytest.mark.parametrize(("path", "kind"), [("/close", "close_header"), ("/http10", "http10")])
def test_an_announced_close_is_no_drop(telemetry: Telemetry, path: str, kind: str, tls: str | None) -> None:
    telemetry.install()
    with Server(tls=tls) as server, manager(server.ca_file) as http:
        for _ in range(3):
            http.request("GET", server.url + path)
        assert server.wait_for(lambda books: not books.open).ended == {kind: 3}
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=3)
        assert drops(metrics) == {}
        assert metrics.by("urllib3.pool.checkouts", "outcome") == {"new": 3}
        assert metrics.by("urllib3.pool.closed_connections", "reason") == {"response_close": 3}
        assert causes(metrics) == {"new": 3}
        assert not telemetry.named("HTTP connection_dropped")
        assert not metrics.count("urllib3.connection.remote_close.duration")


@pytest.mark.parametrize(("idle", "is_known"), [(0.3, True), (1.3, False)], ids=["not-yet", "probed"])
def test_times_that_a_keepalive_probe_may_have_refreshed_are_left_out(
    telemetry: Telemetry, idle: float, is_known: bool
) -> None:
    telemetry.install(metrics="all")
    options = [
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1),
    ]
    # A half-close: the peer lives on and answers the probes.
    with Server() as server, manager(socket_options=options) as http:
        http.request("GET", f"{server.url}/half-close/0.1")
        time.sleep(idle)
        if not is_known:
            telemetry.collect()  # the walk must leave them out too
        http.request("GET", f"{server.url}/ok")
        metrics = telemetry.collect()
        assert drops(metrics) == {("fin", "checkout"): 1}
        (told,) = attributes_of(telemetry.named("HTTP connection_dropped"))
        assert ("remote_close.duration" in told) == is_known
        assert ("close_wait.duration" in told) == is_known
        assert metrics.count("urllib3.connection.remote_close.duration") == is_known
        assert metrics.count("urllib3.connection.close_wait.duration") == is_known
        if is_known:
            assert told["remote_close.duration"] == pytest.approx(
                server.books.idle_closes[0].seconds, abs=CLOCKS_AGREE_WITHIN
            )


@pytest.mark.parametrize("tls", PROTOCOLS)
def test_a_span_tells_when_the_fin_came_though_a_collection_saw_it_first(telemetry: Telemetry, tls: str | None) -> None:
    telemetry.install()
    with Server(tls=tls) as server, manager(server.ca_file) as http:
        began = time.monotonic()
        http.request("GET", f"{server.url}/fin/{AFTER}")
        took = time.monotonic() - began
        wait_for_peer(pooled(http.connection_from_url(server.url))[0].sock)
        assert telemetry.collect().count("urllib3.connection.remote_close.duration") == 1
        http.request("GET", f"{server.url}/ok")
        assert telemetry.collect().count("urllib3.connection.remote_close.duration") == 1
        (told,) = attributes_of(telemetry.named("HTTP connection_dropped"))
        check_limit(told["remote_close.duration"], server.books.idle_closes[0].seconds, took if tls else 0)


def check_limit(told: float, closed_after: float, late: float) -> None:
    """What is told of the server's limit, against its own books.

    Args:
        late: by so much at the most the response was returned after its last byte, from which the server counts: no
            longer than the whole request took. With TLS that is missing, as only the return is known.
    """
    assert closed_after - late - CLOCKS_AGREE_WITHIN <= told <= closed_after + CLOCKS_AGREE_WITHIN


@pytest.mark.parametrize("tls", PROTOCOLS)
def test_a_drop_counts_though_the_server_is_gone_for_good(telemetry: Telemetry, tls: str | None) -> None:
    telemetry.install()
    with manager() as http:
        with Server(tls=tls) as server:
            context = server.client_context() if tls else ssl.create_default_context()
            http.connection_pool_kw["ssl_context"] = context
            http.request("GET", f"{server.url}/ok")
            url = server.url
        wait_for_peer(pooled(http.connection_from_url(url))[0].sock)
        with pytest.raises(urllib3.exceptions.MaxRetryError):
            http.request("GET", f"{url}/ok", retries=urllib3.Retry(1, backoff_factor=0))
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=3)
        assert drops(metrics) == {("fin", "checkout"): 1}
        assert metrics.by("urllib3.pool.checkouts", "outcome") == {"new": 2, "replaced": 1}
        assert causes(metrics) == {"new": 2, "replaced": 1}
        assert metrics.value("urllib3.pool.opened_connections") == 1
        (repair, retry) = attributes_of(telemetry.named("HTTP connection_setup"))[1:]
        assert (repair["setup.cause"], retry["setup.cause"]) == ("replaced", "new")
        assert repair["error.type"] == retry["error.type"] == "urllib3.exceptions.NewConnectionError"


def test_each_socket_of_one_connection_object_has_its_own_age_and_counts(telemetry: Telemetry) -> None:
    telemetry.install(metrics="all")
    with Server() as server, manager() as http:
        for requests in (1, 3, 2):
            for _ in range(requests - 1):
                http.request("GET", f"{server.url}/ok")
            http.request("GET", f"{server.url}/fin/0.05")
            wait_for_peer(pooled(http.connection_from_url(server.url))[0].sock)
        http.request("GET", f"{server.url}/ok")
        assert http.connection_from_url(server.url).num_connections == 1
        told = attributes_of(telemetry.named("HTTP connection_dropped"))
        assert [each["request.count"] for each in told] == [1, 3, 2]
        assert all(0.05 - CLOCKS_AGREE_WITHIN < each["idle.duration"] < each["age"] for each in told)
        assert len({each["network.local.port"] for each in told}) == 3
        assert sum(each["age"] for each in told) == pytest.approx(
            telemetry.collect().sum("http.client.connection.duration"), abs=CLOCKS_AGREE_WITHIN
        )
