"""Hosts that somebody else chooses, by a redirect say: neither series nor books nor pages grow with them.

``POOL_TELEMETRY_TEST_HOSTS=100000`` tries as many.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import urllib3
from urllib3.exceptions import HTTPError

import pool_telemetry
from misbehaving import Server
from pool_telemetry import _instrument, _urllib3
from tests.live.endurance import size_of
from tests.live.quick_server import QuickServer, quick_server
from tests.programs import environment, once
from tests.support import Metrics, Telemetry, check_laws

HOSTS = int(os.environ.get("POOL_TELEMETRY_TEST_HOSTS", "1000"))
UPSTREAMS = 10
MOST_NAMES = 12 * (UPSTREAMS + 2)  # of spans: so many kinds there are


@pytest.fixture(scope="module")
def server() -> Iterator[QuickServer]:
    with quick_server() as server:
        yield server


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name that ends on .example is this machine's, and all others are nobody's."""
    look_up = socket.getaddrinfo

    def resolve(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if str(host).endswith(".example"):
            return look_up("127.0.0.1", port, *args, **kwargs)
        if str(host).endswith(".invalid"):
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def points_of(metrics: Metrics) -> int:
    return sum(len(metrics.points(name)) for name in metrics.names)


def report_of() -> str:
    page = io.StringIO()
    pool_telemetry.report(page)
    return page.getvalue()


def url_of(number: int, server: QuickServer) -> str:
    """A URL of a host that has not been asked yet: by a redirect, directly, on a port of its own, or of nobody's."""
    return (
        f"{server.url}/to/by-redirect-{number}.example",
        f"http://direct-{number}.example:{server.port}/ok",
        f"http://127.0.0.1:{1 + number % 1000}/",
        f"http://nobody-{number}.invalid/",
    )[number % 4]


@pytest.mark.timeout(120 + HOSTS // 50)
def test_any_number_of_hosts_leaves_series_books_and_pages_as_they_are(
    telemetry: Telemetry, server: QuickServer, names: None
) -> None:
    telemetry.install(metrics="all", spans="all", max_upstreams=UPSTREAMS, peer_address=True)
    ledger = _instrument._ledger
    assert ledger is not None
    known = f"127.0.0.1:{server.port}"
    span_names: set[str] = set()
    with urllib3.PoolManager(num_pools=4, retries=urllib3.Retry(1, connect=0, backoff_factor=0)) as http:

        def flood(first: int, last: int) -> dict[str, Any]:
            for number in range(first, last):
                with contextlib.suppress(HTTPError), telemetry.tracer.start_as_current_span("request"):
                    http.request("GET", url_of(number, server))
                if number % 100 == 0:
                    span_names.update(span.name for span in telemetry.spans)
                    telemetry._exporter.clear()
            metrics, snapshot = telemetry.collect(), pool_telemetry.snapshot()
            return {
                "points": points_of(metrics),
                "books": size_of(ledger)["books"],
                "series": size_of(ledger)["series"],
                "peers": size_of(ledger)["peers"],
                "snapshot": len(snapshot.to_json()) // 10_000,  # of figures some have a digit more
                "report": len(report_of().splitlines()) // 10,
                "findings": len(pool_telemetry.diagnose(snapshot)),
            }

        http.request("GET", f"http://{known}/ok")
        first = flood(0, HOSTS // 2)
        second = flood(HOSTS // 2, HOSTS)
        metrics = telemetry.collect()
        asked = 1 + sum(number % 4 == 0 for number in range(HOSTS))
        check_laws(metrics, checkouts=asked, server__address="127.0.0.1", server__port=server.port)
        check_laws(metrics)
    span_names.update(span.name for span in telemetry.spans)
    assert second == first
    assert first["books"] == UPSTREAMS + 1  # and that of all others
    assert first["peers"] <= UPSTREAMS
    assert metrics.value("urllib3.pool.checkouts", server__address="_OTHER") > HOSTS // 2
    for name in metrics.names:
        upstreams = {
            (point.attributes["server.address"], point.attributes.get("server.port")) for point in metrics.points(name)
        }
        assert len(upstreams) <= UPSTREAMS + 1, name
    assert len(span_names) < MOST_NAMES, sorted(span_names)
    assert f"HTTP connection_checkout {known}" in span_names
    assert {"HTTP connection_setup _OTHER", "DNS lookup _OTHER", "socket connect _OTHER"} <= span_names
    assert f"http://{known}" in report_of()


@pytest.mark.skipif(sys.platform != "linux", reason="missing: all of 127.0.0.0/8")
def test_a_name_whose_address_is_another_each_time_has_so_many_series_of_peers_and_no_more(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses, port = [f"127.0.0.{number}" for number in range(2, 33)], 0
    with contextlib.ExitStack() as stack:
        for address in addresses:
            port = stack.enter_context(Server(host=address, port=port)).port
        rotating = iter(addresses)

        def another(*_: Any, **__: Any) -> Any:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(rotating), port))]

        monkeypatch.setattr(socket, "getaddrinfo", another)
        telemetry.install(metrics="all", max_upstreams=1, peer_address=True)
        with urllib3.HTTPConnectionPool("rotating.example", port) as pool:
            for _ in addresses:
                pool.request("GET", "/ok")
                telemetry.collect()
                pool.request("GET", "/close")
        metrics = telemetry.collect()
    check_laws(metrics, checkouts=2 * len(addresses))
    known = addresses[:10]  # ten for each of max_upstreams
    for name in ("http.client.open_connections", "urllib3.connection.setup.duration", "urllib3.connection.requests"):
        peers = {point.attributes.get("network.peer.address") for point in metrics.points(name)}
        assert peers - {None} == {*known, "_OTHER"}, name
    assert metrics.count("urllib3.connection.requests", network__peer__address="_OTHER") == len(addresses) - len(known)
    assert metrics.count("urllib3.connection.requests", network__peer__address=known[0]) == 1


# Hosts that are none

ESCAPE = "\x1b]0;owned\x07\x1b[2J"
NONE = {
    "escape sequences": f"evil{ESCAPE}.example",
    "eight-bit escape sequences": "evil\x9b2J.example",
    "a new line": "evil\nWARNING:root:all is well.example",
    "a line separator": "evil\u2028.example",
    "letters that turn the writing": "evil\u202egnp.example",
    "blanks": "evil example",
    "half a character": "evil\udcff.example",
    "quotes": "evil'\".example",
    "mark-up": "<script>evil</script>",
    "too much": "evil." * 10_000 + "example",
    "nothing": "",
    "a user": "evil:evil@127.0.0.1",
    "a quoted user": "evil%3Aevil%40127.0.0.1",
    "a user that was quoted twice": "evil%253Aevil%2540127.0.0.1",
    "a user and something like an address": "e:11%40127.0.0.1",
}


@pytest.mark.parametrize("what", NONE)
def test_a_host_that_is_none_is_told_as_such_and_does_nothing_to_a_page_or_a_log(
    telemetry: Telemetry, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    caplog.set_level(logging.DEBUG, "pool_telemetry")
    telemetry.install(metrics="all", spans="all")
    with urllib3.HTTPConnectionPool("elsewhere.invalid") as pool:
        pool.host = NONE[what]  # at which urllib3 itself does not look any more
        with pytest.raises((HTTPError, ValueError)):
            pool.request("GET", "/ok", retries=False)
    metrics, page = telemetry.collect(), report_of()
    check_laws(metrics, checkouts=1, server__address="_INVALID")
    told = [page, pool_telemetry.snapshot().to_json(), *(span.name for span in telemetry.spans)]
    told += [str(value) for span in telemetry.spans for value in (span.attributes or {}).values()]
    told += [str(point.attributes) for name in metrics.names for point in metrics.points(name)]
    assert [each for each in told if "evil" in each] == []
    assert "\x1b" not in page
    assert "http://_INVALID (all that have no host's name)" in page
    assert [record for record in caplog.records if record.name == "pool_telemetry"] == []


@pytest.mark.parametrize(
    ("host", "told"),
    [
        ("Shop.Example.ORG", "shop.example.org"),
        ("shop.example.org.", "shop.example.org."),
        ("my_service", "my_service"),
        ("127.0.0.1", "127.0.0.1"),
        ("[::1]", "::1"),
        ("[FE80::1%25eth0]", "fe80::1%25eth0"),
        ("fe80::1%eth0", "fe80::1%eth0"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        (
            "b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example",
            "b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example",
        ),
        ("a" * 253, "a" * 253),
    ],
)
def test_a_host_is_told_as_it_is(host: str, told: str) -> None:
    with urllib3.HTTPConnectionPool("127.0.0.1", 80) as pool:
        pool.host = host
        assert _urllib3.upstream_of(pool) == (told, 80, "http")


def test_a_name_in_another_script_is_told_as_it_is_looked_up() -> None:
    with urllib3.PoolManager() as http:
        pool = http.connection_from_url("http://b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example/")
        assert _urllib3.upstream_of(pool) == ("xn--bcher-kva.example", 80, "http")


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/run/docker.sock", "/run/docker.sock"),
        ("http+unix://%2Frun%2Fs/containers?token=secret", "/run/s"),
        ("http+unix://user:secret@%2Frun%2Fs/", "_INVALID"),
        ("http+unix://user%3Asecret%40%2Frun%2Fs/", "_INVALID"),
        ("/user:secret@/run/s", "_INVALID"),
        ("/run/user@1000/s", "/run/user@1000/s"),
        ("\0abstract", "@abstract"),
        ("http+unix://[secret/", "_INVALID"),
        ("/run/\x1b[2J", "_INVALID"),
        ("/run/" * 100, "_INVALID"),
    ],
)
def test_a_unix_socket_is_told_by_its_path_and_nothing_else(path: str, told: str) -> None:
    with urllib3.HTTPConnectionPool("localhost", 80) as pool:
        pool.socket_path = path  # type: ignore[attr-defined]  # as docker's and requests-unixsocket's have it
        assert _urllib3.upstream_of(pool) == (told, None, "http")


def test_a_port_that_was_given_as_text_is_the_same_port(telemetry: Telemetry) -> None:
    telemetry.install()
    with Server() as server:
        for port in (server.port, str(server.port)):
            with urllib3.HTTPConnectionPool(server.host, port) as pool:  # type: ignore[arg-type]  # it connects
                pool.request("GET", "/ok")
        check_laws(telemetry.collect(), checkouts=2, server__port=server.port)
    snapshot = pool_telemetry.snapshot()
    assert pool_telemetry.Snapshot.from_json(snapshot.to_json()) == snapshot


@once
@pytest.mark.parametrize(
    "kept",
    [
        {"schema": 99, "version": ESCAPE},
        {"run_schema": 99, "version": ESCAPE},
        {"schema": 1, ESCAPE: 1},
        {"run_schema": 1, "version": ESCAPE + "1", "program": ESCAPE},
    ],
    ids=lambda kept: " ".join(map(ascii, kept)),
)
def test_a_report_that_somebody_else_has_made_does_nothing_to_a_terminal(tmp_path: Path, kept: Any) -> None:
    path = tmp_path / "kept.json"
    path.write_text(json.dumps(kept))
    done = subprocess.run(
        [sys.executable, "-m", "pool_telemetry", "report", str(path)], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 1
    assert re.search(r"[^\n\x20-\x7e]", done.stdout + done.stderr) is None
    assert done.stderr.count("\n") == 1


@once
def test_keys_that_somebody_else_has_made_up_do_nothing_to_a_terminal(telemetry: Telemetry, tmp_path: Path) -> None:
    telemetry.install()
    with Server() as server, urllib3.HTTPConnectionPool(server.host, server.port) as pool:
        pool.request("GET", "/ok")
    data = pool_telemetry.snapshot().to_dict()
    data["upstreams"][0]["checkouts"] = {ESCAPE: ESCAPE}
    path = tmp_path / "kept.json"
    path.write_text(json.dumps(data))
    done = subprocess.run(
        [sys.executable, "-m", "pool_telemetry", "report", str(path)], capture_output=True, text=True, env=environment()
    )
    assert done.returncode == 1
    assert "owned" in done.stderr
    assert re.search(r"[^\n\x20-\x7e]", done.stdout + done.stderr) is None
