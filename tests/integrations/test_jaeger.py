"""What a real Jaeger shows of what a connection pool did: sent by OTLP, asked for over its query API."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import textwrap
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jaeger import backend
from jaeger.spans import Span, children, spans_of
from tests.live.wire import CLOCKS_AGREE_WITHIN
from tests.programs import environment

BIN = Path(sys.executable).parent
#: How a program is started: by itself, exporting what pool_telemetry tells, or with everything instrumented.
ALONE = [sys.executable, "-c"]
INSTRUMENTED = [str(BIN / "opentelemetry-instrument"), sys.executable, "-c"]
MICROSECOND = 1  # Jaeger's unit; times are cut off to it

PREAMBLE = """
import json, os, threading, time, requests, urllib3
import pool_telemetry
from misbehaving import Server
from tests.live.wire import before_sending, fin, pooled, wait_for_peer, wait_until

if "POOL_TELEMETRY_EXPORT" in os.environ:
    pool_telemetry.install()
    assert requests.__version__

def pool_of(session, url):
    pools = session.get_adapter(url).poolmanager.pools
    (key,) = pools.keys()
    return pools[key]
"""

# The server closes while the connection idles, and the next request pays.
DROPPED = """
with Server(tls={tls!r}) as server, requests.Session() as session:
    session.verify, session.trust_env = server.ca_file, False  # the environment may name another file
    for path in ("/fin/0.3", "/ok"):
        assert session.get(server.url + path + "?secret=1").status_code == 200
        (conn,) = pooled(pool_of(session, server.url))
        address = conn.sock.getsockname()
        if path != "/ok":
            wait_for_peer(conn.sock)
        print(json.dumps([server.port, address[1]]))
"""
LOST_RACE = """
with Server() as server, requests.Session() as session:
    session.mount("http://", requests.adapters.HTTPAdapter(max_retries=1))
    session.get(server.url + "/ok")
    before_sending(pool_of(session, server.url), fin(server))
    assert session.get(server.url + "/ok").status_code == 200
    print(server.port)
"""
# One connection, held by the first thread until the second one is seen to wait for it.
WAIT = """
with Server() as server, urllib3.HTTPConnectionPool("127.0.0.1", server.port, maxsize=1, block=True) as pool:
    held = pool.urlopen("GET", "/ok", preload_content=False)
    waiting = threading.Thread(target=lambda: pool.urlopen("GET", "/ok"))
    started = time.monotonic()
    waiting.start()
    wait_until(lambda: pool.pool.not_empty._waiters)
    seen = time.monotonic()
    time.sleep(0.05)  # more than a wait must last to be told
    released = time.monotonic()
    held.read()
    held.release_conn()
    waiting.join()
    print(json.dumps([server.port, released - seen, time.monotonic() - started]))
"""


def is_within(span: Span, other: Span) -> bool:
    return other.start <= span.start + MICROSECOND and span.end <= other.end + MICROSECOND


class Told:
    """The spans of one program, the earliest first."""

    def __init__(self, traces: list[dict[str, Any]]) -> None:
        self.spans = spans_of(*traces)
        self.text = json.dumps(traces)

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name or span.name.startswith(f"{name} ")]

    def one(self, name: str) -> Span:
        (span,) = self.named(name)
        return span

    def children(self, parent: Span) -> list[Span]:
        return children(self.spans, parent)


@pytest.fixture(scope="module")
def jaeger() -> Iterator[backend.Jaeger]:
    try:
        with backend.running() as running:
            yield running
    except backend.JaegerMissingError as error:
        pytest.skip(f"missing: {error}")


Tell = Callable[..., tuple[Told, str]]


@pytest.fixture(params=["http/protobuf", "grpc"])
def tell(jaeger: backend.Jaeger, request: pytest.FixtureRequest) -> Tell:
    """Runs a program to its end; gives what Jaeger has of it, and what it printed."""

    def tell(program: str, spans: int, command: list[str] = ALONE, **variables: str) -> tuple[Told, str]:
        service = f"test-{uuid.uuid4().hex}"
        wanted = {"POOL_TELEMETRY_EXPORT": "1"} if command is ALONE else {}
        outcome = subprocess.run(
            [*command, textwrap.dedent(PREAMBLE + program)],
            capture_output=True,
            text=True,
            timeout=60,
            env=environment((), OTEL_SERVICE_NAME=service, **wanted, **jaeger.environment(request.param), **variables),
        )
        assert outcome.returncode == 0, outcome.stderr
        assert outcome.stderr == ""
        traces = jaeger.wait_for(service, lambda found: sum(len(trace["spans"]) for trace in found) >= spans)
        told = Told(traces)
        assert len(told.spans) == spans, [span.name for span in told.spans]
        return told, outcome.stdout

    return tell


def test_the_request_that_pays_for_a_dropped_connection(tell: Tell) -> None:
    """Its client span holds the drop, then the set-up, and a link leads to the request that left it behind."""
    told, printed = tell(
        DROPPED.format(tls=None), 2 + 2 * 2 + 1, INSTRUMENTED, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="urllib3"
    )
    (port, first_port), (_, second_port) = map(json.loads, printed.splitlines())
    first, second = told.named("GET")
    assert first.trace != second.trace
    (opened,) = told.children(first)
    dropped, setup = told.children(second)

    assert dropped.name == f"HTTP connection_dropped 127.0.0.1:{port}"
    assert dropped.links == [(first.trace, first.id)] * 2  # was the last to use the connection, and had opened it
    tags = dropped.tags
    assert tags["span.kind"] == "internal"
    assert tags["server.address"] == "127.0.0.1"
    assert tags["server.port"] == port
    assert tags["url.scheme"] == "http"
    assert tags["network.peer.address"] == "127.0.0.1"
    assert tags["network.peer.port"] == port
    assert tags["network.local.port"] == first_port
    assert tags["network.connection.state"] == "close_wait"
    assert tags["urllib3.connection.drop.reason"] == "fin"
    assert tags["urllib3.connection.drop.phase"] == "checkout"
    assert tags["urllib3.connection.request.count"] == 1
    assert tags["urllib3.connection.remote_close.duration"] >= 0.3 - CLOCKS_AGREE_WITHIN
    assert tags["urllib3.connection.idle.duration"] < tags["urllib3.connection.age"]
    assert tags["urllib3.connection.last_used.trace_id"] == first.trace
    assert tags["urllib3.connection.last_used.span_id"] == first.id
    assert tags["urllib3.connection.opened.span_id"] == first.id
    assert tags["otel.scope.name"] == "pool_telemetry"
    assert "error" not in tags  # urllib3 has repaired it

    assert opened.name == setup.name == f"HTTP connection_setup 127.0.0.1:{port}"
    assert [each.tags["urllib3.connection.setup.cause"] for each in (opened, setup)] == ["new", "replaced"]
    assert [each.tags["network.local.port"] for each in (opened, setup)] == [first_port, second_port]
    assert setup.links == []
    assert is_within(dropped, second)
    assert is_within(setup, second)
    assert dropped.end <= setup.start + MICROSECOND
    for connecting in told.named("socket connect"):
        assert connecting.name == f"socket connect 127.0.0.1:{port}"
        assert is_within(connecting, opened if connecting.parent == opened.id else setup)
    assert "secret" not in json.dumps([span.tags for span in (opened, dropped, setup)])


def test_without_an_instrumentation_around_it_a_set_up_leads_to_the_drop_that_it_repairs(tell: Tell) -> None:
    told, printed = tell(DROPPED.format(tls=None), 2 * 2 + 1)
    (port, _), _ = map(json.loads, printed.splitlines())
    dropped = told.one("HTTP connection_dropped")
    opened, setup = told.named("HTTP connection_setup")
    assert (opened.parent, dropped.parent, setup.parent) == (None, None, None)
    assert (opened.links, dropped.links, setup.links) == ([], [], [(dropped.trace, dropped.id)])
    assert dropped.tags["server.port"] == port
    assert dropped.tags["urllib3.connection.drop.reason"] == "fin"
    assert "secret" not in told.text


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_a_set_up_over_tls_shows_where_its_time_went(tell: Tell, version: str) -> None:
    told, printed = tell(DROPPED.format(tls=version), 2 * 4 + 1)
    (port, _), _ = map(json.loads, printed.splitlines())
    for setup in told.named("HTTP connection_setup"):
        assert setup.name == f"HTTP connection_setup localhost:{port}"
        lookup, *connecting, handshake = told.children(setup)
        assert lookup.name == "DNS lookup localhost"
        # localhost may be ::1 as well, where nobody listens.
        assert connecting[-1].name == f"socket connect 127.0.0.1:{port}"
        assert handshake.name == "TLS client handshake localhost"
        assert handshake.tags["tls.protocol.version"] == version
        phases = [lookup, *connecting, handshake]
        assert all(is_within(phase, setup) for phase in phases)
        assert all(a.end <= b.start + MICROSECOND for a, b in itertools.pairwise(phases))


def test_a_lost_race_lies_beside_the_set_up_that_repairs_it(tell: Tell) -> None:
    told, printed = tell(LOST_RACE, 2 + 2 * 2 + 1, INSTRUMENTED, OTEL_PYTHON_DISABLED_INSTRUMENTATIONS="urllib3")
    first, second = told.named("GET")
    dropped, setup = told.children(second)
    assert dropped.name == f"HTTP connection_dropped 127.0.0.1:{printed.strip()}"
    assert set(dropped.links) == {(first.trace, first.id)}
    assert dropped.tags["urllib3.connection.drop.phase"] == "request"
    assert dropped.tags["urllib3.connection.drop.reason"] == "fin"
    assert dropped.tags["error.type"] == "http.client.RemoteDisconnected"
    assert "error" not in dropped.tags
    assert setup.tags["urllib3.connection.setup.cause"] == "lost_race"
    assert is_within(dropped, second)
    assert dropped.end <= setup.start + MICROSECOND


def test_a_wait_is_as_long_as_it_took(tell: Tell) -> None:
    # One: that of the first checkout, which the threads of starting exporters may hold up, was none.
    told, printed = tell(WAIT, 3)
    port, least, most = json.loads(printed)
    wait = told.one("HTTP wait_for_connection")
    assert wait.name == f"HTTP wait_for_connection 127.0.0.1:{port}"
    assert wait.tags["urllib3.pool.checkout.outcome"] == "reused"
    assert least * 1e6 <= wait.duration + MICROSECOND
    assert wait.duration <= most * 1e6
    assert "error" not in wait.tags
