"""Spans: which there are, what they carry, where they hang, and what they link to."""

from __future__ import annotations

import itertools
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import urllib3
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import SpanContext, SpanKind, StatusCode, TraceFlags

import pool_telemetry
from misbehaving import Server
from tests.support import Telemetry, check_laws, manager

IS_LINUX = sys.platform == "linux"
linux_only = pytest.mark.skipif(not IS_LINUX, reason="missing: TCP_INFO, which is Linux's")
OF_LIVES = {"http.client.connection.duration", "urllib3.connection.requests"}
SUPPRESSIONS = [_SUPPRESS_INSTRUMENTATION_KEY, "suppress_instrumentation"]


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        yield server


class Within:
    """A context with one key set."""

    def __init__(self, key: str) -> None:
        self._key = key

    def __enter__(self) -> None:
        self._token = otel_context.attach(otel_context.set_value(self._key, True))

    def __exit__(self, *_: object) -> None:
        otel_context.detach(self._token)


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def ids(span: Any) -> tuple[int, int]:
    context = span.get_span_context()
    return context.trace_id, context.span_id


def links(span: ReadableSpan) -> list[tuple[Any, tuple[int, int]]]:
    return [
        ((link.attributes or {})["urllib3.link.kind"], (link.context.trace_id, link.context.span_id))
        for link in span.links
    ]


def one(spans: list[ReadableSpan]) -> ReadableSpan:
    (span,) = spans
    return span


def local_port_of(http: Any, server: Server) -> int:
    """This side's port of the pooled connection."""
    return int(http.connection_from_url(server.url).pool.queue[-1].sock.getsockname()[1])


def drop(server: Server, http: Any, path: str = "/fin/0.02") -> None:
    """Leave a drop in the pool."""
    ended = sum(server.books.ended.values())
    http.request("GET", server.url + path)
    server.wait_for(lambda books: sum(books.ended.values()) > ended)
    # Through loopback a FIN takes no time, but its sender may not have been scheduled to send it yet.
    time.sleep(0.02)


def hold_slot(pool: Any, seconds: float) -> threading.Thread:
    """Take a blocking pool's only connection, and give it back after so long."""
    conn = pool._get_conn()

    def give_back() -> None:
        time.sleep(seconds)
        pool._put_conn(conn)

    thread = threading.Thread(target=give_back)
    thread.start()
    return thread


def test_every_span_is_internal_and_of_our_scope(telemetry: Telemetry) -> None:
    telemetry.install(spans="all", wait_threshold=0.0)
    with Server(tls="1.3") as server, telemetry.tracer.start_as_current_span("request"):
        http = manager(server.ca_file, block=True, maxsize=1)
        drop(server, http)
        http.request("GET", f"{server.url}/ok")
        holder = hold_slot(http.connection_from_url(server.url), 0.05)
        http.request("GET", f"{server.url}/ok")
        holder.join()
        upstream = f"localhost:{server.port}"
        assert {re.sub(r"(?<=socket connect ).*", "…", span.name) for span in telemetry.spans} >= {
            f"HTTP connection_dropped {upstream}",
            f"HTTP connection_setup {upstream}",
            f"HTTP connection_checkout {upstream}",
            f"HTTP wait_for_connection {upstream}",
            "DNS lookup localhost",
            "socket connect …",
            "TLS client handshake localhost",
        }
        for span in telemetry.spans:
            scope = span.instrumentation_scope
            assert span.kind is SpanKind.INTERNAL
            assert scope is not None
            assert (scope.name, scope.version) == ("pool_telemetry", pool_telemetry.__version__)
            assert scope.schema_url == "https://opentelemetry.io/schemas/1.44.0"
            assert not span.events


# Attributes


@linux_only
def test_a_drop_at_checkout_carries_all_there_is_to_know(telemetry: Telemetry, server: Server) -> None:
    telemetry.install()
    http = manager()
    with telemetry.tracer.start_as_current_span("opening") as opening:
        http.request("GET", f"{server.url}/ok")
    with telemetry.tracer.start_as_current_span("using") as using:
        drop(server, http)
        local_port = local_port_of(http, server)
    with telemetry.tracer.start_as_current_span("request"):
        http.request("GET", f"{server.url}/ok")
    span = one(telemetry.named("HTTP connection_dropped"))
    told = attributes(span)
    durations = {key: told.pop(key) for key in list(told) if key.endswith((".duration", ".age"))}
    assert span.name == f"HTTP connection_dropped 127.0.0.1:{server.port}"
    assert told == {
        "server.address": "127.0.0.1",
        "server.port": server.port,
        "url.scheme": "http",
        "network.peer.address": "127.0.0.1",
        "network.peer.port": server.port,
        "network.local.port": local_port,
        "network.connection.state": "close_wait",
        "urllib3.connection.drop.reason": "fin",
        "urllib3.connection.drop.phase": "checkout",
        "urllib3.connection.request.count": 2,
        "urllib3.connection.unread_bytes": 0,
        "urllib3.connection.last_used.trace_id": f"{ids(using)[0]:032x}",
        "urllib3.connection.last_used.span_id": f"{ids(using)[1]:016x}",
        "urllib3.connection.opened.trace_id": f"{ids(opening)[0]:032x}",
        "urllib3.connection.opened.span_id": f"{ids(opening)[1]:016x}",
    }
    prefix = "urllib3.connection."
    assert durations.keys() == {
        f"{prefix}{each}" for each in ("idle.duration", "close_wait.duration", "remote_close.duration", "age")
    }
    idle, age = durations[f"{prefix}idle.duration"], durations[f"{prefix}age"]
    assert 0.02 < idle < age < 5
    # The kernel counts in steps of up to 4 ms.
    assert durations[f"{prefix}remote_close.duration"] == pytest.approx(server.books.idle_closes[0].seconds, abs=0.02)
    assert durations[f"{prefix}remote_close.duration"] + durations[f"{prefix}close_wait.duration"] == pytest.approx(
        idle, abs=0.02
    )
    assert span.status.status_code is StatusCode.UNSET


@linux_only
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_lost_race_carries_its_error_and_is_no_error_of_ours(
    telemetry: Telemetry, server: Server, method: str
) -> None:
    telemetry.install()
    http = manager()
    with telemetry.tracer.start_as_current_span("opening") as opening:
        http.request(method, f"{server.url}/lost")
    time.sleep(0.03)
    before = time.time_ns()
    with telemetry.tracer.start_as_current_span("request") as request:
        if method == "POST":
            with pytest.raises(urllib3.exceptions.HTTPError):
                http.request(method, f"{server.url}/lost")
        else:
            http.request(method, f"{server.url}/lost")
    span = one(telemetry.named("HTTP connection_dropped"))
    told = attributes(span)
    assert span.name == f"HTTP connection_dropped 127.0.0.1:{server.port}"
    assert told["urllib3.connection.drop.phase"] == "request"
    assert told["urllib3.connection.drop.reason"] == "fin"
    assert told["error.type"] == "http.client.RemoteDisconnected"
    assert told["urllib3.connection.request.count"] == 1
    assert told["urllib3.connection.idle.duration"] >= 0.03
    assert told["network.peer.port"] == server.port
    assert "urllib3.connection.close_wait.duration" not in told
    assert "urllib3.connection.remote_close.duration" not in told
    assert span.status.status_code is StatusCode.UNSET
    assert span.parent is not None
    assert span.parent.span_id == ids(request)[1]
    # Who opened it was also the last to use it before this request.
    assert links(span) == [("last_used", ids(opening)), ("opened", ids(opening))]
    # From the send to the failure.
    assert before <= (span.start_time or 0) < (span.end_time or 0)
    # A request that is not repeated opens nothing.
    assert len(telemetry.named("HTTP connection_setup")) == (2 if method == "GET" else 1)
    check_laws(telemetry.collect(), checkouts=3 if method == "GET" else 2)


def test_a_set_up_carries_both_ends_and_its_cause(telemetry: Telemetry) -> None:
    telemetry.install()
    with Server(tls="1.3") as server, telemetry.tracer.start_as_current_span("request"):
        http = manager(server.ca_file)
        http.request("GET", f"{server.url}/ok")
        setup = one(telemetry.named("HTTP connection_setup"))
        local_port = local_port_of(http, server)
    assert attributes(setup) == {
        "server.address": "localhost",
        "server.port": server.port,
        "url.scheme": "https",
        "network.peer.address": "127.0.0.1",
        "network.peer.port": server.port,
        "network.local.port": local_port,
        "urllib3.connection.setup.cause": "new",
    }
    assert setup.status.status_code is StatusCode.UNSET
    dns = one(telemetry.named("DNS lookup"))
    assert attributes(dns) == {"dns.question.name": "localhost"}
    connect = one(telemetry.named(f"socket connect 127.0.0.1:{server.port}"))
    assert attributes(connect) == {
        "network.peer.address": "127.0.0.1",
        "network.peer.port": server.port,
        "network.transport": "tcp",
        "network.type": "ipv4",
    }
    tls = one(telemetry.named("TLS client handshake localhost"))
    assert attributes(tls) == {
        "server.address": "localhost",
        "tls.protocol.name": "tls",
        "tls.protocol.version": "1.3",
    }


@pytest.mark.parametrize(("cause", "path"), [("new", "/close"), ("replaced", "/fin/0.02"), ("lost_race", "/lost")])
def test_a_set_up_tells_its_cause(telemetry: Telemetry, server: Server, cause: str, path: str) -> None:
    telemetry.install()
    http = manager()
    with telemetry.tracer.start_as_current_span("request"):
        if cause == "replaced":
            drop(server, http, path)
        else:
            http.request("GET", server.url + path)
        http.request("GET", server.url + path)
    causes = [attributes(span)["urllib3.connection.setup.cause"] for span in telemetry.named("HTTP connection_setup")]
    assert causes == ["new", cause]


# Waiting, and each checkout


def test_a_long_wait_is_a_span_of_the_queue_alone(telemetry: Telemetry) -> None:
    telemetry.install(wait_threshold=0.05)
    with Server(tls="1.3") as server:
        with (
            urllib3.HTTPSConnectionPool(
                "localhost", server.port, maxsize=1, block=True, ca_certs=server.ca_file
            ) as pool,
            telemetry.tracer.start_as_current_span("request") as request,
        ):
            holder = hold_slot(pool, 0.3)
            pool.urlopen("GET", "/ok")
            holder.join()
            pool.urlopen("GET", "/ok")
        wait = one(telemetry.named("HTTP wait_for_connection"))
        assert wait.name == f"HTTP wait_for_connection localhost:{server.port}"
        assert attributes(wait) == {
            "server.address": "localhost",
            "server.port": server.port,
            "url.scheme": "https",
            "urllib3.pool.checkout.outcome": "new",
        }
        assert wait.status.status_code is StatusCode.UNSET
        assert wait.parent is not None
        assert wait.parent.span_id == ids(request)[1]
        took = ((wait.end_time or 0) - (wait.start_time or 0)) / 1e9
        assert 0.05 < took < 1
        setup = one(telemetry.named("HTTP connection_setup"))
        assert (wait.end_time or 0) <= (setup.start_time or 0)
        assert telemetry.collect().count("urllib3.pool.wait.duration") == 3


def test_a_wait_below_the_threshold_makes_no_span(telemetry: Telemetry, server: Server) -> None:
    telemetry.install(wait_threshold=30)
    with urllib3.HTTPConnectionPool("127.0.0.1", server.port, maxsize=1, block=True) as pool:
        holder = hold_slot(pool, 0.3)
        pool.urlopen("GET", "/ok")
        holder.join()
    assert telemetry.named("HTTP wait_for_connection") == []
    metrics = telemetry.collect()
    assert metrics.count("urllib3.pool.wait.duration") == 2
    assert metrics.sum("urllib3.pool.wait.duration") >= 0.03


def test_a_wait_that_times_out_is_a_failed_span_however_short(telemetry: Telemetry, server: Server) -> None:
    telemetry.install(wait_threshold=30)
    with urllib3.HTTPConnectionPool("127.0.0.1", server.port, maxsize=1, block=True) as pool:
        conn = pool._get_conn()
        with pytest.raises(urllib3.exceptions.EmptyPoolError):
            pool._get_conn(timeout=0.01)
        pool._put_conn(conn)
    span = one(telemetry.named("HTTP wait_for_connection"))
    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span) == {
        "server.address": "127.0.0.1",
        "server.port": server.port,
        "url.scheme": "http",
        "urllib3.pool.checkout.outcome": "timed_out",
        "error.type": "urllib3.exceptions.EmptyPoolError",
    }
    assert span.parent is None


def test_checkouts_are_spans_only_where_all_are_asked_for(telemetry: Telemetry, server: Server) -> None:
    telemetry.install()
    with telemetry.tracer.start_as_current_span("request"):
        http = manager()
        for _ in range(2):
            http.request("GET", f"{server.url}/ok")
    assert telemetry.named("HTTP connection_checkout") == []
    pool_telemetry.uninstall()
    telemetry.install(spans="all")
    with telemetry.tracer.start_as_current_span("request") as request:
        http = manager()
        http.request("GET", f"{server.url}/ok")
        time.sleep(0.02)
        http.request("GET", f"{server.url}/ok")
    # Without a current span there is no trace that it would tell anything about.
    http.request("GET", f"{server.url}/ok")
    new, reused = telemetry.named(f"HTTP connection_checkout 127.0.0.1:{server.port}")
    assert attributes(new)["urllib3.pool.checkout.outcome"] == "new"
    assert "urllib3.connection.idle.duration" not in attributes(new)
    assert attributes(reused)["urllib3.pool.checkout.outcome"] == "reused"
    assert attributes(reused)["urllib3.connection.idle.duration"] >= 0.02
    for span in (new, reused):
        assert span.parent is not None
        assert span.parent.span_id == ids(request)[1]
        assert (span.end_time or 0) - (span.start_time or 0) < 0.02e9


# Parents, roots, links


def test_spans_are_children_of_the_current_one_and_phases_of_the_set_up(telemetry: Telemetry, server: Server) -> None:
    telemetry.install()
    http = manager()
    with telemetry.tracer.start_as_current_span("request") as request:
        drop(server, http)
        http.request("GET", f"{server.url}/ok")
    for name in ("HTTP connection_dropped", "HTTP connection_setup"):
        for span in telemetry.named(name):
            assert span.parent is not None
            assert (span.parent.trace_id, span.parent.span_id) == ids(request)
    setups = telemetry.named("HTTP connection_setup")
    parents = [span.parent and span.parent.span_id for span in telemetry.named("socket connect")]
    assert parents == [ids(setup)[1] for setup in setups]
    # Beside the drop, a child needs no link to it.
    assert [links(setup) for setup in setups] == [[], []]


@pytest.mark.parametrize("path", ["/fin/0.02", "/lost"])
def test_without_a_current_span_a_set_up_links_to_the_drop_it_repairs(
    telemetry: Telemetry, server: Server, path: str
) -> None:
    telemetry.install()
    http = manager()
    if path == "/lost":
        http.request("GET", server.url + path)
    else:
        drop(server, http, path)
    http.request("GET", server.url + path)
    dropped = one(telemetry.named("HTTP connection_dropped"))
    first, second = telemetry.named("HTTP connection_setup")
    assert dropped.parent is first.parent is second.parent is None
    assert links(first) == []
    assert links(second) == [("replaces", ids(dropped))]
    # Nobody's span was there to be linked to.
    assert links(dropped) == []
    assert not [
        key
        for key in attributes(dropped)
        if key.startswith(("urllib3.connection.last_used", "urllib3.connection.opened"))
    ]
    # A later set-up of the same pool repairs nothing.
    http.request("GET", f"{server.url}/close")
    http.request("GET", f"{server.url}/ok")
    assert links(telemetry.named("HTTP connection_setup")[-1]) == []


@pytest.mark.parametrize("collects", [False, True], ids=["", "after collections"])
def test_links_lead_to_the_last_user_then_to_the_opener(telemetry: Telemetry, server: Server, collects: bool) -> None:
    telemetry.install()
    http = manager()
    spans = {}
    for name in ("opened", "between", "last_used"):
        with telemetry.tracer.start_as_current_span(name) as spans[name]:
            if name == "last_used":
                drop(server, http)
            else:
                http.request("GET", f"{server.url}/ok")
        if collects:
            telemetry.collect()
    with telemetry.tracer.start_as_current_span("request"):
        http.request("GET", f"{server.url}/ok")
    dropped = one(telemetry.named("HTTP connection_dropped"))
    assert links(dropped) == [("last_used", ids(spans["last_used"])), ("opened", ids(spans["opened"]))]


@pytest.mark.parametrize("collects", [False, True], ids=["", "after a collection"])
def test_of_a_lost_race_links_lead_to_the_use_before_the_last(
    telemetry: Telemetry, server: Server, collects: bool
) -> None:
    telemetry.install()
    http = manager()
    spans = {}
    for name, path in (("opened", "/ok"), ("last_used", "/ok"), ("request", "/lost")):
        with telemetry.tracer.start_as_current_span(name) as spans[name]:
            http.request("GET", f"{server.url}{path}")
        if collects:
            telemetry.collect()
    dropped = one(telemetry.named("HTTP connection_dropped"))
    assert links(dropped) == [("last_used", ids(spans["last_used"])), ("opened", ids(spans["opened"]))]


def test_a_link_equal_to_the_parent_is_skipped_and_told_as_attributes(telemetry: Telemetry, server: Server) -> None:
    telemetry.install()
    http = manager()
    with telemetry.tracer.start_as_current_span("opened") as opener:
        http.request("GET", f"{server.url}/ok")
    with telemetry.tracer.start_as_current_span("request") as request:
        drop(server, http)
        http.request("GET", f"{server.url}/ok")
    dropped = one(telemetry.named("HTTP connection_dropped"))
    assert links(dropped) == [("opened", ids(opener))]
    assert attributes(dropped)["urllib3.connection.last_used.trace_id"] == f"{ids(request)[0]:032x}"
    assert attributes(dropped)["urllib3.connection.last_used.span_id"] == f"{ids(request)[1]:016x}"


# Sampling, switches


def remote(sampled: bool) -> SpanContext:
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    return SpanContext(0xA1, 0xB2, is_remote=True, trace_flags=flags)


@pytest.mark.parametrize("how", ["not recording", "sampled out by the SDK"])
def test_under_a_span_that_was_sampled_out_there_is_none(telemetry: Telemetry, server: Server, how: str) -> None:
    telemetry.install(spans="all", wait_threshold=0.0)
    span: Any = trace.NonRecordingSpan(remote(sampled=False))
    if how != "not recording":
        span = TracerProvider(sampler=ALWAYS_OFF).get_tracer("test").start_span("request")
        assert span.get_span_context().is_valid
    http = manager(block=True)
    with trace.use_span(span):
        drop(server, http)
        http.request("GET", f"{server.url}/lost")
        http.request("GET", f"{server.url}/lost")
    assert telemetry.spans == ()
    check_laws(telemetry.collect(), checkouts=4)


def test_a_remote_parent_that_was_sampled_has_children(telemetry: Telemetry, server: Server) -> None:
    telemetry.install(spans="all")
    with trace.use_span(trace.NonRecordingSpan(remote(sampled=True))):
        manager().request("GET", f"{server.url}/ok")
    for name in ("HTTP connection_setup", "HTTP connection_checkout"):
        span = one(telemetry.named(name))
        assert span.parent is not None
        assert (span.parent.trace_id, span.parent.span_id) == (0xA1, 0xB2)


def test_spans_can_be_switched_off(telemetry: Telemetry, server: Server) -> None:
    telemetry.install(spans="off", wait_threshold=0.0)
    http = manager(block=True)
    with telemetry.tracer.start_as_current_span("request"):
        drop(server, http)
        http.request("GET", f"{server.url}/lost")
        http.request("GET", f"{server.url}/lost")
    assert telemetry.spans == ()
    metrics = telemetry.collect()
    check_laws(metrics, checkouts=4)
    assert metrics.value("urllib3.pool.dropped_connections") == 2


# Times


def test_spans_lie_within_their_parents_and_phases_follow_each_other(telemetry: Telemetry) -> None:
    telemetry.install(spans="all", wait_threshold=0.0)
    with Server(tls="1.2") as server:
        http = manager(server.ca_file, block=True)
        for path in ("/ok", "/fin/0.02", "/ok", "/lost", "/lost"):
            with telemetry.tracer.start_as_current_span("request") as request:
                if path.startswith("/fin"):
                    drop(server, http, path)
                else:
                    http.request("GET", server.url + path)
        with telemetry.tracer.start_as_current_span("request"):
            holder = hold_slot(http.connection_from_url(server.url), 0.05)
            http.request("GET", f"{server.url}/ok")
            holder.join()
        assert isinstance(request, ReadableSpan)
    ours = {ids(span)[1]: span for span in telemetry.spans}
    every = {ids(span)[1]: span for span in telemetry._exporter.get_finished_spans()}
    assert {span.name.rpartition(" ")[0] for span in ours.values()} >= {
        "HTTP connection_dropped",
        "HTTP connection_setup",
        "HTTP wait_for_connection",
        "HTTP connection_checkout",
    }
    # Ours are timed by the monotonic clock, the SDK's by the wall clock, which is slewed and has steps of its own.
    slack = 2_000_000
    for span in ours.values():
        assert span.start_time is not None
        assert span.end_time is not None
        assert span.start_time <= span.end_time
        assert span.parent is not None
        parent = every[span.parent.span_id]
        assert (parent.start_time or 0) - slack <= span.start_time
        assert span.end_time <= (parent.end_time or 0) + slack
    for setup in telemetry.named("HTTP connection_setup"):
        phases = [span for span in ours.values() if span.parent and span.parent.span_id == ids(setup)[1]]
        assert [span.name.split()[0] for span in phases] == ["DNS", "socket", "TLS"]
        for earlier, later in itertools.pairwise(phases):
            # Each span is placed by its own reading of the two clocks.
            assert (earlier.end_time or 0) <= (later.start_time or 0) + slack
    for dropped in telemetry.named("HTTP connection_dropped"):
        idle = attributes(dropped)["urllib3.connection.idle.duration"]
        length = ((dropped.end_time or 0) - (dropped.start_time or 0)) / 1e9
        if attributes(dropped)["urllib3.connection.drop.phase"] == "checkout":
            # Idle time is an attribute, never a span's length.
            assert length < idle


# Suppression


@pytest.mark.parametrize("key", SUPPRESSIONS)
def test_suppressed_use_of_a_known_pool_counts_without_span_or_sample(
    telemetry: Telemetry, server: Server, key: str
) -> None:
    telemetry.install(spans="all", metrics="all", wait_threshold=0.0)
    http = manager(block=True)
    http.request("GET", f"{server.url}/ok")
    spans, before = telemetry.spans, telemetry.collect()
    with Within(key):
        http.request("GET", f"{server.url}/ok")
        drop(server, http)
        http.request("GET", f"{server.url}/ok")
        http.request("GET", f"{server.url}/lost")
        http.request("GET", f"{server.url}/lost")
        after = telemetry.collect()
    assert telemetry.spans == spans
    # A connection's life is nobody's use of it.
    of_uses = {name for name in after.names if hasattr(after.points(name)[0], "explicit_bounds")} - OF_LIVES
    assert "urllib3.connection.setup.duration" in of_uses
    assert {name: after.count(name) for name in of_uses} == {name: before.count(name) for name in of_uses}
    assert after.by("urllib3.pool.checkouts", "outcome") == {"new": 3, "reused": 4, "replaced": 1}
    assert after.by("urllib3.pool.dropped_connections", "phase") == {"checkout": 1, "request": 2}
    assert after.value("urllib3.pool.opened_connections") == server.books.accepted == 4
    assert after.by("urllib3.pool.closed_connections", "reason") == {"dropped": 1, "lost_race": 2}
    assert after.value("http.client.open_connections") == after.value("urllib3.pool.socket.count") == 1


@pytest.mark.parametrize("key", SUPPRESSIONS)
def test_a_pool_is_left_out_until_its_first_use_outside_suppression(
    telemetry: Telemetry, server: Server, key: str
) -> None:
    telemetry.install(spans="all", metrics="all")
    http = manager()
    with Within(key):
        for path in ("/ok", "/close", "/lost", "/lost", "/ok"):
            http.request("GET", server.url + path)
    assert telemetry.collect().names == set()
    http.request("GET", f"{server.url}/ok")
    metrics = telemetry.collect()
    check_laws(metrics, checkouts=1, adopted=1)
    assert metrics.by("urllib3.pool.checkouts", "outcome") == {"reused": 1}
    assert metrics.value("urllib3.pool.opened_connections") == 0
    assert metrics.value("http.client.open_connections") == 1


@pytest.mark.parametrize(
    "key", ["suppress_http_instrumentation", otel_context._SUPPRESS_HTTP_INSTRUMENTATION_KEY], ids=["plain", "key"]
)
def test_http_suppression_is_not_honoured(telemetry: Telemetry, server: Server, key: str) -> None:
    telemetry.install()
    with telemetry.tracer.start_as_current_span("request"), Within(key):
        manager().request("GET", f"{server.url}/ok")
    one(telemetry.named("HTTP connection_setup"))
    metrics = telemetry.collect()
    check_laws(metrics, checkouts=1)
    assert metrics.count("urllib3.connection.setup.duration") == 1


def test_an_exporter_s_own_pool_is_not_told_of(telemetry: Telemetry, server: Server) -> None:
    class OverHttp(SpanExporter):
        """As OTLP's does it, over urllib3."""

        http = manager()
        sent = 0

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            with Server() as collector:  # a new one each time: each export would open a connection and make a span
                self.http.request("POST", f"{collector.url}/ok", body=str(len(spans)))
            OverHttp.sent += len(spans)
            return SpanExportResult.SUCCESS

    telemetry.tracer_provider.add_span_processor(SimpleSpanProcessor(OverHttp()))
    telemetry.install(spans="all", metrics="all")
    with telemetry.tracer.start_as_current_span("request"):
        manager().request("GET", f"{server.url}/ok")
    assert OverHttp.sent == len(telemetry.spans) + 1
    ports = {attributes(span).get("server.port", server.port) for span in telemetry.spans}
    assert ports == {server.port}
    metrics = telemetry.collect()
    assert {point.attributes["server.port"] for point in metrics.points("urllib3.pool.checkouts")} == {server.port}
    check_laws(metrics, checkouts=1)
