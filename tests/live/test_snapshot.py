"""``snapshot()`` against the metrics, the servers' books, and itself as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import threading
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
import urllib3
from opentelemetry import context
from opentelemetry.context import _SUPPRESS_INSTRUMENTATION_KEY

import pool_telemetry
from misbehaving import Server
from pool_telemetry import _turns
from pool_telemetry._snapshot import Durations, Snapshot, UpstreamSnapshot
from tests import programs
from tests.live.wire import CLOCKS_AGREE_WITHIN, PROTOCOLS, before_sending, fin, pooled, rst, wait_for_peer
from tests.support import Metrics, Telemetry, manager

SECRET = "s3cret"


def of(server: Server) -> UpstreamSnapshot:
    """The only upstream, which is this server."""
    (upstream,) = pool_telemetry.snapshot().upstreams
    assert upstream.port == server.port
    return upstream


def live_through_everything(server: Server, refusing: int) -> list[Any]:
    """Requests that come by every figure; gives what has to be kept alive for them."""
    http = urllib3.PoolManager(maxsize=2)
    url = server.url
    kept: list[Any] = [http]
    for path in ("/ok", "/fin/0", "/ok", "/rst/0", "/ok", "/lost", "/close", "/ok"):
        pool = http.connection_from_url(url)
        retries = urllib3.Retry(2)
        http.request("GET", f"http://user:{SECRET}@127.0.0.1:{server.port}{path}?token={SECRET}", retries=retries)
        if path in ("/fin/0", "/rst/0"):
            wait_for_peer(pooled(pool)[-1].sock)
    with pytest.raises(urllib3.exceptions.HTTPError):
        http.request("GET", f"http://127.0.0.1:{refusing}/", retries=False)
    burst = [threading.Thread(target=http.request, args=("GET", f"{url}/slow/0.2")) for _ in range(4)]
    for thread in burst:
        thread.start()
    for thread in burst:
        thread.join()
    blocking = urllib3.HTTPConnectionPool("127.0.0.1", server.port, maxsize=1, block=True)
    held = blocking.urlopen("GET", "/big/100000", preload_content=False)
    with pytest.raises(urllib3.exceptions.EmptyPoolError):
        blocking.urlopen("GET", "/ok", pool_timeout=0)
    held.drain_conn()
    blocking.urlopen("GET", "/ok")
    return [*kept, blocking]


def by(metrics: Metrics, name: str, attribute: str, **upstream: Any) -> dict[str, int]:
    return {key: int(value) for key, value in metrics.by(name, attribute, **upstream).items()}


def some(figures: dict[str, int]) -> dict[str, int]:
    return {key: value for key, value in figures.items() if value}


def summed(durations: Iterable[Durations | None]) -> tuple[int, float]:
    found = [each for each in durations if each is not None]
    return sum(each.count for each in found), sum(each.total for each in found)


def test_it_says_what_the_metrics_say(telemetry: Telemetry) -> None:
    telemetry.install(metrics="all")
    with Server() as server, Server() as closed:
        refusing = closed.port
        closed.__exit__(None, None, None)
        kept = live_through_everything(server, refusing)
        snapshot, metrics = pool_telemetry.snapshot(), telemetry.collect()
        assert len(snapshot.upstreams) == 2
        for told in snapshot.upstreams:
            upstream = {"server__address": told.address, "server__port": told.port, "url__scheme": told.scheme}

            def value(name: str, upstream: dict[str, Any] = upstream, **wanted: Any) -> float:
                return metrics.value(f"urllib3.pool.{name}", **upstream, **wanted)

            assert some(told.checkouts) == by(metrics, "urllib3.pool.checkouts", "outcome", **upstream)
            for reason, phases in told.drops.items():
                dropped = "urllib3.pool.dropped_connections"
                assert some(phases) == by(metrics, dropped, "phase", reason=reason, **upstream)
            assert some(told.closed_connections) == by(
                metrics, "urllib3.pool.closed_connections", "close__reason", **upstream
            )
            assert told.opened_connections == value("opened_connections")
            assert told.leaked_connections == value("leaked_connections")
            assert told.pools_created == value("creations")
            assert len(told.pools) == value("count")
            assert sum(pool.maximum for pool in told.pools) == value("size")
            assert told.active_peak == value("active.peak")
            assert told.pending_requests == value("pending_requests") == 0
            assert told.use_seconds == pytest.approx(value("use.time"))
            for state in ("idle", "active"):
                there = [each for each in told.connections if each.state == state]
                assert len(there) == metrics.value("http.client.open_connections", state=state, **upstream)
            for tcp_state in ("established", "close_wait"):
                there = [each for each in told.connections if each.tcp_state == tcp_state]
                assert len(there) == value("socket.count", network__connection__state=tcp_state)

            histograms: dict[str, Iterable[Durations | None]] = {
                "urllib3.connection.idle.duration": told.idle_seconds.values(),
                "urllib3.connection.remote_close.duration": [told.remote_close_seconds],
                "urllib3.connection.close_wait.duration": [told.close_wait_seconds],
                "urllib3.connection.setup.duration": [
                    *told.setup_seconds.values(),
                    *told.failed_setup_seconds.values(),
                ],
                "urllib3.pool.wait.duration": [told.wait_seconds, told.failed_wait_seconds],
                "http.client.connection.duration": [told.connection_seconds],
                "urllib3.connection.requests": [told.requests_per_connection],
            }
            lost_races = {reason: phases["request"] for reason, phases in told.drops.items()}
            assert {reason: idle.count for reason, idle in told.lost_race_idle_seconds.items()} == some(lost_races)
            for name, durations in histograms.items():
                expected = metrics.count(name, **upstream), metrics.sum(name, **upstream)
                assert summed(durations) == pytest.approx(expected), name
        # None of this was a comparison of nothing with nothing.
        everything = snapshot.upstreams[0]
        assert set(some(everything.checkouts)) == {"reused", "new", "replaced", "timed_out"}
        assert set(some(everything.closed_connections)) >= {"dropped", "lost_race", "response_close", "discarded"}
        assert set(everything.idle_seconds) == {"reused", "replaced"}
        assert set(everything.dropped_idle_seconds) == {"fin", "reset"}
        assert set(everything.lost_race_idle_seconds) == {"fin"}
        assert set(everything.setup_seconds) == {"new", "replaced", "lost_race"}
        assert set(everything.setup_phase_seconds) == {"connect"}
        assert everything.wait_seconds
        assert everything.failed_wait_seconds
        assert snapshot.upstreams[1].failed_setup_seconds
        assert kept


def test_it_needs_neither_an_sdk_nor_metrics() -> None:
    program = """
        import sys, pool_telemetry, urllib3
        from misbehaving import Server
        pool_telemetry.install(metrics="off", spans="off")
        with Server() as server, urllib3.PoolManager() as http:
            for _ in range(1000):  # the buffer of samples is emptied several times
                http.request("GET", server.url + "/ok")
            (upstream,) = pool_telemetry.snapshot().upstreams
        print(upstream.checkouts["reused"], upstream.idle_seconds["reused"].count, "opentelemetry.sdk" in sys.modules)
        """
    assert programs.run(program).split() == ["999", "999", "False"]


def test_what_is_kept_for_it_does_not_grow_with_the_number_of_requests() -> None:
    program = """
        import gc, os, tracemalloc, pool_telemetry, urllib3
        from misbehaving import Server
        pool_telemetry.install(metrics="off", spans="off")
        here = os.path.dirname(pool_telemetry.__file__)
        # Counters of durations have a bound that is far off, and a test of their own.
        filters = [tracemalloc.Filter(True, here + "/*"), tracemalloc.Filter(False, here + "/_digest.py")]

        def kept():
            pool_telemetry.snapshot()
            gc.collect()
            return len(tracemalloc.take_snapshot().filter_traces(filters).traces)

        def ask(times):
            for _ in range(times):
                for path in ("/ok", "/lost", "/close"):
                    http.request("GET", server.url + path)
                    blocking.request("GET", path)

        with Server() as server, urllib3.PoolManager() as http:
            blocking = urllib3.HTTPConnectionPool("127.0.0.1", server.port, block=True)
            tracemalloc.start()
            ask(50)
            before = kept()
            ask(150)
            print(before, kept() - before)
        """
    before, more = map(int, programs.run(program).split())
    assert before > 50
    assert more < 900 / 6  # not even one object for each request of one kind


def test_the_servers_keep_alive_limit_is_where_it_closes(telemetry: Telemetry) -> None:
    telemetry.install(metrics="off")
    with Server() as server, manager(server.ca_file) as http:
        for _ in range(5):
            http.request("GET", f"{server.url}/fin/0.2")
            wait_for_peer(pooled(http.connection_from_url(server.url))[-1].sock)
        http.request("GET", f"{server.url}/ok")
        limit = of(server).remote_close_seconds
        closes = sorted(close.seconds for close in server.books.idle_closes)
    assert limit is not None
    assert limit.count == len(closes) == 5
    # The kernel counts in jiffies of up to 10 ms.
    assert limit.minimum == pytest.approx(closes[0], abs=0.011)
    assert limit.maximum == pytest.approx(closes[-1], abs=0.011)


@pytest.mark.parametrize("tls", PROTOCOLS)
def test_how_long_a_connection_lay_idle_that_lost_a_race_is_told_by_reason(
    telemetry: Telemetry, tls: str | None
) -> None:
    telemetry.install(metrics="off")
    with Server(tls=tls) as server, manager(server.ca_file) as http:
        pool = http.connection_from_url(server.url)
        took = {}
        for reason, deed, pause in (("fin", fin, 0.05), ("reset", rst, 0.15)):
            http.request("GET", f"{server.url}/ok")
            returned = time.monotonic()
            time.sleep(pause)
            before_sending(pool, deed(server))
            http.request("GET", f"{server.url}/ok")
            took[reason] = pause, time.monotonic() - returned
        found = of(server).lost_race_idle_seconds
        assert {reason: idle.count for reason, idle in found.items()} == {"fin": 1, "reset": 1}
        for reason, idle in found.items():
            least, most = took[reason]
            # A connection is returned a moment before its response is.
            assert least <= idle.minimum == idle.maximum < most + CLOCKS_AGREE_WITHIN


def test_of_a_race_lost_in_what_is_not_watched_in_full_no_idle_time_is_told(telemetry: Telemetry) -> None:
    with Server() as server, manager(server.ca_file) as http:
        pool = http.connection_from_url(server.url)
        http.request("GET", f"{server.url}/ok")
        telemetry.install(metrics="off")
        before_sending(pool, fin(server))
        http.request("GET", f"{server.url}/ok")  # on a connection whose return was not seen
        before_sending(pool, fin(server))
        token = context.attach(context.set_value(_SUPPRESS_INSTRUMENTATION_KEY, True))
        try:
            http.request("GET", f"{server.url}/ok")
        finally:
            context.detach(token)
        told = of(server)
    assert told.drops["fin"]["request"] == 2
    assert told.lost_race_idle_seconds == {}


def test_a_connection_is_told_as_it_is(telemetry: Telemetry) -> None:
    with Server(tls="1.3") as server, manager(server.ca_file, maxsize=2) as http:
        early = http.request("GET", f"{server.url}/ok", preload_content=False)
        telemetry.install()
        http.request("GET", f"{server.url}/ok")
        early.drain_conn()
        early.release_conn()
        began = time.monotonic()
        http.request("GET", f"{server.url}/ok")
        held = http.request("GET", f"{server.url}/big/100000", preload_content=False)
        own = sorted(of(server).connections, key=lambda each: each.is_adopted)
        took = time.monotonic() - began
        assert [each.is_adopted for each in own] == [False, True]
        for each in own:
            assert (each.peer_address, each.peer_port) == ("127.0.0.1", server.port)
            assert (each.tcp_state, each.tls_version, each.protocol_version) == ("established", "TLSv1.3", "1.1")
        (opened, adopted) = own
        assert adopted.age_seconds is adopted.requests is None
        assert opened.age_seconds is not None
        active, idle = (own, own[::-1])[opened.state == "idle"]
        assert (active.state, active.idle_seconds) == ("active", None)
        assert idle.state == "idle"
        assert idle.idle_seconds is not None
        assert 0 < idle.idle_seconds < opened.age_seconds + took
        assert opened.requests in (1, 2)
        held.drain_conn()


def test_a_parked_socket_is_told_with_the_age_of_its_fin(telemetry: Telemetry) -> None:
    telemetry.install()
    with Server() as server, manager(server.ca_file) as http:
        http.request("GET", f"{server.url}/fin/0.3")
        wait_for_peer(pooled(http.connection_from_url(server.url))[-1].sock)
        time.sleep(0.1)
        (parked,) = of(server).connections
    assert (parked.state, parked.tcp_state) == ("idle", "close_wait")
    assert parked.close_wait_seconds is not None
    assert parked.idle_seconds is not None
    assert 0.1 - CLOCKS_AGREE_WITHIN <= parked.close_wait_seconds < parked.idle_seconds


def test_after_uninstall_the_totals_are_still_there(telemetry: Telemetry) -> None:
    telemetry.install()
    assert pool_telemetry.snapshot().is_installed
    with Server() as server, manager(server.ca_file) as http:
        http.request("GET", f"{server.url}/ok")
        pool_telemetry.uninstall()
        assert not pool_telemetry.snapshot().is_installed
        assert of(server).opened_connections == 1


def test_before_install_there_is_nothing() -> None:
    program = """
        import pool_telemetry, sys
        snapshot = pool_telemetry.snapshot()
        print(snapshot.upstreams, snapshot.watched_seconds, snapshot.is_installed, "urllib3" in sys.modules)
        """
    assert programs.run(program).strip() == "() 0.0 False False"


@programs.needs_fork
def test_a_child_begins_anew_and_counts_what_it_uses_of_its_parents_connections() -> None:
    program = """
        import os, pool_telemetry, urllib3
        from misbehaving import Server
        pool_telemetry.install()
        with Server() as server, urllib3.PoolManager(maxsize=2) as http:
            get = lambda: http.request("GET", server.url + "/ok")
            held = http.request("GET", server.url + "/ok", preload_content=False)
            get()
            held.drain_conn()
            if pid := os.fork():
                assert os.waitpid(pid, 0)[1] == 0
                get()
                (upstream,) = pool_telemetry.snapshot().upstreams
                assert upstream.inherited_connections == 0
                assert upstream.checkouts["reused"] == 1
            else:
                before = pool_telemetry.snapshot()
                assert (before.upstreams, before.process) == ((), os.getpid())
                get()
                (upstream,) = pool_telemetry.snapshot().upstreams
                # Two were inherited, and are known; one was used.
                assert upstream.adopted_connections == len(upstream.connections) == 2
                assert upstream.inherited_connections == 1
                http.clear()
                (upstream,) = pool_telemetry.snapshot().upstreams
                assert upstream.inherited_connections == 1
                os._exit(0)
        print("both")
        """
    assert programs.run(program).strip() == "both"


def test_it_is_plain_data_that_json_keeps(telemetry: Telemetry) -> None:
    telemetry.install(metrics="all")
    with Server() as server, Server() as closed:
        refusing = closed.port
        closed.__exit__(None, None, None)
        kept = live_through_everything(server, refusing)
        snapshot = pool_telemetry.snapshot()
        assert kept
    assert Snapshot.from_json(snapshot.to_json()) == snapshot
    assert Snapshot.from_dict(snapshot.to_dict()) == snapshot
    assert json.loads(snapshot.to_json()) == snapshot.to_dict()
    assert SECRET not in snapshot.to_json()
    assert "user" not in json.dumps(snapshot.to_dict()["upstreams"]).replace("use_seconds", "")
    with pytest.raises(dataclasses.FrozenInstanceError):
        snapshot.process = 1  # type: ignore[misc]  # that is the point
    assert all(math.isfinite(figure) for figure in _figures(snapshot.to_dict()))


def _figures(value: Any) -> Iterable[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [figure for each in value for figure in _figures(each)]
    return [value] if isinstance(value, (int, float)) else []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 2, "version": "9.9"}, "of schema 2, made by pool_telemetry 9.9: this one reads up to 1"),
        ({"schema": None}, "this is no snapshot"),
        ({"schema": True}, "this is no snapshot"),
        ({"process": "1"}, "snapshot.process of the snapshot is '1'"),
        ({"upstreams": [{}]}, r"the snapshot lacks snapshot.upstreams\[0\].scheme"),
        ({"upstreams": None}, "snapshot.upstreams of the snapshot is None"),
        ({"is_installed": 1}, "snapshot.is_installed of the snapshot is 1"),
    ],
)
def test_what_is_no_snapshot_is_a_clear_error(change: dict[str, Any], message: str) -> None:
    data = pool_telemetry.snapshot().to_dict()
    with pytest.raises(ValueError, match=message):
        Snapshot.from_dict({**data, **change})


def test_what_older_versions_left_out_is_not_known(telemetry: Telemetry) -> None:
    telemetry.install()
    with Server() as server, manager(server.ca_file) as http:
        for _ in range(4):
            http.request("GET", f"{server.url}/lost")
        data = pool_telemetry.snapshot().to_dict()
    (upstream,) = data["upstreams"]
    assert upstream.pop("lost_race_idle_seconds")
    (older,) = Snapshot.from_dict(data).upstreams
    assert older.lost_race_idle_seconds == {}
    (finding,) = pool_telemetry.diagnose(Snapshot.from_dict(data))
    assert (finding.name, finding.evidence["affected"]) == ("lost_races", 3)
    assert not [name for name in finding.evidence if "idle" in name]


def test_what_newer_versions_have_added_is_passed_by() -> None:
    data = pool_telemetry.snapshot().to_dict()
    assert Snapshot.from_dict({**data, "of_tomorrow": 1}) == Snapshot.from_dict(data)


def test_an_address_of_ipv6_is_written_as_in_a_url(telemetry: Telemetry) -> None:
    telemetry.install()
    with Server(host="::1") as server, manager(server.ca_file) as http:
        http.request("GET", f"{server.url}/ok")
        assert of(server).name == f"http://[::1]:{server.port}"


def test_a_connection_that_is_taken_and_returned_in_the_midst_of_a_look_does_not_lie_idle_before_it_is_returned(
    telemetry: Telemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    telemetry.install()
    number = _turns._TURN + 1
    with Server() as server, urllib3.HTTPConnectionPool(server.host, server.port, maxsize=number) as pool:
        for response in [pool.request("GET", "/ok", preload_content=False) for _ in range(number)]:
            response.drain_conn()
        turns: list[None] = []

        def others() -> None:
            """What other threads do in their turn: first they take all, and in the next they bring them back."""
            turns.append(None)
            if len(turns) == 1:
                taken.extend(pool._get_conn() for _ in range(number))
            while len(turns) == 2 and taken:
                pool._put_conn(taken.pop())

        taken: list[Any] = []
        monkeypatch.setattr(_turns, "_let_others_run", others)
        connections = of(server).connections
        assert len(turns) > 2
    assert Counter(each.state for each in connections) == {"idle": number - 1, "active": 1}
    idle_times = [each.idle_seconds for each in connections if each.idle_seconds is not None]
    assert not [seconds for seconds in idle_times if seconds < 0]
