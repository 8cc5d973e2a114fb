"""What a snapshot's figures mean: each finding at its thresholds, and silence just below them."""

from __future__ import annotations

import math
import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pool_telemetry import _findings_of_servers, _findings_of_use
from pool_telemetry import _thresholds as t
from pool_telemetry._diagnosis import diagnose
from pool_telemetry._figures import as_time
from pool_telemetry._finding import Finding, Severity
from pool_telemetry._snapshot import SCHEMA, Connection, Durations, Pool, Snapshot, UpstreamSnapshot

HIGH, MEDIUM, LOW = Severity.HIGH, Severity.MEDIUM, Severity.LOW


def lasting(seconds: float, count: int = 100, *, to: float | None = None) -> Durations:
    """So many durations; of one length, or from one to another."""
    top = seconds if to is None else to
    middle = (seconds + top) / 2
    return Durations(count, count * middle, seconds, seconds, middle, middle, middle, top, top, top)


def connection(tcp_state: str | None = "established", state: str = "idle") -> Connection:
    return Connection(state, tcp_state, 9.0, 5.0, None, 3, "10.9.8.7", 443, 50000, "1.1", None, False)


def pool(maximum: int = 10, *connections: Connection, is_blocking: bool = False, is_proxied: bool = False) -> Pool:
    return Pool(maximum, is_blocking, is_proxied, connections)


def upstream(**changes: Any) -> UpstreamSnapshot:
    """A healthy upstream: one thread, one pool, 100 checkouts."""
    return replace(
        UpstreamSnapshot(
            scheme="https",
            address="api.example",
            port=443,
            pools=(pool(10, connection()),),
            checkouts={"reused": 99, "new": 1, "replaced": 0, "timed_out": 0, "pool_closed": 0},
            drops={},
            opened_connections=1,
            adopted_connections=0,
            inherited_connections=0,
            closed_connections={},
            leaked_connections=0,
            pools_created=1,
            pending_requests=0,
            active_peak=1,
            use_seconds=10.0,
            idle_seconds={"reused": lasting(0.5, 99)},
            dropped_idle_seconds={},
            remote_close_seconds=None,
            close_wait_seconds=None,
            setup_seconds={cause: lasting(0.02) for cause in ("new", "replaced", "lost_race")},
            failed_setup_seconds={},
            setup_phase_seconds={},
            wait_seconds=None,
            failed_wait_seconds=None,
            connection_seconds=None,
            requests_per_connection=None,
        ),
        **changes,
    )


def snapshot(*upstreams: UpstreamSnapshot, watched: float = 100.0) -> Snapshot:
    return Snapshot(
        SCHEMA, "1", "2.8.0", "3.12.0", 4711, "2026-01-01T00:00:00+00:00", watched, True, upstreams=upstreams
    )


def found(*upstreams: UpstreamSnapshot) -> list[str]:
    return [finding.name for finding in diagnose(snapshot(*upstreams))]


def only(planted: UpstreamSnapshot) -> Finding:
    (finding,) = diagnose(snapshot(planted))
    return finding


def checkouts(reused: int = 0, new: int = 1, replaced: int = 0, timed_out: int = 0) -> dict[str, int]:
    return {"reused": reused, "new": new, "replaced": replaced, "timed_out": timed_out, "pool_closed": 0}


def dropped(reason: str, count: int, total: int, idle: Durations, reused: Durations | None, **more: Any) -> Any:
    """An upstream of which so many checkouts found a drop."""
    idles = {"replaced": idle} | ({} if reused is None else {"reused": reused})
    return upstream(
        checkouts=checkouts(reused=total - count - 1, replaced=count),
        drops={reason: {"checkout": count, "request": 0}},
        dropped_idle_seconds={reason: idle},
        idle_seconds=idles,
        **more,
    )


def keepalive(count: int = 5, total: int = 100, **more: Any) -> Any:
    given = {"idle": lasting(9, count), "reused": lasting(1, total - count), "remote_close_seconds": lasting(2, 5)}
    return dropped("fin", count, total, **(given | more))


def resets(count: int = 5, total: int = 100, **more: Any) -> Any:
    given = {"idle": lasting(400, count, to=900), "reused": lasting(1, 5, to=340)}
    return dropped("reset", count, total, **(given | more))


def late_data(count: int = 5, total: int = 100, **more: Any) -> Any:
    return dropped("unexpected_data", count, total, lasting(1, count), lasting(1, total - count), **more)


def lost_races(count: int = 3, reused: int = 3000, **more: Any) -> UpstreamSnapshot:
    return upstream(checkouts=checkouts(reused), drops={"fin": {"checkout": 0, "request": count}}, **more)


def lost_after(
    idle: Durations,
    reason: str = "fin",
    *,
    reused: Durations | None = None,
    closes: Durations | None = None,
    known: int = 3,
    **more: Any,
) -> UpstreamSnapshot:
    """An upstream that lost three races after these idle times, as far as they are known."""
    given = lasting(1, 3000) if reused is None else reused
    return upstream(
        checkouts=checkouts(given.count),
        drops={reason: {"checkout": 0, "request": 3}},
        idle_seconds={"reused": given},
        remote_close_seconds=closes,
        lost_race_idle_seconds={reason: replace(idle, count=known)},
        **more,
    )


def by_a_hair(idle: Durations, closes: Durations | None = None, **more: Any) -> UpstreamSnapshot:
    return lost_after(idle, closes=lasting(5, 5) if closes is None else closes, **more)


def by_restarts(idle: Durations, reused: Durations, **more: Any) -> UpstreamSnapshot:
    return lost_after(idle, reused=reused, **more)


def by_the_way(idle: Durations, reason: str = "reset", **more: Any) -> UpstreamSnapshot:
    return lost_after(idle, reason, **more)


def parked(count: int, **more: Any) -> UpstreamSnapshot:
    return upstream(pools=(pool(10, *[connection("close_wait")] * count, connection()),), **more)


def discarding(count: int = 11, total: int = 200, peak: int = 10, maximum: int = 9, **more: Any) -> UpstreamSnapshot:
    given = {"pools": (pool(maximum),), "closed_connections": {"discarded": count}, "active_peak": peak}
    return upstream(checkouts=checkouts(total - 50, 50), **(given | more))


def per_request(pools: int = 20, total: int = 40, opened: int = 20) -> UpstreamSnapshot:
    return upstream(checkouts=checkouts(total - pools, pools), pools_created=pools, opened_connections=opened, pools=())


def ended(count: int = 20, total: int = 40, **more: Any) -> UpstreamSnapshot:
    return upstream(checkouts=checkouts(total - count, count), closed_connections={"response_close": count}, **more)


def waits(count: int = 20, p95: float = 0.05, timed_out: int = 0, **more: Any) -> UpstreamSnapshot:
    return upstream(
        pools=(pool(4, is_blocking=True),),
        checkouts=checkouts(100, timed_out=timed_out),
        wait_seconds=lasting(p95, count),
        **more,
    )


def leaking(count: int = 1, *, is_blocking: bool = True, **more: Any) -> UpstreamSnapshot:
    return upstream(pools=(pool(4, is_blocking=is_blocking),), leaked_connections=count, **more)


def unread(count: int = 5, total: int = 100, leaked: int = 0) -> UpstreamSnapshot:
    return upstream(
        checkouts=checkouts(total - count, count), closed_connections={"abandoned": count}, leaked_connections=leaked
    )


# Each at its thresholds, so that its twins are healthy by a hair's breadth.
PLANTED: list[tuple[str, Severity, UpstreamSnapshot]] = [
    ("inherited_connections", HIGH, upstream(inherited_connections=1)),
    ("leaked_slots", HIGH, leaking()),
    ("lost_races", HIGH, lost_races()),
    ("waiting_for_connection", MEDIUM, waits()),
    ("waiting_for_connection", HIGH, waits(p95=0.0, timed_out=3)),
    ("keepalive_shorter_than_gaps", MEDIUM, keepalive()),
    ("keepalive_shorter_than_gaps", MEDIUM, keepalive(remote_close_seconds=None, idle=lasting(1, 5))),
    ("keepalive_shorter_than_gaps", MEDIUM, keepalive(remote_close_seconds=lasting(0.5, 5, to=9.0))),
    ("keepalive_shorter_than_gaps", MEDIUM, keepalive(remote_close_seconds=None, reused=None)),
    ("resets_after_idle", MEDIUM, resets()),
    ("resets_after_idle", MEDIUM, resets(idle=lasting(60, 5), reused=lasting(300, 4))),
    ("late_data", MEDIUM, late_data()),
    ("server_closes_after_response", MEDIUM, ended()),
    ("pool_per_request", MEDIUM, per_request()),
    ("pool_too_small", MEDIUM, discarding()),
    ("pool_too_small", MEDIUM, discarding(10, peak=9, maximum=8)),
    ("pool_too_small", MEDIUM, discarding(pools=())),
    ("unread_responses", MEDIUM, unread()),
    ("unread_responses", MEDIUM, leaking(5, is_blocking=False)),
    ("close_wait_parked", LOW, parked(5)),
]
NAMES = {name for name, _, _ in PLANTED}


@pytest.mark.parametrize(("name", "severity", "planted"), PLANTED)
def test_a_planted_case_is_found_and_nothing_else(name: str, severity: Severity, planted: UpstreamSnapshot) -> None:
    finding = only(planted)
    assert (finding.name, finding.severity, finding.upstream) == (name, severity, "https://api.example:443")
    assert finding.summary
    assert finding.summary.endswith(".")
    assert "\n" not in finding.summary
    assert finding.advice
    assert finding.evidence["affected"] > 0


def test_every_check_has_a_planted_case_and_is_called_as_its_finding() -> None:
    assert {
        check.__name__.removeprefix("_") for check in (*_findings_of_use.CHECKS, *_findings_of_servers.CHECKS)
    } == NAMES


HEALTHY_TWINS: list[tuple[str, UpstreamSnapshot]] = [
    ("nothing inherited", upstream(inherited_connections=0)),
    ("nothing leaked", leaking(0)),
    ("a leak, and not all pools block", leaking(1, is_blocking=False)),
    ("two lost races", lost_races(2, 2000)),
    ("lost races below a thousandth", lost_races(3, 3001)),
    ("too few waits", waits(19)),
    ("short waits", waits(p95=0.0499)),
    ("two that got no connection", waits(p95=0.0, timed_out=2)),
    ("four drops", keepalive(4, 20)),
    ("drops below a twentieth", keepalive(5, 101)),
    ("as many drops as one restart may make", keepalive(active_peak=5)),
    ("no limit, and drops at any age", keepalive(remote_close_seconds=lasting(2, 4), idle=lasting(0.99, 5))),
    ("no limit for closes too far apart", keepalive(remote_close_seconds=lasting(1.59, 5, to=2), idle=lasting(0.9, 5))),
    ("four resets", resets(4, 20)),
    ("resets below a twentieth", resets(5, 101)),
    ("as many resets as one crash may make", resets(active_peak=5)),
    ("resets at any age", resets(idle=lasting(340, 5, to=900))),
    ("no reuse to compare with, and a short age", resets(idle=lasting(59.9, 5), reused=lasting(1, 4))),
    ("nothing reused, and a short age", resets(idle=lasting(59.9, 5), reused=None)),
    ("resets of which no age is known", replace(resets(), dropped_idle_seconds={})),
    ("resets of a unix socket", resets(address="/run/docker.sock", port=None)),
    ("four late ones", late_data(4, 20)),
    ("late data below a twentieth", late_data(5, 101)),
    ("19 closing responses", ended(19, 19)),
    ("closing responses below half", ended(49, 99)),
    ("19 pools", per_request(19, 19, 19)),
    ("more than two checkouts for each pool", per_request(20, 41)),
    ("pools for a server that is down", per_request(20, 20, 19)),
    ("nine discards", discarding(9, 100, peak=8, maximum=7)),
    ("discards below a twentieth", discarding(11, 221)),
    ("as many discards as one burst may make", discarding(10, 200)),
    ("a pool that is large enough by now", discarding(maximum=10)),
    ("four unread ones", unread(4, 20)),
    ("unread ones below a twentieth", unread(5, 101)),
    ("four leaks where nothing blocks", leaking(4, is_blocking=False)),
    ("four parked ones", parked(4)),
]


@pytest.mark.parametrize("twin", [twin for _, twin in HEALTHY_TWINS], ids=[what for what, _ in HEALTHY_TWINS])
def test_a_healthy_twin_is_silent(twin: UpstreamSnapshot) -> None:
    assert found(twin) == []


# Programs that are as they should be


def test_nothing_seen_is_nothing_found() -> None:
    assert diagnose(snapshot(watched=0.0)) == []


BUSY = upstream(
    pools=(pool(10, *[connection(state="active")] * 3, *[connection()] * 7),),
    checkouts=checkouts(1_000_000, 40, 300),
    drops={"fin": {"checkout": 280, "request": 9}, "reset": {"checkout": 20, "request": 2}},
    opened_connections=351,
    closed_connections={"dropped": 300, "lost_race": 11, "discarded": 30, "response_close": 12, "abandoned": 4},
    active_peak=14,
    idle_seconds={"reused": lasting(0.001, 1_000_000, to=74), "replaced": lasting(75, 300, to=30_000)},
    dropped_idle_seconds={"fin": lasting(75, 280, to=30_000), "reset": lasting(10, 20, to=400)},
    remote_close_seconds=lasting(75, 280),
)
SCRIPT = upstream(
    checkouts=checkouts(0, 1, 2),
    drops={"fin": {"checkout": 2, "request": 0}},
    idle_seconds={"replaced": lasting(3, 2)},
    dropped_idle_seconds={"fin": lasting(3, 2)},
    remote_close_seconds=lasting(2, 2),
)
ONE_BURST = upstream(
    pools=(pool(10, *[connection()] * 10),),
    checkouts=checkouts(50, 100),
    opened_connections=100,
    closed_connections={"discarded": 90},
    active_peak=100,
)
SECOND_BURST = replace(
    ONE_BURST,
    closed_connections={"dropped": 10},
    checkouts=checkouts(0, 10, 10),
    drops={"fin": {"checkout": 10, "request": 0}},
    active_peak=10,
    remote_close_seconds=lasting(2, 10),
)
RESTARTED = upstream(  # each time with two connections in the pool
    checkouts=checkouts(60, 2, 20),
    drops={"fin": {"checkout": 20, "request": 1}},
    active_peak=2,
    idle_seconds={"reused": lasting(0.01, 60, to=5), "replaced": lasting(0.01, 20, to=5)},
    dropped_idle_seconds={"fin": lasting(0.01, 20, to=5)},
    remote_close_seconds=lasting(0.01, 20, to=5),
)
VISITED_ONCE = upstream(checkouts=checkouts(0, 1), idle_seconds={}, pools=(pool(10, connection("close_wait")),))
UNIX = upstream(
    scheme="http",
    address="/run/docker.sock",
    port=None,
    pools=(pool(10, *[connection(None)] * 8),),
    drops={"unknown": {"checkout": 4, "request": 0}},
)


@pytest.mark.parametrize(
    "healthy",
    [upstream(), BUSY, SCRIPT, ONE_BURST, SECOND_BURST, RESTARTED, VISITED_ONCE, UNIX],
    ids=[
        "one thread",
        "busy for days",
        "script",
        "burst",
        "burst and quiet",
        "restarts",
        "visited once",
        "unix socket",
    ],
)
def test_a_healthy_program_has_no_findings(healthy: UpstreamSnapshot) -> None:
    assert found(healthy) == []


def test_a_crawler_of_many_hosts_has_no_findings() -> None:
    hosts = [replace(VISITED_ONCE, address=f"host{number}.example") for number in range(100)]
    rest = upstream(
        address="_OTHER",
        port=None,
        checkouts=checkouts(0, 400),
        pools=tuple(pool(10, connection("close_wait")) for _ in range(400)),
        pools_created=400,
        opened_connections=400,
        closed_connections={"response_close": 250},
        active_peak=8,
    )
    assert found(*hosts, rest) == []


@pytest.mark.parametrize(
    ("name", "planted"),
    [
        ("keepalive_shorter_than_gaps", keepalive()),
        ("resets_after_idle", resets()),
        ("late_data", late_data()),
        ("server_closes_after_response", ended()),
        ("pool_per_request", per_request()),
        ("pool_too_small", discarding()),
        ("close_wait_parked", parked(5)),
    ],
)
def test_what_is_about_one_server_is_not_said_of_many_together(name: str, planted: UpstreamSnapshot) -> None:
    assert found(planted) == [name]
    assert found(replace(planted, address="_OTHER", port=None)) == []


@pytest.mark.parametrize(
    ("name", "planted"),
    [
        ("inherited_connections", upstream(inherited_connections=1)),
        ("leaked_slots", leaking()),
        ("lost_races", lost_races()),
        ("waiting_for_connection", waits()),
        ("unread_responses", unread()),
    ],
)
def test_what_is_about_each_connection_is_said_of_many_servers_too(name: str, planted: UpstreamSnapshot) -> None:
    assert found(replace(planted, address="_OTHER", port=None)) == [name]


# Nothing twice, and no contradictions


def test_a_pile_is_told_with_the_keepalive_that_makes_it() -> None:
    piled = keepalive(pools=(pool(10, *[connection("close_wait")] * 7),))
    finding = only(piled)
    assert finding.name == "keepalive_shorter_than_gaps"
    assert finding.evidence["parked"] == 7
    assert "7 more lie closed in the pools (CLOSE_WAIT), which is harmless" in finding.summary
    assert "CLOSE_WAIT" not in only(keepalive()).summary


def test_a_smaller_pool_is_not_advised_beside_a_larger_one() -> None:
    piled = discarding(pools=(pool(9, *[connection("close_wait")] * 5),))
    assert found(piled) == ["pool_too_small"]


def test_a_server_that_closes_is_no_session_per_request() -> None:
    both = replace(per_request(), closed_connections={"response_close": 20})
    assert found(both) == ["server_closes_after_response"]


def test_lost_slots_explain_waiting_and_unread_responses() -> None:
    stuck = leaking(
        5, checkouts=checkouts(50, timed_out=6), wait_seconds=lasting(1), closed_connections={"abandoned": 5}
    )
    finding = only(stuck)
    assert finding.name == "leaked_slots"
    assert "and 6 checkouts waited for one in vain" in finding.summary
    assert finding.evidence["timed_out"] == 6


def test_a_leak_that_was_abandoned_is_not_counted_twice() -> None:
    assert only(unread(5, leaked=3)).evidence["affected"] == 5


# Order


def test_the_most_severe_comes_first_then_what_costs_most() -> None:
    cheap, dear = late_data(5), late_data(20, address="dear.example")
    free = replace(late_data(50), address="free.example", setup_seconds={})
    everything = snapshot(parked(5), cheap, free, dear, lost_races())
    findings = diagnose(everything)
    assert [finding.severity for finding in findings] == [HIGH, MEDIUM, MEDIUM, MEDIUM, LOW]
    assert [finding.upstream for finding in findings[1:4]] == [
        "https://dear.example:443",
        "https://api.example:443",
        "https://free.example:443",
    ]
    assert findings[1].evidence["seconds_lost"] == pytest.approx(0.4)
    assert "seconds_lost" not in findings[3].evidence
    assert "set-ups took" not in findings[3].summary
    assert findings == diagnose(replace(everything, upstreams=everything.upstreams[::-1]))


# Words and figures


def test_keepalive_tells_the_limit_only_where_the_closes_lie_together() -> None:
    finding = only(keepalive(20, setup_seconds={"replaced": lasting(0.15, 20)}, reused=lasting(0.1, to=1.8)))
    assert finding.summary == (
        "20 of 100 checkouts (20 %) found a connection that the server had closed while it lay idle; the new set-ups "
        "took about 3.00 s in all; 5 closes seen, after 2.00 s of idling, which is the keep-alive limit."
    )
    assert finding.evidence == {
        "affected": 20,
        "checkouts": 100,
        "share": 0.2,
        "seconds_lost": pytest.approx(3.0),
        "closes_seen": 5,
        "limit_seconds": 2,
        "parked": 0,
        "gap_p95_seconds": 9,
    }
    assert "above 9.00 s, as about 95 % of the connections lay idle for no longer" in finding.advice[0]
    assert "more often than every 2.00 s" in finding.advice[1]
    for spread in (lasting(2, 4), lasting(1.599, 5, to=2), lasting(0.0, 5, to=0.0501)):
        finding = only(keepalive(remote_close_seconds=spread))
        assert "limit_seconds" not in finding.evidence
        assert f"{spread.count} closes seen, after " in finding.summary
        assert (" to " in finding.summary) is (spread.p05 != spread.p95)
        assert "which is the keep-alive limit" not in finding.summary
        assert "more often" not in finding.advice[1]
    for close in (lasting(1.6, 5, to=2), lasting(0.151, 5, to=0.2), lasting(0.0, 5, to=0.05)):
        assert only(keepalive(remote_close_seconds=close)).evidence["limit_seconds"] == close.p95


def test_keepalive_counts_both_ways_to_say_goodbye() -> None:
    goodbyes = {"fin": {"checkout": 2, "request": 0}, "close_notify": {"checkout": 3, "request": 0}}
    finding = only(replace(keepalive(), drops=goodbyes))
    assert finding.evidence["affected"] == 5


def test_keepalive_may_spoil_every_checkout() -> None:
    finding = only(replace(keepalive(), checkouts=checkouts(0, 0, 5)))
    assert finding.evidence["share"] == 1


def test_goodbyes_of_one_kind_at_any_age_are_no_matter_of_gaps() -> None:
    planted = keepalive(remote_close_seconds=None)
    goodbyes = {"fin": lasting(0.5), "close_notify": lasting(9)}
    assert found(planted) == ["keepalive_shorter_than_gaps"]
    assert found(replace(planted, dropped_idle_seconds=goodbyes)) == []


def test_keepalive_names_a_proxy_that_may_have_closed() -> None:
    finding = only(keepalive(remote_close_seconds=None, pools=(pool(is_proxied=True),)))
    assert "that the proxy or the server behind it had closed" in finding.summary
    assert "closes seen" not in finding.summary


def test_keepalive_that_ends_with_the_response_is_to_be_turned_on() -> None:
    finding = only(keepalive(remote_close_seconds=lasting(0.05, 5)))
    assert finding.advice[0].startswith("Turn keep-alive on: the server closes right after a response")
    finding = only(keepalive(remote_close_seconds=lasting(0.051, 5)))
    assert finding.advice[0].startswith("Set the keep-alive limit")


@pytest.mark.parametrize(
    ("replaced", "gap"), [(5, 3.45), (6, 4.0), (7, 5.0), (10, 5.0), (11, 6.5), (20, 6.5), (21, 7.0), (99, 7.0)]
)
def test_keepalive_is_to_be_above_nearly_all_gaps_not_only_those_that_were_too_long(replaced: int, gap: float) -> None:
    # Of 100: the 5 longest are left out.
    gaps = Durations(replaced, replaced * 5.0, 3, 3.45, 4.0, 5.0, 6.5, 7.0, 7.5, 8)
    reused = lasting(1, 100 - replaced) if replaced < 99 else None
    finding = only(keepalive(replaced, idle=gaps, reused=reused))
    assert finding.evidence["gap_p95_seconds"] == gap


def test_keepalive_is_to_be_above_what_was_reused_in_any_case() -> None:
    finding = only(keepalive(idle=lasting(3, 5), reused=lasting(1, 95, to=4)))
    assert finding.evidence["gap_p95_seconds"] == 4


def test_keepalive_is_not_to_be_longer_than_networks_remember() -> None:
    assert only(keepalive(idle=lasting(350, 5))).advice[0].startswith("Set the keep-alive limit")
    assert only(keepalive(idle=lasting(351, 5))).advice[0] == (
        "Live with it: gaps of 351 s (p95) are longer than networks remember connections"
    )


def test_lost_races_tell_reasons_and_what_may_be_repeated() -> None:
    finding = only(
        upstream(
            checkouts=checkouts(1000),
            drops={"fin": {"checkout": 0, "request": 3}, "reset": {"checkout": 0, "request": 1}},
            remote_close_seconds=lasting(5, 6),
        )
    )
    assert finding.summary == (
        "4 of 1000 requests on a reused connection failed before a byte of the response came: the connection was "
        "ended after urllib3 had checked it (fin 3, reset 1)."
    )
    assert "HTTPAdapter(max_retries=Retry(total=2))" in finding.advice[0]
    assert "limit (5.00 s, by 6 closes)" in finding.advice[1]
    assert "NAT" in finding.advice[-1]
    assert finding.evidence == {
        "affected": 4,
        "reused": 1000,
        "share": 0.004,
        "seconds_lost": pytest.approx(0.08),
    }
    assert "NAT" not in " ".join(only(lost_races()).advice)


def test_waiting_tells_what_was_in_vain_and_what_was_long() -> None:
    finding = only(waits(200, 0.25, timed_out=3, failed_wait_seconds=lasting(2, 3)))
    assert finding.summary == (
        "3 checkouts of a blocking pool got no connection in time; one in twenty of 200 checkouts of a blocking pool "
        "waited 250 ms or longer for a connection, all together 50.00 s."
    )
    assert finding.evidence["seconds_lost"] == pytest.approx(56)
    assert finding.evidence["slots"] == 4
    assert only(waits(200, 0.25)).evidence["affected"] == 10
    assert "in time" not in only(waits(200, 0.25, timed_out=2)).summary


def test_resets_tell_between_which_ages_the_limit_lies_and_which_probes_come_sooner() -> None:
    finding = only(resets(10))
    assert finding.summary == (
        "10 of 100 checkouts (10 %) found a connection that had been reset, 95 % of them after 400 s of idling or "
        "more; 99 % of those reused had for 340 s at most; the new set-ups took about 200 ms in all: a NAT, firewall "
        "or load balancer on the way forgets it, or the server resets it."
    )
    assert "socket.TCP_KEEPIDLE, 60)" in finding.advice[0]
    assert finding.evidence["reused_idle_p99_seconds"] == 340
    assert finding.evidence["reset_idle_p05_seconds"] == 400
    sooner = only(resets(idle=lasting(90, 5), reused=lasting(1, 5)))
    assert "socket.TCP_KEEPIDLE, 45)" in sooner.advice[0]
    soonest = only(resets(idle=lasting(1.5, 5), reused=lasting(1, 5)))
    assert "socket.TCP_KEEPIDLE, 1)" in soonest.advice[0]
    alone = only(resets(reused=None))
    assert "reused" not in alone.summary
    assert "reused_idle_p99_seconds" not in alone.evidence


def test_late_data_is_told_apart_by_tls() -> None:
    secure, plain = only(late_data()), only(late_data(scheme="http", port=80))
    assert "because TLS data that urllib3 had not asked for came" in secure.summary
    assert "TLSv1_2" in secure.advice[1]
    assert "because data that urllib3 had not asked for came" in plain.summary
    assert "TLS" not in " ".join(plain.advice)


def test_responses_that_close_are_told_with_their_share() -> None:
    finding = only(ended(30, 40))
    assert finding.summary == (
        "30 responses to 40 checkouts ended their connection (by Connection: close, or HTTP/1.0), so that the next "
        "request had to open another."
    )
    assert finding.evidence["share"] == 0.75
    assert finding.evidence["seconds_lost"] == pytest.approx(0.6)


def test_many_pools_may_be_due_to_many_hosts() -> None:
    others = [replace(upstream(), address=f"host{number}.example") for number in range(10)]
    many = diagnose(snapshot(per_request(), *others))
    few = diagnose(snapshot(per_request(), *others[1:]))
    assert [finding.name for finding in (*many, *few)] == ["pool_per_request"] * 2
    assert "20 pools were made for 40 checkouts" in many[0].summary
    assert "there are 11 here" in many[0].advice[1]
    assert "num_pools" not in " ".join(few[0].advice)


def test_a_pool_too_small_tells_the_size_that_was_wanted() -> None:
    finding = only(discarding(150, peak=64, maximum=10))
    assert finding.summary == (
        "150 connections were closed because the pool they came back to was full, in 200 checkouts; up to 64 were in "
        "use at once, and the largest pool keeps 10."
    )
    assert "HTTPAdapter(pool_maxsize=64)" in finding.advice[0]
    assert "all pools together" not in finding.advice[0]
    assert "all pools together" in only(discarding(150, peak=64, pools=(pool(), pool()))).advice[0]
    assert finding.evidence["pool_maximum"] == 10
    gone = only(discarding(pools=()))
    assert "largest pool" not in gone.summary
    assert "pool_maximum" not in gone.evidence


def test_a_pile_tells_how_many_connections_were_ever_needed() -> None:
    finding = only(parked(9, active_peak=10, use_seconds=25.0))
    assert finding.summary == (
        "9 of 10 connections lie in the pools closed by the other side (CLOSE_WAIT), where no request gets down to "
        "them; at most 10 were in use at once, 0.25 on average."
    )
    (unwatched,) = diagnose(snapshot(parked(9), watched=0.0))
    assert "on average" not in unwatched.summary


def test_what_is_in_use_is_not_parked() -> None:
    assert found(upstream(pools=(pool(10, *[connection("close_wait", "active")] * 9),))) == []


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        *((0, "0.0 ms"), (0.00044, "0.4 ms"), (0.0099, "9.9 ms"), (0.01, "10 ms"), (0.9994, "999 ms")),
        *((0.9996, "1.00 s"), (1, "1.00 s"), (99.99, "99.99 s"), (100, "100 s"), (86_400, "86400 s")),
    ],
)
def test_a_time_is_told_as_precisely_as_matters(seconds: float, told: str) -> None:
    assert as_time(seconds) == told


# Why races were lost

HAIR, RESTARTS, WAY = "by a hair", "restarts or crashes", "on the way had forgotten them"
FEW = lasting(1, 16)  # with three lost, eight or more are needed that lay as long
FEW_SHORT = lasting(0.09, 16)
# Each at its thresholds; below them its twins, which get the words for what is not known.
LOST_TO: list[tuple[str, UpstreamSnapshot]] = [
    (HAIR, by_a_hair(lasting(4.75, to=5.25))),
    (HAIR, by_a_hair(lasting(0.375, to=0.75), lasting(0.5, 5, to=0.625))),
    (HAIR, by_a_hair(lasting(0.0, to=0.1), lasting(0.05, 5))),
    (HAIR, by_a_hair(lasting(4.9), reused=lasting(20, 3000))),  # some others went on: of a limit that was raised, say
    (HAIR, by_a_hair(lasting(5, 2), known=3)),
    (RESTARTS, by_restarts(lasting(0.5), lasting(1, 16))),
    (RESTARTS, by_restarts(lasting(0.02), lasting(0.07, 16))),
    (RESTARTS, by_restarts(lasting(0, to=1), FEW)),
    (RESTARTS, by_restarts(lasting(0.5), lasting(1, 16), closes=lasting(5, 5))),
    (RESTARTS, by_restarts(lasting(0.5), lasting(1, 16), reason="reset")),
    (WAY, by_the_way(lasting(60), reused=lasting(59, 3000))),
    (WAY, by_the_way(lasting(60), "timed_out", reused=lasting(59, 3000))),
    (WAY, by_the_way(lasting(60, to=400), reused=lasting(60, 7))),  # too few to compare with
    (WAY, by_the_way(lasting(60), reused=lasting(59, 8))),
]
LOST_TO_WHATEVER: list[tuple[str, UpstreamSnapshot]] = [
    ("idle times are not known", replace(by_a_hair(lasting(5)), lost_race_idle_seconds={})),
    ("idle times of two", by_a_hair(lasting(5), known=2)),
    ("idle times of half", replace(by_a_hair(lasting(5)), drops={"fin": {"checkout": 0, "request": 6}})),
    ("a bit too early for the limit", by_a_hair(lasting(4.74, to=5.25))),
    ("a bit too late for the limit", by_a_hair(lasting(4.75, to=5.26))),
    ("too early for a short limit", by_a_hair(lasting(0.374, to=0.5), lasting(0.5, 5, to=0.625), reused=FEW_SHORT)),
    ("too late for a limit of nothing", by_a_hair(lasting(0.0, to=0.101), lasting(0.05, 5), reused=FEW_SHORT)),
    (
        "one reason's at the limit, the other's far off",
        replace(
            by_a_hair(lasting(5)),
            drops={"fin": {"checkout": 0, "request": 3}, "reset": {"checkout": 0, "request": 3}},
            lost_race_idle_seconds={"fin": lasting(5, 3), "reset": lasting(2, 3)},
        ),
    ),
    ("no limit", by_a_hair(lasting(5), lasting(5, 4))),
    ("none lay twice as long", by_restarts(lasting(0.5), lasting(0.99, 16))),
    ("none lay noticeably longer", by_restarts(lasting(0.02), lasting(0.069, 16))),
    ("too few lay twice as long", by_restarts(lasting(0.5), lasting(1, 15))),
    ("steady gaps at a limit that is not known", by_restarts(lasting(4.9, to=5.1), lasting(4.9, 300, to=5.1))),
    ("a memory too short for a network", by_the_way(lasting(59.9, to=400))),
    ("others lay as long", by_the_way(lasting(60), reused=lasting(60, 3000))),
    ("others of a few lay as long", by_the_way(lasting(60), reused=lasting(60, 8))),
    ("no reset", by_the_way(lasting(60), "fin")),
    (
        "not only resets",
        replace(
            by_the_way(lasting(60)),
            drops={r: {"checkout": 0, "request": 2} for r in ("fin", "reset")},
        ),
    ),
    ("a limit that is known", by_the_way(lasting(60), closes=lasting(5, 5))),
    ("a unix socket", by_the_way(lasting(60), address="/run/docker.sock", port=None)),
    *((f"many servers: {cause}", replace(planted, address="_OTHER", port=None)) for cause, planted in LOST_TO),
]


@pytest.mark.parametrize(("cause", "planted"), LOST_TO)
def test_lost_races_tell_what_their_idle_times_show(cause: str, planted: UpstreamSnapshot) -> None:
    finding = only(planted)
    assert finding.name == "lost_races"
    assert [each for each in (HAIR, RESTARTS, WAY) if each in finding.summary] == [cause]
    assert finding.advice[0].startswith("Have idempotent requests repeated")


@pytest.mark.parametrize("planted", [each for _, each in LOST_TO_WHATEVER], ids=[what for what, _ in LOST_TO_WHATEVER])
def test_lost_races_whose_idle_times_show_nothing_are_told_without_a_cause(planted: UpstreamSnapshot) -> None:
    finding = only(planted)
    assert finding.summary.endswith("after urllib3 had checked it (" + finding.summary.rpartition("(")[2])
    assert finding.summary.count(";") == 0
    assert finding.advice == only(replace(planted, lost_race_idle_seconds={})).advice
    assert len(finding.advice) >= 3
    assert not [name for name in finding.evidence if "idle" in name or "limit" in name]


def test_a_race_lost_to_the_limit_by_a_hair_tells_both_and_what_to_set() -> None:
    gaps = {"reused": Durations(3000, 3000.0, 0, 0, 1, 1, 2, 4, 6, 9), "replaced": lasting(7, 9)}
    finding = only(replace(by_a_hair(lasting(4.9, to=5.02)), idle_seconds=gaps))
    assert finding.summary.endswith(
        "(fin 3); they had lain idle for 4.90 s to 5.02 s, and the server closes after 5.00 s: they lost to its "
        "keep-alive limit by a hair."
    )
    assert finding.advice[1].startswith("Set the keep-alive limit, of the proxy or load balancer in front")
    assert "above 7.00 s" in finding.advice[1]
    assert "nginx keepalive_timeout" in finding.advice[1]
    assert "more often than every 5.00 s" in finding.advice[2]
    assert len(finding.advice) == 3
    assert finding.evidence.items() >= {"idle_p05_seconds": 4.9, "idle_p95_seconds": 5.02, "limit_seconds": 5}.items()
    assert "above 6.00 s" in only(replace(by_a_hair(lasting(5)), idle_seconds={"reused": gaps["reused"]})).advice[1]
    alone = only(replace(by_a_hair(lasting(5)), idle_seconds={}))
    assert "lain idle for 5.00 s, and" in alone.summary
    assert "above 5.00 s" in alone.advice[1]


def test_races_lost_in_restarts_tell_that_others_lay_longer() -> None:
    finding = only(by_restarts(lasting(0.01, to=0.5), FEW, failed_setup_seconds={"a.B": lasting(1, 2)}))
    assert finding.summary.endswith(
        "(fin 3); half of them had lain idle for 255 ms at most, and others went on after 1.00 s: no idle limit ended "
        "these, it looks like restarts or crashes of the server or its workers."
    )
    assert "finish its requests before it stops" in finding.advice[1]
    assert "keep-alive" not in " ".join(finding.advice)
    expected = {"idle_median_seconds": 0.255, "survived_idle_seconds": 1, "failed_setups": 2}
    assert finding.evidence.items() >= expected.items()


def test_races_lost_on_the_way_tell_how_long_it_remembers_and_how_to_remind_it() -> None:
    finding = only(by_the_way(lasting(360, to=900), reused=lasting(1, 3000, to=340)))
    assert finding.summary.endswith(
        "(reset 3); nearly all of them had lain idle for 360 s or longer, and 99 % of all that were reused for 340 s "
        "at most: a NAT, firewall or load balancer on the way had forgotten them, or the server resets what lies idle."
    )
    assert "socket.TCP_KEEPIDLE, 60)" in finding.advice[1]
    assert finding.evidence.items() >= {"idle_p05_seconds": 360, "survived_idle_seconds": 340}.items()
    alone = only(by_the_way(lasting(90), reused=lasting(90, 7)))
    assert "all that were reused" not in alone.summary
    assert "survived_idle_seconds" not in alone.evidence
    assert "socket.TCP_KEEPIDLE, 45)" in alone.advice[1]


# Whatever the figures are

WORDS = ("reused", "new", "replaced", "timed_out", "pool_closed", "lost_race", "response_close", "discarded")
REASONS = ("fin", "close_notify", "reset", "unexpected_data", "timed_out", "unknown")
SECRETS = ("/secret-path", "token=secret", "user:secret@", "10.66.66.66", "secret.Error")
TOTALS = (
    "opened_connections",
    "adopted_connections",
    "inherited_connections",
    "leaked_connections",
    "pools_created",
    "pending_requests",
    "active_peak",
)
ALONE = (
    "remote_close_seconds",
    "close_wait_seconds",
    "wait_seconds",
    "failed_wait_seconds",
    "connection_seconds",
    "requests_per_connection",
)
SECONDS = st.floats(0, 1e9, allow_nan=False)
NUMBERS = st.one_of(st.integers(0, 30), st.integers(0, 10**12))


@st.composite
def some_durations(draw: st.DrawFn) -> Durations:
    low, p05, p25, median, p75, p95, p99, high = sorted(draw(st.lists(SECONDS, min_size=8, max_size=8)))
    count = draw(st.integers(1, 10**9))
    return Durations(count, draw(st.floats(low, high)) * count, low, p05, p25, median, p75, p95, p99, high)


def some_counts(words: tuple[str, ...]) -> st.SearchStrategy[dict[str, int]]:
    return st.dictionaries(st.sampled_from(words), NUMBERS)


SOME_CONNECTIONS = st.builds(
    Connection,
    state=st.sampled_from(["idle", "active"]),
    tcp_state=st.sampled_from(["established", "close_wait", None]),
    peer_address=st.sampled_from(["10.66.66.66", None]),
)
SOME_POOLS = st.builds(
    Pool, maximum=st.integers(0, 1000), connections=st.lists(SOME_CONNECTIONS, max_size=9).map(tuple)
)
SOME_UPSTREAMS = st.builds(
    UpstreamSnapshot,
    scheme=st.sampled_from(["http", "https"]),
    address=st.sampled_from(["api.example", "::1", "_OTHER", "/secret-path"]),
    port=st.sampled_from([443, None]),
    pools=st.lists(SOME_POOLS, max_size=4).map(tuple),
    checkouts=some_counts(WORDS),
    drops=st.dictionaries(st.sampled_from((*REASONS, "token=secret")), some_counts(("checkout", "request"))),
    closed_connections=some_counts((*WORDS, "abandoned", "user:secret@")),
    **dict.fromkeys(TOTALS, NUMBERS),
    use_seconds=SECONDS,
    idle_seconds=st.dictionaries(st.sampled_from(WORDS[:3]), some_durations()),
    dropped_idle_seconds=st.dictionaries(st.sampled_from(REASONS), some_durations()),
    setup_seconds=st.dictionaries(st.sampled_from(WORDS), some_durations()),
    failed_setup_seconds=st.dictionaries(st.just("secret.Error"), some_durations()),
    setup_phase_seconds=st.just({}),
    lost_race_idle_seconds=st.dictionaries(st.sampled_from((*REASONS, "token=secret")), some_durations()),
    **dict.fromkeys(ALONE, st.none() | some_durations()),
)


@st.composite
def some_planted(draw: st.DrawFn) -> UpstreamSnapshot:
    """One that has a finding, as a rule: those whose figures are all drawn keep far from most thresholds."""
    planted = draw(st.sampled_from([*(each for _, _, each in PLANTED), *(each for _, each in LOST_TO)]))
    other = draw(SOME_UPSTREAMS)
    names = draw(st.sets(st.sampled_from([field.name for field in fields(UpstreamSnapshot)]), max_size=4))
    return replace(planted, **{name: getattr(other, name) for name in names})


@settings(max_examples=100, deadline=None)
@given(upstreams=st.lists(SOME_UPSTREAMS | some_planted(), max_size=3), watched=st.just(0.0) | st.floats(1e-3, 1e9))
def test_any_figures_give_sound_findings_that_tell_nothing_but_the_upstream(
    upstreams: list[UpstreamSnapshot], watched: float
) -> None:
    findings = diagnose(snapshot(*upstreams, watched=watched))
    places = {each.name for each in upstreams}
    ranks = [list(Severity).index(finding.severity) for finding in findings]
    assert ranks == sorted(ranks)
    for finding in findings:
        assert finding.name in NAMES
        assert finding.upstream in places
        assert all(math.isfinite(value) for value in finding.evidence.values())
        assert 0 <= finding.evidence.get("share", 0) <= 1
        text = " ".join((finding.summary, *finding.advice, *finding.evidence))
        assert not any(secret in text for secret in SECRETS)
        assert "://" not in text
        assert "nan" not in re.findall("[a-z]+", text)


# docs/reference/findings.md

SECTIONS = dict(
    re.findall(
        r"^## (\S+)\n(.*?)(?=^## |\Z)",
        (Path(__file__).parents[2] / "docs" / "reference" / "findings.md").read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE,
    )
)
HITS = [f"{t.LEAST_HITS} checkouts or more", f"{t.HIT_SHARE:.0%} or more of all"]
STATED = {
    "inherited_connections": [f"{t.LEAST_INHERITED} connection or more"],
    "leaked_slots": [f"{t.LEAST_LEAKED_SLOTS} connection or more"],
    "lost_races": [
        f"{t.LEAST_LOST} requests or more",
        f"{t.LOST_SHARE:.1%} or more of the requests",
        f"of {t.LEAST_LOST} or more, and of more than half",
        f"{t.RACE_WINDOW} s around it, but no more than {t.LIMIT_SPREAD:.0%} of it or {t.LIMIT_SLACK} s",
        f"{t.LEAST_SURVIVORS} others or more had lain idle {['', 'once', 'twice'][t.SURVIVED_TIMES]} as long",
        f"{t.LIMIT_SLACK} s longer",
        f"for {t.SHORTEST_MEMORY} s or longer",
        f"fewer than {t.LEAST_SURVIVORS} others",
    ],
    "waiting_for_connection": [
        f"{t.LEAST_TIMED_OUT} checkouts or more",
        f"{t.LEAST_WAITS} or more that got one",
        f"{t.LONG_WAIT} s or longer",
    ],
    "keepalive_shorter_than_gaps": [
        *HITS,
        f"if {t.LEAST_CLOSES} or more were seen",
        f"at most {t.LIMIT_SPREAD:.0%} of p95",
        f"or {t.LIMIT_SLACK} s",
        f"the limit is {t.CLOSES_AT_ONCE} s or less",
        f"not above {t.LONGEST_KEEPALIVE} s",
    ],
    "resets_after_idle": [
        *HITS,
        f"fewer than {t.LEAST_SURVIVORS} were reused",
        f"for {t.SHORTEST_MEMORY} s or longer",
        f"socket.TCP_KEEPIDLE, {t.SHORTEST_MEMORY})",
    ],
    "late_data": HITS,
    "server_closes_after_response": [
        f"{t.LEAST_ENDED} responses or more",
        f"{t.ENDED_SHARE:.0%} or more of all checkouts",
    ],
    "pool_per_request": [
        f"{t.LEAST_POOLS} pools or more",
        f"{t.CHECKOUTS_PER_POOL} checkouts or fewer",
        f"{t.LEAST_POOLS} connections or more were opened",
        f"more than {t.HOSTS_KEPT}",
    ],
    "pool_too_small": [f"{t.LEAST_DISCARDED} connections or more", f"{t.HIT_SHARE:.0%} or more of all"],
    "unread_responses": [f"{t.LEAST_HITS} connections or more", f"{t.HIT_SHARE:.0%} or more of all"],
    "close_wait_parked": [f"{t.LEAST_PARKED} connections or more"],
}


def test_every_finding_is_documented_and_no_other() -> None:
    assert set(SECTIONS) == NAMES == set(STATED)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_finding_is_documented_with_its_severity_and_thresholds(name: str) -> None:
    section = " ".join(SECTIONS[name].replace(" %", "%").split())
    for threshold in STATED[name]:
        assert threshold in section
    (severity,) = re.findall(r"\*\*Severity:\*\* (.*?) \*\*When", section)
    assert {each for _, each, _ in filter(lambda case: case[0] == name, PLANTED)} == set(
        map(Severity, re.findall("high|medium|low", severity))
    )
