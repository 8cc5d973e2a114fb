"""A first pass from end to end, over plain HTTP and TLS."""

from __future__ import annotations

import time

import pytest

from misbehaving import Server
from tests.support import Telemetry, check_laws, manager


@pytest.mark.parametrize("tls", [None, "1.2", "1.3"])
def test_each_checkout_drop_and_close_is_told_as_the_server_saw_it(telemetry: Telemetry, tls: str | None) -> None:
    telemetry.install(metrics="all")
    with Server(tls=tls) as server:
        http = manager(server.ca_file, retries=3)
        for path in ("/ok", "/fin/0.05", "/rst/0.05", "/ok", "/lost", "/close", "/ok", "/lost-rst"):
            http.request("GET", server.url + path)
            time.sleep(0.1)
        books, metrics = server.books, telemetry.collect()
        check_laws(metrics, checkouts=books.requests)
        assert metrics.value("urllib3.pool.opened_connections") == books.accepted
        drops = {
            (point.attributes["urllib3.connection.drop.reason"], point.attributes["urllib3.connection.drop.phase"])
            for point in metrics.points("urllib3.pool.dropped_connections")
            if point.value
        }
        assert {("fin", "checkout"), ("reset", "checkout")} <= drops
        assert metrics.by("urllib3.pool.closed_connections", "reason") == {
            "dropped": 2,
            "lost_race": 2,
            "response_close": 1,
        }
