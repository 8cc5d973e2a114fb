"""Where the kernel tells nothing, counts and laws hold all the same, and what cannot be known is left out."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import urllib3.util.connection
from urllib3 import HTTPConnectionPool

from misbehaving import Server
from tests import bare_platform, programs
from tests.support import Telemetry, check_laws

HERE = Path(__file__).parent
HAS_TCP_INFO = hasattr(socket, "TCP_INFO") and sys.platform == "linux"


def test_the_platform_is_as_bare_as_it_was_asked_to_be() -> None:
    for module, name in bare_platform.MISSING:
        assert hasattr(module, name) != bare_platform.IS_BARE or sys.platform != "linux"


def end_by(path: str, pool: HTTPConnectionPool) -> None:
    """Let the pool's connection be ended, and wait until that has come."""
    assert pool.request("GET", path).data == b"ok"
    assert pool.pool is not None
    (conn,) = (each for each in tuple(pool.pool.queue) if each is not None)
    deadline = time.monotonic() + 60
    while not urllib3.util.connection.is_connection_dropped(conn):
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_drops_are_counted_whatever_the_platform_can_tell(telemetry: Telemetry) -> None:
    telemetry.install(metrics="all")
    with Server() as server, HTTPConnectionPool(server.host, server.port, retries=3) as pool:
        for path in ("/fin/0.02", "/rst/0.02", "/stray/0.02"):
            end_by(path, pool)
        for path in ("/ok", "/lost", "/lost-rst", "/ok", "/close", "/ok"):
            assert pool.request("GET", path).data == b"ok"
        books, metrics = server.books, telemetry.collect()

    check_laws(metrics, checkouts=books.requests)
    assert metrics.value("urllib3.pool.opened_connections") == books.accepted == 7
    assert metrics.by("urllib3.pool.checkouts", "outcome") == {"new": 4, "replaced": 3, "reused": 4}
    at_checkout = metrics.by("urllib3.pool.dropped_connections", "reason", phase="checkout")
    assert at_checkout == {"fin": 1, "reset": 1, "unexpected_data": 1}
    in_requests = metrics.by("urllib3.pool.dropped_connections", "reason", phase="request")
    assert sum(in_requests.values()) == 2
    # urllib3 1.26.20 and later swallow the RST on sending: without TCP_INFO it looks like the end of the stream.
    assert set(in_requests) <= ({"fin", "reset"} if HAS_TCP_INFO else {"fin", "reset", "unknown"})
    assert metrics.by("urllib3.pool.closed_connections", "reason") == {
        "dropped": 3,
        "lost_race": 2,
        "response_close": 1,
    }
    assert len(telemetry.named("HTTP connection_dropped")) == 5
    assert metrics.by("http.client.open_connections", "state") == {"idle": 1}
    states = metrics.by("urllib3.pool.socket.count", "network.connection.state")
    assert states == {"established" if HAS_TCP_INFO else None: 1}


def test_facts_that_no_kernel_gave_are_left_out(telemetry: Telemetry) -> None:
    telemetry.install(metrics="all")
    with Server() as server, HTTPConnectionPool(server.host, server.port, retries=3) as pool:
        end_by("/fin/0.05", pool)
        parked = telemetry.collect()
        assert pool.request("GET", "/ok").data == b"ok"
        metrics = telemetry.collect()
    (span,) = telemetry.named("HTTP connection_dropped")
    attributes = span.attributes or {}
    assert attributes["urllib3.connection.drop.reason"] == "fin"
    assert "urllib3.connection.idle.duration" in attributes
    assert metrics.count("urllib3.connection.idle.duration") == 1
    known = {
        "network.connection.state" in attributes,
        "urllib3.connection.remote_close.duration" in attributes,
        "urllib3.connection.close_wait.duration" in attributes,
        bool(metrics.count("urllib3.connection.remote_close.duration")),
        bool(metrics.count("urllib3.connection.close_wait.duration")),
        bool(parked.points("urllib3.pool.close_wait.age")),
        bool(parked.value("urllib3.pool.socket.count", **{"network.connection.state": "close_wait"})),
    }
    assert known == {HAS_TCP_INFO}


@pytest.mark.skipif(bare_platform.IS_BARE, reason="missing: what is bared, this is the bare process")
@pytest.mark.timeout(300)
def test_the_unit_suite_passes_on_a_bare_platform(tmp_path: Path) -> None:
    arguments = [
        *("-q", "-p", "no:cacheprovider", f"--basetemp={tmp_path / 'temp'}"),
        f"--rootdir={programs.ROOT}",
        f"--ignore={HERE / 'test_misbehaving.py'}",  # tests the servers of the tests
        f"--ignore={HERE / 'test_interrupts.py'}",  # whose hundreds of places are the same here
        str(HERE),
    ]
    outcome = subprocess.run(
        [sys.executable, "-m", "pytest", *arguments],
        capture_output=True,
        text=True,
        timeout=280,
        cwd=programs.ROOT,
        env={**os.environ, bare_platform.VARIABLE: "1"},
    )
    assert outcome.returncode == 0, outcome.stdout[-20_000:] + outcome.stderr
    assert " passed" in outcome.stdout


def test_a_process_that_lacks_these_is_served_without_any_test_machinery() -> None:
    printed = programs.run(
        """
        import asyncio, random  # which cannot be imported without
        import select, socket, os
        for module, name in ((socket, "TCP_INFO"), (select, "POLLRDHUP"), (socket, "MSG_DONTWAIT"),
                             (os, "register_at_fork")):
            if hasattr(module, name):
                delattr(module, name)
        import urllib3
        import pool_telemetry
        from misbehaving import Server
        pool_telemetry.install()
        with Server() as server:
            http = urllib3.PoolManager()
            for path in ("/ok", "/lost", "/close", "/ok"):
                assert http.request("GET", server.url + path).data == b"ok"
        pool_telemetry.uninstall()
        print("served")
        """
    )
    assert printed == "served\n"
