"""Each finding from what really happened between urllib3 and a server, and none where all is well."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
import urllib3

import pool_telemetry
from misbehaving import Server
from pool_telemetry import Finding, _lost_races
from tests.live.apart import in_child, run_apart
from tests.live.wire import PROTOCOLS, READABLE, before_sending, pooled, wait_for_peer, wait_until
from tests.programs import needs_fork
from tests.support import Telemetry, manager

KEEPALIVE = 0.3


def the_only_finding() -> Finding:
    (finding,) = pool_telemetry.diagnose(pool_telemetry.snapshot())
    return finding


def on_top(http: urllib3.PoolManager, server: Server) -> Any:
    """The socket that the next request gets."""
    return pooled(http.connection_from_url(server.url))[-1].sock


def at_once(threads: int, act: Callable[[int], object]) -> None:
    """As many threads, each with a number."""
    with ThreadPoolExecutor(threads) as executor:
        list(executor.map(act, range(threads)))


@pytest.mark.parametrize("tls", PROTOCOLS)
def test_requests_that_come_later_than_the_keepalive(telemetry: Telemetry, tls: str | None) -> None:
    telemetry.install()
    with Server(tls=tls, keepalive=KEEPALIVE) as server, manager(server.ca_file) as http:
        for _ in range(7):
            http.request("GET", f"{server.url}/ok")
            sock = on_top(http, server)
            wait_for_peer(sock)
        finding = the_only_finding()
        ages = [close.seconds for close in server.books.idle_closes]
    assert (finding.name, finding.upstream) == ("keepalive_shorter_than_gaps", server.url)
    assert finding.evidence["affected"] == 6
    assert finding.evidence["checkouts"] == 7
    assert finding.evidence["parked"] == 1
    assert finding.evidence["seconds_lost"] > 0
    if max(ages) - min(ages) < 0.03:  # on a busy machine the server itself may have been late
        assert finding.evidence["limit_seconds"] == pytest.approx(KEEPALIVE, abs=0.06)


def test_a_pile_after_a_burst(telemetry: Telemetry) -> None:
    telemetry.install()
    with Server(keepalive=KEEPALIVE) as server, manager(maxsize=10) as http:
        at_once(6, lambda _: http.request("GET", f"{server.url}/slow/0.3"))
        for conn in pooled(http.connection_from_url(server.url)):
            wait_for_peer(conn.sock)
        finding = the_only_finding()
    assert finding.name == "close_wait_parked"
    assert (finding.evidence["affected"], finding.evidence["active_peak"]) == (6, 6)


@pytest.mark.parametrize("path", ["/lost", "/lost-rst"])
def test_lost_races(telemetry: Telemetry, path: str) -> None:
    telemetry.install()
    with Server() as server, manager() as http:
        for _ in range(4):
            http.request("GET", f"{server.url}{path}")
        finding = the_only_finding()
    assert finding.name == "lost_races"
    assert finding.evidence["affected"] == finding.evidence["reused"] == 3
    assert finding.summary.endswith(" 3).")  # why, there is nothing to tell by


def hold(http: urllib3.PoolManager, server: Server, number: int) -> None:
    """Take so many connections out at once, and give them back."""
    for response in [http.request("GET", f"{server.url}/ok", preload_content=False) for _ in range(number)]:
        response.drain_conn()


def test_races_lost_to_the_keepalive_by_a_hair(telemetry: Telemetry) -> None:
    def let_the_limit_pass(conn: Any) -> None:
        if conn.sock is not None:  # otherwise it was over before the check, which has seen it
            wait_for_peer(conn.sock)

    telemetry.install()
    with Server(keepalive=1) as server, manager(maxsize=5) as http:
        hold(http, server, 5)
        for conn in pooled(http.connection_from_url(server.url)):
            wait_for_peer(conn.sock)
        pool_telemetry.snapshot()  # which sees when each of them came
        http.clear()
        for _ in range(30):  # on a busy machine some come too late, and find the connection closed
            http.request("GET", f"{server.url}/ok")
            time.sleep(0.9)
            before_sending(http.connection_from_url(server.url), let_the_limit_pass)
            http.request("GET", f"{server.url}/ok")
            (upstream,) = pool_telemetry.snapshot().upstreams
            if upstream.closed_connections["lost_race"] == 3:
                break
        finding = the_only_finding()
    assert finding.name == "lost_races"
    assert "they lost to its keep-alive limit by a hair" in finding.summary
    assert "Set the keep-alive limit" in finding.advice[1]
    assert finding.evidence["idle_p05_seconds"] >= 0.9


def test_races_lost_in_restarts_of_the_server(telemetry: Telemetry) -> None:
    telemetry.install()
    with contextlib.ExitStack() as stack, manager(maxsize=4) as http:
        server = stack.enter_context(Server())
        for _ in range(5):
            hold(http, server, 4)
            time.sleep(0.3)

        def restart(_: object) -> None:
            stack.close()
            stack.enter_context(Server(port=server.port))

        for _ in range(3):
            http.request("GET", f"{server.url}/ok")
            before_sending(http.connection_from_url(server.url), restart)
            http.request("GET", f"{server.url}/ok")
        finding = the_only_finding()
    assert (finding.name, finding.evidence["affected"]) == ("lost_races", 3)
    assert "it looks like restarts or crashes of the server" in finding.summary
    assert finding.evidence["survived_idle_seconds"] >= 0.3 * 0.99


def test_races_lost_to_what_forgets_idle_connections(telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lost_races, "SHORTEST_MEMORY", 0.3)  # no test waits for as long as a NAT does
    telemetry.install()
    with Server() as server, manager() as http:
        for _ in range(3):
            for _ in range(60):
                http.request("GET", f"{server.url}/ok")
            time.sleep(0.3)
            http.request("GET", f"{server.url}/lost-rst")
        finding = the_only_finding()
    assert (finding.name, finding.evidence["affected"]) == ("lost_races", 3)
    assert "a NAT, firewall or load balancer on the way had forgotten them" in finding.summary
    assert finding.evidence["survived_idle_seconds"] < 0.3 * 0.99 <= finding.evidence["idle_p05_seconds"]


def test_a_blocking_pool_with_too_many_threads(telemetry: Telemetry) -> None:
    telemetry.install()
    with Server() as server, manager(maxsize=1, block=True) as http:
        at_once(4, lambda _: [http.request("GET", f"{server.url}/slow/0.1") for _ in range(5)])
        finding = the_only_finding()
    assert (finding.name, finding.severity.value) == ("waiting_for_connection", "medium")
    assert finding.evidence["waits"] == 20
    assert finding.evidence["slots"] == 1


def test_checkouts_that_wait_in_vain(telemetry: Telemetry) -> None:
    telemetry.install()
    with Server() as server, manager(maxsize=1, block=True) as http:
        held = http.request("GET", f"{server.url}/big/1000000", preload_content=False)
        for _ in range(3):
            with pytest.raises(urllib3.exceptions.EmptyPoolError):
                http.connection_from_url(server.url).request("GET", "/ok", pool_timeout=0.01)
        held.read()
        finding = the_only_finding()
    assert (finding.name, finding.severity.value) == ("waiting_for_connection", "high")
    assert finding.evidence["timed_out"] == 3


def test_a_slot_that_never_came_back(telemetry: Telemetry) -> None:
    telemetry.install()
    with Server() as server, manager(maxsize=3, block=True) as http:
        http.request("GET", f"{server.url}/ok")
        http.request("GET", f"{server.url}/big/1000000", preload_content=False)
        gc.collect()
        finding = the_only_finding()
    assert finding.name == "leaked_slots"
    assert (finding.evidence["affected"], finding.evidence["slots"]) == (1, 3)


def test_responses_that_nobody_reads(telemetry: Telemetry) -> None:
    telemetry.install()
    with Server() as server, manager() as http:
        for _ in range(5):
            http.request("GET", f"{server.url}/big/1000000", preload_content=False).close()
        gc.collect()
        finding = the_only_finding()
    assert finding.name == "unread_responses"
    assert finding.evidence["affected"] == 5


def test_a_session_for_every_request(telemetry: Telemetry) -> None:
    telemetry.install()
    with Server() as server:
        for _ in range(20):
            with requests.Session() as session:
                session.trust_env = False
                session.get(f"{server.url}/ok")
        gc.collect()
        finding = the_only_finding()
    assert finding.name == "pool_per_request"
    assert finding.evidence["affected"] == finding.evidence["checkouts"] == 20


@pytest.mark.parametrize("path", ["/close", "/http10"])
@pytest.mark.parametrize("is_one_session", [True, False])
def test_a_server_that_closes_after_every_response(telemetry: Telemetry, path: str, is_one_session: bool) -> None:
    telemetry.install()
    with Server() as server, manager() as http:
        for _ in range(20):
            if not is_one_session:
                http.clear()
            http.request("GET", f"{server.url}{path}")
        finding = the_only_finding()
    assert finding.name == "server_closes_after_response"
    assert finding.evidence["affected"] == finding.evidence["checkouts"] == 20


def test_a_pool_too_small(telemetry: Telemetry) -> None:
    telemetry.install()
    all_out = threading.Barrier(4)
    with Server() as server, manager(maxsize=2) as http:

        def get(_: int) -> None:
            for _ in range(6):
                response = http.request("GET", f"{server.url}/ok", preload_content=False)
                all_out.wait(60)
                response.read()
                all_out.wait(60)

        at_once(4, get)
        finding = the_only_finding()
    assert finding.name == "pool_too_small"
    assert finding.evidence["affected"] == 12
    assert "pool_maxsize=4" in finding.advice[0]


def test_late_data_on_a_live_connection(telemetry: Telemetry) -> None:
    telemetry.install()
    with Server(tls="1.3") as server, manager(server.ca_file) as http:
        for _ in range(6):
            http.request("GET", f"{server.url}/late-handshake/0.05")
            wait_for_peer(on_top(http, server), READABLE)
        finding = the_only_finding()
    assert finding.name == "late_data"
    assert finding.evidence["affected"] == 5


def test_resets_after_a_steady_idle_time(telemetry: Telemetry) -> None:
    telemetry.install()
    with Server() as server, manager() as http:
        for _ in range(7):
            for path in ("/ok", "/ok", "/rst/0.5"):
                http.request("GET", f"{server.url}{path}")
            wait_for_peer(on_top(http, server))
        finding = the_only_finding()
    assert finding.name == "resets_after_idle"
    assert finding.evidence["affected"] == 6
    # The server counts from its last byte, and a busy machine returns the response some milliseconds after that.
    assert finding.evidence["reused_idle_p99_seconds"] < 0.5 * 0.9 <= finding.evidence["reset_idle_p05_seconds"]


def child_that_uses_its_parents_connection() -> None:
    with Telemetry() as telemetry, Server() as server, manager() as http:
        telemetry.install()
        http.request("GET", f"{server.url}/ok")

        def use() -> list[str]:
            http.request("GET", f"{server.url}/ok")
            return [finding.name for finding in pool_telemetry.diagnose(pool_telemetry.snapshot())]

        assert in_child(use) == ["inherited_connections"]
        assert pool_telemetry.diagnose(pool_telemetry.snapshot()) == []


@needs_fork
def test_a_connection_that_another_process_opened() -> None:
    run_apart(child_that_uses_its_parents_connection)


@pytest.mark.parametrize("tls", PROTOCOLS)
def test_a_healthy_program_has_no_findings(telemetry: Telemetry, tls: str | None) -> None:
    telemetry.install()
    with Server(tls=tls) as server, manager(server.ca_file, maxsize=4) as http:
        at_once(4, lambda _: [http.request("GET", f"{server.url}/ok") for _ in range(20)])
        # Now and then something goes wrong anywhere.
        http.request("GET", f"{server.url}/fin/0")
        wait_for_peer(on_top(http, server))
        http.request("GET", f"{server.url}/close")
        http.request("GET", f"{server.url}/ok")
        wait_until(lambda: server.books.requests == 83)
        assert pool_telemetry.diagnose(pool_telemetry.snapshot()) == []
