"""What stands in urllib3's place, or in that of its parts: vcrpy's stubs, and the copy that pip brings along."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import urllib3

import pool_telemetry
from misbehaving import Server
from tests.live.apart import run_apart
from tests.support import Telemetry, check_laws

# vcrpy


@pytest.fixture
def cassette(tmp_path: Path) -> str:
    pytest.importorskip("vcr", reason="missing: vcrpy")
    return str(tmp_path / "cassette.yaml")


def test_a_cassette_is_recorded_and_played_as_without_us(cassette: str) -> None:
    run_apart(record_and_play, cassette)


@pytest.mark.parametrize("is_recorded", [False, True], ids=["recording", "playing"])
def test_a_cassette_that_is_in_while_we_come_and_go_is_recorded_and_played(cassette: str, is_recorded: bool) -> None:
    run_apart(come_and_go_in_a_cassette, cassette, is_recorded)


def get_twice(server: Server) -> list[tuple[int, bytes]]:
    with urllib3.PoolManager() as http:
        responses = [http.request("GET", server.url + path) for path in ("/ok", "/status/404")]
        return [(response.status, response.data) for response in responses]


def record_and_play(file: str) -> None:
    import vcr

    with Server() as server, Telemetry() as telemetry:
        expected = get_twice(server)
        telemetry.install()
        with vcr.use_cassette(file):
            assert get_twice(server) == expected
        assert server.books.requests == 4
        # The connection in the pool is a stub, whose real one is hidden: it is first seen when it comes back.
        check_laws(telemetry.collect(), checkouts=2, adopted=1)
        with vcr.use_cassette(file) as cassette:
            assert get_twice(server) == expected
            assert cassette.play_count == 2
        assert server.books.requests == 4
        check_laws(telemetry.collect(), checkouts=4, adopted=2)
        assert get_twice(server) == expected
        assert server.books.requests == 6
        metrics = telemetry.collect()
        check_laws(metrics, checkouts=6, adopted=2)
        assert metrics.value("urllib3.pool.opened_connections") == 1
        pool_telemetry.uninstall()
        with vcr.use_cassette(file) as cassette:
            assert get_twice(server) == expected
            assert cassette.play_count == 2


def come_and_go_in_a_cassette(file: str, is_recorded: bool) -> None:
    """A cassette that is taken out puts back what it has found there: our wrappers, or none of them."""
    import vcr

    faults: list[logging.LogRecord] = []
    handler = logging.Handler()
    handler.emit = faults.append  # type: ignore[method-assign, assignment]
    logging.getLogger("pool_telemetry").addHandler(handler)
    with Server() as server, Telemetry() as telemetry:
        expected = get_twice(server)
        if is_recorded:
            with vcr.use_cassette(file):
                get_twice(server)
        for number, change in enumerate((telemetry.install, pool_telemetry.uninstall) * 2):
            with vcr.use_cassette(file if is_recorded else f"{file}.{number}") as cassette:
                change()
                assert get_twice(server) == expected
                assert cassette.play_count == (2 if is_recorded else 0)
            assert get_twice(server) == expected
            telemetry.collect()
        telemetry.install()
        before = telemetry.collect().value("urllib3.pool.checkouts")
        assert get_twice(server) == expected
        assert telemetry.collect().value("urllib3.pool.checkouts") == before + 2
    assert not faults


# pip's copy


def test_the_copy_of_urllib3_that_pip_brings_along_is_left_alone() -> None:
    run_apart(use_the_copy_of_pip)


def use_the_copy_of_pip() -> None:
    import pip._vendor.requests as requests
    from pip._vendor.urllib3 import connection, connectionpool
    from pip._vendor.urllib3.util import retry

    classes = (connectionpool.HTTPConnectionPool, connection.HTTPConnection, retry.Retry)
    before = [dict(vars(each)) for each in (*classes, connectionpool, connection)]
    with Server() as server, Telemetry() as telemetry:
        telemetry.install(spans="all", metrics="all")
        assert [dict(vars(each)) for each in (*classes, connectionpool, connection)] == before
        with requests.Session() as session:
            session.trust_env = False
            assert [session.get(server.url + path).status_code for path in ("/ok", "/close")] == [200, 200]
        assert server.books.requests == 2
        assert not telemetry.spans
        assert telemetry.collect().value("urllib3.pool.creations") == 0
        with urllib3.PoolManager() as http:
            assert http.request("GET", f"{server.url}/close").status == 200
        check_laws(telemetry.collect(), checkouts=1)
