"""The page that is printed of a snapshot and its findings."""

# ruff: noqa: RUF001 - ranges are written with a dash

from __future__ import annotations

import contextlib
import fcntl
import io
import math
import os
import re
import struct
import sys
import termios
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TextIO

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_telemetry._advice import RETRY, RETRY_AGAIN
from pool_telemetry._finding import Finding, Severity
from pool_telemetry._report import render, show
from pool_telemetry._snapshot import SCHEMA, Connection, Durations, Pool, Snapshot, UpstreamSnapshot
from pool_telemetry._text import duration, share

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")
HEAD_LINES = 3  # with the empty one


def durations(median: float, count: int = 1, *, total: float | None = None, ends: float = 0.0) -> Durations:
    """So many, all alike but for what the ends are off."""
    least, most = median - ends, median + ends
    total = count * median if total is None else total
    return Durations(count, total, least, least, median, median, median, most, most, most)


def connection(state: str = "idle", tcp_state: str | None = "established") -> Connection:
    return Connection(state, tcp_state, 60.0, None, None, 3, "192.0.2.1", 443, 50000, "1.1", "TLSv1.3", False)


def pool(*connections: Connection, maximum: int = 10, is_blocking: bool = False, is_proxied: bool = False) -> Pool:
    return Pool(maximum, is_blocking, is_proxied, connections)


NOTHING = UpstreamSnapshot(
    scheme="https",
    address="api.example.com",
    port=443,
    pools=(),
    checkouts={},
    drops={},
    opened_connections=0,
    adopted_connections=0,
    inherited_connections=0,
    closed_connections={},
    leaked_connections=0,
    pools_created=1,
    pending_requests=0,
    active_peak=1,
    use_seconds=0.0,
    idle_seconds={},
    dropped_idle_seconds={},
    remote_close_seconds=None,
    close_wait_seconds=None,
    setup_seconds={},
    failed_setup_seconds={},
    setup_phase_seconds={},
    wait_seconds=None,
    failed_wait_seconds=None,
    connection_seconds=None,
    requests_per_connection=None,
)


def upstream(**changes: Any) -> UpstreamSnapshot:
    return replace(NOTHING, **changes)


def snapshot(*upstreams: UpstreamSnapshot, **changes: Any) -> Snapshot:
    taken = "2025-11-23T09:30:12.123456+00:00"
    return replace(Snapshot(SCHEMA, "0.1.0", "2.5.0", "3.12.4", 4711, taken, 8040.0, True, upstreams), **changes)


def finding(of: UpstreamSnapshot, severity: Severity, summary: str = "It is bad.", *advice: str) -> Finding:
    return Finding("name", severity, of.name, summary, {}, advice)


def page(found: Snapshot, *findings: Finding, width: int = 100, **options: bool) -> list[str]:
    return render(found, findings, width=width, is_coloured=False, **options).splitlines()


def block(found: UpstreamSnapshot, *, width: int = 100) -> list[str]:
    """What is said of an upstream; the bar is left out, and so are blanks before it."""
    lines = page(snapshot(found), width=width)
    del lines[: lines.index("") + 1]
    return [re.sub(" *[█▓░]+$", "", line) for line in lines[: lines.index("")]]


def row(label: str, **changes: Any) -> str:
    """The line of that label, ``''`` if there is none."""
    lines = [line for line in block(upstream(**changes)) if line.startswith(f"  {label} ")]
    return " ".join(lines[0].split()) if lines else ""


# Whole pages

DROPS_AT_5_S = upstream(
    pools=(pool(connection("active"), connection(tcp_state="close_wait"), connection(tcp_state="close_wait")),),
    checkouts={"reused": 231, "new": 12, "replaced": 157, "timed_out": 0, "pool_closed": 0},
    drops={"fin": {"checkout": 155, "request": 1}, "reset": {"checkout": 2, "request": 0}},
    closed_connections={"dropped": 157, "lost_race": 1, "discarded": 0},
    active_peak=4,
    idle_seconds={"reused": durations(0.8, 231), "replaced": durations(6.1, 157, ends=7.9)},
    remote_close_seconds=Durations(155, 775.0, 4.98, 4.99, 5.0, 5.0, 5.0, 5.01, 5.02, 5.03),
    setup_seconds={
        "new": durations(0.039, 12),
        "replaced": durations(0.041, 157, total=6.4),
        "lost_race": durations(0.04),
    },
    setup_phase_seconds={"tls": durations(0.027), "dns": durations(0.002), "connect": durations(0.012)},
    lost_race_idle_seconds={"fin": durations(4.99)},
)
TOO_SHORT = finding(
    DROPS_AT_5_S,
    Severity.MEDIUM,
    "39 % of checkouts found a dead connection. Requests come 6.1 s apart, the server keeps idle connections 5.0 s.",
    "Raise its keep-alive above 15 s, or send requests more often than every 5 s.",
    "Where the server is not yours: let a retry repair what loses the race, for requests that are safe to send twice.",
)
REUSED = upstream(
    address="cdn.example.com",
    pools=(pool(connection(), connection()),),
    checkouts={"reused": 12_040, "new": 2, "replaced": 0},
    setup_seconds={"new": durations(0.01, 2)},
    active_peak=2,
)

AT_80 = """\
Connection pools of process 4711, watched for 2.2 h: 2 upstreams, 1 finding
2025-11-23 09:30:12 UTC · pool_telemetry 0.1.0 · urllib3 2.5.0 · Python 3.12.4

https://api.example.com:443                                 █████████████░░░░░░░
  now        3 open: 1 active, 2 idle, of which 2 in CLOSE_WAIT · pool of 10
  checkouts  400   reused 231 (58 %)   new 12 (3 %)   replaced 157 (39 %)
  dropped    158   FIN 155 · RST 2 · 1 lost race after 4.99 s idle
  idle       median 6.1 s when found dead (p95 14 s), 800 ms when reused
  closed by  the server after 5.00 s idle (155 seen, 4.98 – 5.03 s)
  set-up     median 41 ms (dns 2, connect 12, tls 27): 6.4 s spent reconnecting
  ! 39 % of checkouts found a dead connection. Requests come 6.1 s apart, the
    server keeps idle connections 5.0 s.
    1. Raise its keep-alive above 15 s, or send requests more often than every
       5 s.
    2. Where the server is not yours: let a retry repair what loses the race,
       for requests that are safe to send twice.

https://cdn.example.com:443     2 idle · pool of 10         ████████████████████
  checkouts  12,042   reused 12,040 (> 99 %)   new 2 (< 1 %)
"""
AT_120 = """\
Connection pools of process 4711, watched for 2.2 h: 2 upstreams, 1 finding
2025-11-23 09:30:12 UTC · pool_telemetry 0.1.0 · urllib3 2.5.0 · Python 3.12.4

https://api.example.com:443     3 open: 1 active, 2 idle, of which 2 in CLOSE_WAIT · pool of 10     █████████████░░░░░░░
  checkouts  400   reused 231 (58 %)   new 12 (3 %)   replaced 157 (39 %)
  dropped    158   FIN 155 · RST 2 · 1 lost race after 4.99 s idle
  idle       median 6.1 s when found dead (p95 14 s), 800 ms when reused
  closed by  the server after 5.00 s idle (155 seen, 4.98 – 5.03 s)
  set-up     median 41 ms (dns 2, connect 12, tls 27): 6.4 s spent reconnecting
  ! 39 % of checkouts found a dead connection. Requests come 6.1 s apart, the server keeps idle connections 5.0 s.
    1. Raise its keep-alive above 15 s, or send requests more often than every 5 s.
    2. Where the server is not yours: let a retry repair what loses the race, for requests that are safe to send twice.

https://cdn.example.com:443     2 idle · pool of 10                                                 ████████████████████
  checkouts  12,042   reused 12,040 (> 99 %)   new 2 (< 1 %)
"""
ALL_IS_WELL_AT_80 = """\
Connection pools of process 4711, watched for 2.2 h: 1 upstream
2025-11-23 09:30:12 UTC · pool_telemetry 0.1.0 · urllib3 2.5.0 · Python 3.12.4

https://cdn.example.com:443     2 idle · pool of 10         ████████████████████
  checkouts  12,042   reused 12,040 (> 99 %)   new 2 (< 1 %)

Nothing to worry about: 12,042 checkouts, no drop, no failed set-up, no leak.
"""


@pytest.mark.parametrize(("width", "expected"), [(80, AT_80), (120, AT_120)])
def test_a_page_tells_of_a_server_whose_keep_alive_is_too_short(width: int, expected: str) -> None:
    assert render(snapshot(REUSED, DROPS_AT_5_S), [TOO_SHORT], width=width, is_coloured=False) == expected


def test_the_readme_shows_a_part_of_that_page() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    shown = readme.partition("```text\nhttps://api.example.com:443")[2].partition("```")[0]
    assert "spent reconnecting" in shown
    assert shown in AT_80


def test_what_is_only_reused_takes_two_lines_and_the_page_says_that_all_is_well() -> None:
    assert render(snapshot(REUSED), [], width=80, is_coloured=False) == ALL_IS_WELL_AT_80


def test_ascii_stands_for_all_else() -> None:
    text = render(snapshot(REUSED, DROPS_AT_5_S), [TOO_SHORT], width=80, is_coloured=False, is_ascii=True)
    expected = AT_80.translate({ord(each): other for each, other in zip("·–█░", "|-#.", strict=True)})
    assert text == expected
    assert expected.isascii()


def test_microseconds_and_dots_take_no_room_in_ascii_that_is_not_there() -> None:
    few = upstream(checkouts={"new": 9}, setup_seconds={"new": durations(0.0004, 9)})
    lines = page(snapshot(few), finding(few, Severity.LOW, "It is … é."), is_ascii=True)
    assert "  set-up     median 400 us: 3.6 ms spent connecting 9 times" in lines
    assert r"  i It is ... \xe9." in lines


# The head, and the last line


def test_a_page_without_upstreams_says_that_there_were_no_requests() -> None:
    assert page(snapshot())[HEAD_LINES - 1 :] == ["", "No request has gone through a connection pool so far."]


def test_the_head_says_when_nothing_is_watched() -> None:
    assert page(snapshot(is_installed=False))[2] == "Nothing is watched at present: call pool_telemetry.install()."


def test_upstreams_that_share_their_figures_are_not_counted_as_one() -> None:
    other = upstream(address="_OTHER", port=None, checkouts={"reused": 3, "new": 1})
    lines = page(snapshot(NOTHING, other))
    assert lines[0] == "Connection pools of process 4711, watched for 2.2 h: more than 1 upstream"
    assert lines[3].startswith("https://_OTHER (all beyond max_upstreams)     all closed  ")


@pytest.mark.parametrize(
    ("changes", "flaw"),
    [
        ({"drops": {"fin": {"checkout": 1}}}, "1 dropped connection"),
        ({"drops": {"fin": {"request": 2}}}, "2 dropped connections"),
        ({"pools": (pool(connection(tcp_state="close_wait")),)}, "1 dead connection in its pool"),
        ({"failed_setup_seconds": {"OSError": durations(1, 2)}}, "2 failed set-ups"),
        ({"checkouts": {"reused": 9, "timed_out": 1}}, "1 checkout without a connection"),
        ({"checkouts": {"reused": 8, "pool_closed": 2}}, "2 checkouts without a connection"),
        ({"pending_requests": 1}, "1 waiting thread"),
        ({"leaked_connections": 3}, "3 leaked connections"),
        ({"adopted_connections": 1, "inherited_connections": 1}, "1 connection of another process"),
        ({"checkouts": {"new": 10}, "active_peak": 9}, "1 upstream without any reuse"),
    ],
)
def test_what_is_not_clean_is_not_praised(changes: dict[str, Any], flaw: str) -> None:
    found = upstream(**{"checkouts": {"reused": 10}, **changes})
    assert page(snapshot(found))[-1] == f"No findings. In 10 checkouts: {flaw}."


def test_as_many_new_connections_as_were_in_use_at_once_are_no_flaw() -> None:
    found = upstream(checkouts={"new": 10}, active_peak=10)
    assert page(snapshot(found))[-1].startswith("Nothing to worry about: 10 checkouts, no drop")


def test_an_active_connection_in_close_wait_is_no_flaw() -> None:
    found = upstream(checkouts={"new": 1}, pools=(pool(connection("active", "close_wait")),))
    assert page(snapshot(found))[-1].startswith("Nothing to worry about: 1 checkout, no")


# Which upstreams, and in which order


def test_upstreams_with_findings_come_first_and_then_the_busiest() -> None:
    def busy(name: str, checkouts: int) -> UpstreamSnapshot:
        return upstream(address=name, checkouts={"new": checkouts})

    idle, often, low, high = busy("idle", 1), busy("often", 1000), busy("low", 5), busy("high", 3)
    found = page(snapshot(idle, often, low, high), finding(low, Severity.LOW), finding(high, Severity.HIGH))
    assert re.findall(r"https://(\w+)", "\n".join(found)) == ["high", "low", "often", "idle"]


def test_beyond_twenty_upstreams_the_rest_is_summed_up_in_one_line() -> None:
    many = [upstream(address=f"h{number}", checkouts={"reused": number}) for number in range(1, 26)]
    poor = replace(many[0], drops={"fin": {"checkout": 3}}, pools=(pool(connection()),))
    lines = page(snapshot(poor, *many[1:]))
    assert sum(line.startswith("https://") for line in lines) == 20
    assert lines[-3] == "and 5 more upstreams: 15 checkouts, 100 % reused, 3 dropped, 1 open"


def test_the_line_for_the_rest_counts_its_findings() -> None:
    many = [upstream(address=f"h{number}", checkouts={"new": 50 - number}) for number in range(21)]
    lines = page(snapshot(*many), *(finding(each, Severity.LOW) for each in many))
    assert lines[-1] == "and 1 more upstream: 30 checkouts, 0 % reused, 0 open, 1 finding"


def test_findings_stand_by_severity_and_with_their_marks() -> None:
    marks = {Severity.LOW: "i", Severity.HIGH: "!!", Severity.MEDIUM: "!"}
    found = [finding(NOTHING, severity, f"It is {severity.value}.", "Do this.") for severity in marks]
    assert page(snapshot(NOTHING), *found)[-6:] == [
        *("  !! It is high.", "     Do this."),
        *("  ! It is medium.", "    Do this."),
        *("  i It is low.", "    Do this."),
    ]


def test_sentences_of_a_finding_end_as_sentences_do_and_keep_figures_with_their_units() -> None:
    found = finding(NOTHING, Severity.LOW, "Half of\nthem are dead", "Raise the limit to more than 15 s", "Is it?")
    assert page(snapshot(NOTHING), found, width=40)[-4:] == [
        "  i Half of them are dead.",
        "    1. Raise the limit to more than",
        "       15 s.",
        "    2. Is it?",
    ]


def test_a_finding_of_an_upstream_that_is_not_there_is_shown_all_the_same() -> None:
    assert page(snapshot(), finding(NOTHING, Severity.LOW))[-2:] == ["https://api.example.com:443", "  i It is bad."]


# Names


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "https://api.example.com:443     all closed"),
        ({"address": "::1", "port": 8080, "scheme": "http"}, "http://[::1]:8080     all closed"),
        ({"address": "/run/d.sock", "port": None, "scheme": "http"}, "/run/d.sock (unix socket, http)     all closed"),
        ({"address": "a\x1b[2J\nb"}, r"https://a\x1b[2J\nb:443     all closed"),
        ({"address": "a\udc80\u202e"}, r"https://a\udc80\u202e:443     all closed"),
    ],
)
def test_an_upstream_is_named_by_where_it_is(changes: dict[str, Any], expected: str) -> None:
    assert block(upstream(**changes))[0] == expected


def test_a_long_host_name_is_cut_behind_a_dot_and_has_its_state_below() -> None:
    found = upstream(address="internal-a1b2c3.eu-central-1.elb.amazonaws.com")
    assert block(found, width=40) == [
        "https://internal-a1b2c3.eu-central-1.",
        "  elb.amazonaws.com:443",
        "  now        all closed",
        "  checkouts  0",
    ]
    assert block(found, width=60)[:2] == [f"https://{found.address}:443", "  now        all closed"]


# The state


@pytest.mark.parametrize(
    ("pools", "expected"),
    [
        ([pool()], "none open · pool of 10"),
        ([pool(connection())], "1 idle · pool of 10"),
        ([pool(connection("active"), connection())], "2 open: 1 active, 1 idle · pool of 10"),
        ([pool(connection(tcp_state="close_wait"))], "1 idle, in CLOSE_WAIT · pool of 10"),
        (
            [pool(connection(), *[connection(tcp_state="close_wait")] * 2, connection(tcp_state="closed"))],
            "4 idle, of which 2 in CLOSE_WAIT, 1 in CLOSED · pool of 10",
        ),
        ([pool(connection(tcp_state=None), connection(tcp_state=None))], "2 idle · pool of 10"),
        ([pool(connection("active", "close_wait"))], "1 active · pool of 10"),
        ([pool(maximum=1000), pool(maximum=1000)], "none open · 2 pools of 1,000"),
        ([pool(maximum=20), pool(maximum=5)], "none open · 2 pools of 5 – 20"),
        ([pool(maximum=0)], "none open · pool without a limit"),
        ([pool(maximum=0), pool()], "none open · 2 pools some without a limit"),
        ([pool(is_blocking=True)], "none open · blocking pool of 10"),
        ([pool(is_blocking=True)] * 2, "none open · 2 blocking pools of 10"),
        ([pool(is_blocking=True), pool()], "none open · 2 pools of 10, 1 blocking"),
        ([pool(is_proxied=True)], "none open · pool of 10, through a proxy"),
        ([pool(is_proxied=True), pool()], "none open · 2 pools of 10, 1 through a proxy"),
    ],
)
def test_the_state_tells_what_is_there_now(pools: list[Pool], expected: str) -> None:
    assert block(upstream(pools=tuple(pools)))[0].partition("     ")[2] == expected


@pytest.mark.parametrize(("number", "expected"), [(1, "1 thread waits"), (1200, "1,200 threads wait")])
def test_the_state_tells_of_threads_that_wait(number: int, expected: str) -> None:
    assert block(upstream(pending_requests=number))[0].endswith(f" · {expected} for a connection")


# The lines of an upstream


def test_without_a_checkout_there_is_nothing_more_to_say() -> None:
    assert block(NOTHING)[1:] == ["  checkouts  0"]


@pytest.mark.parametrize(
    ("checkouts", "expected"),
    [
        ({"new": 1}, "checkouts 1 new 1"),
        ({"new": 300, "reused": 0}, "checkouts 300 reused 0 new 300"),
        ({"reused": 5}, "checkouts 5 reused 5"),
        (
            {"reused": 1_999_998, "timed_out": 1, "pool_closed": 1},
            "checkouts 2,000,000 reused 1,999,998 (> 99 %) timed out 1 (< 1 %) pool closed 1 (< 1 %)",
        ),
        ({"reused": 1, "of_tomorrow": 1}, "checkouts 2 reused 1 (50 %) of tomorrow 1 (50 %)"),
    ],
)
def test_checkouts_are_told_by_what_they_found(checkouts: dict[str, int], expected: str) -> None:
    assert row("checkouts", checkouts=checkouts) == expected


@pytest.mark.parametrize(
    ("checkouts", "expected"),
    [
        ({"reused": 1}, "█" * 20),
        ({"reused": 10, "new": 5, "replaced": 5}, "█" * 10 + "▓" * 5 + "░" * 5),
        ({"reused": 10_000, "new": 1, "replaced": 1}, "█" * 19 + "░"),
        ({"timed_out": 5}, ""),
    ],
)
def test_the_bar_shows_every_dead_connection(checkouts: dict[str, int], expected: str) -> None:
    line = page(snapshot(upstream(checkouts=checkouts)))[HEAD_LINES]
    assert "".join(each for each in line if each in "█▓░") == expected
    assert len(line) == (100 if expected else len("https://api.example.com:443     all closed"))


@pytest.mark.parametrize(
    ("drops", "expected"),
    [
        ({"fin": {"checkout": 0, "request": 0}}, ""),
        ({"fin": {"checkout": 1}}, "dropped 1 FIN 1"),
        ({"fin": {"checkout": 1}, "reset": {"checkout": 2}}, "dropped 3 RST 2 · FIN 1"),
        ({"reset": {"request": 1}}, "dropped 1 1 lost race"),
        ({"fin": {"request": 2}, "reset": {"request": 1}}, "dropped 3 3 lost races"),
        (
            {each: {"checkout": 1} for each in ("timed_out", "close_notify", "unexpected_data", "unknown")},
            "dropped 4 timed out 1 · TLS close_notify 1 · unexpected data 1 · unknown how 1",
        ),
    ],
)
def test_drops_are_told_by_how_the_connection_was_ended(drops: dict[str, dict[str, int]], expected: str) -> None:
    assert row("dropped", drops=drops) == expected


@pytest.mark.parametrize(
    ("idle", "expected"),
    [
        ({}, "3 lost races"),  # of adopted connections it is not known
        ({"fin": durations(5)}, "3 lost races after 5.00 s idle"),
        ({"fin": durations(5, ends=0.02), "reset": durations(0.004)}, "3 lost races after 4.00 ms – 5.02 s idle"),
    ],
)
def test_lost_races_are_told_with_their_idle_times(idle: dict[str, Durations], expected: str) -> None:
    told = row("dropped", drops={"fin": {"checkout": 7, "request": 3}}, lost_race_idle_seconds=idle)
    assert told == f"dropped 10 FIN 7 · {expected}"


@pytest.mark.parametrize(
    ("idle", "expected"),
    [
        ({"reused": durations(1, 9)}, ""),
        ({"replaced": durations(350)}, "idle 350 s when found dead"),
        (
            {"replaced": durations(6.1, 2), "reused": durations(0.02)},
            "idle median 6.1 s when found dead (p95 6.1 s), 20 ms when reused",
        ),
    ],
)
def test_idle_times_are_told_where_connections_died_of_them(idle: dict[str, Durations], expected: str) -> None:
    assert row("idle", idle_seconds=idle) == expected


@pytest.mark.parametrize(
    ("ages", "expected"),
    [
        (None, ""),
        (durations(65), "closed by the server after 65.0 s idle (1 seen)"),
        (durations(60, 1200, ends=0.5), "closed by the server after 60.0 s idle (1,200 seen, 59.5 – 60.5 s)"),
        (durations(1, 9, ends=0.04), "closed by the server after 1.00 s idle (9 seen, 960 ms – 1.04 s)"),
        (durations(5, 9, ends=0.5), "closed by the server after 5.00 s idle (9 seen, 4.50 – 5.50 s)"),
        (durations(30, 9, ends=29), "closed by the server after 1.00 – 59.0 s idle, median 30 s (9 seen)"),
    ],
)
def test_the_servers_limit_is_told_where_idle_ages_cluster(ages: Durations | None, expected: str) -> None:
    assert row("closed by", remote_close_seconds=ages) == expected


@pytest.mark.parametrize(
    ("causes", "expected"),
    [
        ({}, ""),
        ({"new": durations(0.04, 3)}, ""),  # as many as were in use at once
        ({"new": durations(0.04, 4)}, "set-up median 40 ms: 160 ms spent connecting 4 times"),
        ({"new": durations(0.04, 9), "replaced": durations(1)}, "set-up 1.0 s, once, to reconnect"),
        (
            {"replaced": durations(1), "lost_race": durations(2, 2)},
            "set-up median 2.0 s: 5.0 s spent reconnecting",
        ),
    ],
)
def test_set_ups_are_told_where_they_could_be_spared(causes: dict[str, Durations], expected: str) -> None:
    assert row("set-up", setup_seconds=causes, active_peak=3) == expected


@pytest.mark.parametrize(
    ("phases", "expected"),
    [
        ({"tls": 0.03, "proxy": 0.02, "connect": 0.001}, "(connect 1, proxy 20, tls 30)"),
        ({"dns": 0.0002, "connect": 0.03}, "(dns 200 µs, connect 30 ms)"),
        ({"of tomorrow": 0.03}, "(of tomorrow 30)"),
    ],
)
def test_the_parts_of_a_set_up_share_its_unit_where_they_can(phases: dict[str, float], expected: str) -> None:
    found = {phase: durations(median) for phase, median in phases.items()}
    told = row("set-up", setup_seconds={"replaced": durations(0.05)}, setup_phase_seconds=found)
    assert told == f"set-up 50 ms {expected}, once, to reconnect"


def test_failures_to_connect_are_told_by_the_errors_type_without_its_module() -> None:
    failed = {"OSError": durations(1), "socket.gaierror": durations(2, 2)}
    assert row("failed", failed_setup_seconds=failed) == "failed 3 set-ups, 5.0 s spent: gaierror 2, OSError 1"
    assert row("failed", failed_setup_seconds={"a.B": durations(3)}) == "failed 1 set-up, 3.0 s spent: B 1"


@pytest.mark.parametrize(
    ("served", "failed", "expected"),
    [
        (durations(0.000_001, 500), None, ""),
        (durations(0.02), None, "waits 20 ms"),
        (durations(0.02, 5, ends=0.01), None, "waits median 20 ms, p95 30 ms, longest 30 ms"),
        (None, durations(5, 3), "waits 3 gave up after 5.0 s"),
        (durations(0.02), durations(3, 2, ends=1), "waits 20 ms · 2 gave up after 2.0 – 4.0 s"),
    ],
)
def test_waits_are_told_where_they_can_be_noticed(served: Durations, failed: Durations, expected: str) -> None:
    assert row("waits", wait_seconds=served, failed_wait_seconds=failed) == expected


def test_connections_that_were_not_kept_are_told_by_why() -> None:
    closed = {"response_close": 1, "discarded": 9, "failed": 3, "abandoned": 2, "pool_closed": 7, "dropped": 5}
    expected = "15 pool was full 9 · request failed 3 · response not read 2 · Connection: close 1"
    assert row("not kept", closed_connections=closed) == f"not kept {expected}"
    assert row("not kept", closed_connections={"pool_closed": 7, "dropped": 5}) == ""


def test_leaks_are_told() -> None:
    assert row("leaked", leaked_connections=3) == "leaked 3 checked out, and never came back"


@pytest.mark.parametrize(
    ("created", "live", "expected"),
    [
        (1, 0, ""),
        (2, 2, ""),
        (300, 0, "pools 300 created, none of them alive"),
        (3, 1, "pools 3 created, 1 of them alive"),
    ],
)
def test_pools_are_told_of_where_they_were_thrown_away(created: int, live: int, expected: str) -> None:
    assert row("pools", pools_created=created, pools=(pool(),) * live) == expected


@pytest.mark.parametrize(
    ("inherited", "expected"),
    [
        (0, "adopted 3 opened while not watched"),
        (3, "adopted 3 opened while not watched, by a process that forked this one"),
        (1, "adopted 3 opened while not watched, 1 of them by a process that forked this one"),
    ],
)
def test_adopted_connections_are_told_of_and_whose_they_are(inherited: int, expected: str) -> None:
    assert row("adopted", adopted_connections=3, inherited_connections=inherited) == expected


# Figures


@pytest.mark.parametrize(
    ("seconds", "two", "three"),
    [
        (0.0, "0 s", "0 s"),
        (-1.0, "0 s", "0 s"),
        (5e-10, "< 1 µs", "< 1 µs"),
        (1e-6, "1.0 µs", "1.00 µs"),
        (0.000_999_6, "1.0 ms", "1.00 ms"),
        (0.009_96, "10 ms", "9.96 ms"),
        (0.131, "131 ms", "131 ms"),
        (5.0, "5.0 s", "5.00 s"),
        (350.4, "350 s", "350 s"),
        (599.9, "10 min", "10.0 min"),
        (8040.0, "2.2 h", "2.23 h"),
        (172_800.0, "2.0 days", "2.00 days"),
        (1e9, "11,574 days", "11,574 days"),
        (math.inf, "? s", "? s"),
        (math.nan, "? s", "? s"),
    ],
)
def test_a_duration_has_a_few_figures_and_the_unit_that_suits_it(seconds: float, two: str, three: str) -> None:
    assert (duration(seconds).replace("\xa0", " "), duration(seconds, 3).replace("\xa0", " ")) == (two, three)


@pytest.mark.parametrize(
    ("part", "whole", "expected"),
    [(0, 9, "0 %"), (1, 1000, "< 1 %"), (1, 3, "33 %"), (999, 1000, "> 99 %"), (9, 9, "100 %")],
)
def test_a_share_is_never_rounded_to_nothing_or_to_all(part: int, whole: int, expected: str) -> None:
    assert share(part, whole).replace("\xa0", " ") == expected


# Any snapshot, any width

COUNTS = st.integers(0, 10**12)
SECONDS = st.floats(0, 1e12) | st.sampled_from([math.inf, math.nan])  # JSON can hold those as well
WORDS = st.text(max_size=60)
STATES = st.sampled_from([None, "established", "close_wait"]) | WORDS
NAMES = st.sampled_from(["reused", "new", "replaced", "lost_race", "fin", "discarded", "tls", "dns"]) | WORDS
DURATIONS = st.builds(
    lambda count, total, ascending: Durations(count, total, *sorted(ascending)),
    COUNTS,
    SECONDS,
    st.lists(SECONDS, min_size=8, max_size=8),
)
CONNECTIONS = st.lists(st.builds(connection, st.sampled_from(["idle", "active"]), STATES), max_size=3)
POOLS = st.builds(Pool, st.integers(-1, 10**6), st.booleans(), st.booleans(), CONNECTIONS.map(tuple))
BY_TYPE: dict[Any, st.SearchStrategy[Any]] = {
    "str": st.sampled_from(["http", "::1", "_OTHER", "a" * 63 + ".example"]) | WORDS,
    "int | None": st.none() | st.integers(1, 65535),
    "int": COUNTS,
    "float": SECONDS,
    "tuple[Pool, ...]": st.lists(POOLS, max_size=3).map(tuple),
    "dict[str, int]": st.dictionaries(NAMES, COUNTS, max_size=3),
    "dict[str, dict[str, int]]": st.dictionaries(
        NAMES, st.dictionaries(st.sampled_from(["checkout", "request"]), COUNTS), max_size=3
    ),
    "dict[str, Durations]": st.dictionaries(NAMES, DURATIONS, max_size=3),
    "Durations | None": st.none() | DURATIONS,
}
UPSTREAMS = st.builds(UpstreamSnapshot, **{each.name: BY_TYPE[each.type] for each in fields(UpstreamSnapshot)})


@st.composite
def any_page(draw: st.DrawFn) -> tuple[Snapshot, list[Finding]]:
    upstreams = draw(st.lists(UPSTREAMS, max_size=3))
    found = snapshot(
        *upstreams * draw(st.sampled_from([1, 1, 8])),
        watched_seconds=draw(SECONDS),
        is_installed=draw(st.booleans()),
        taken_at=draw(WORDS),
    )
    names = st.sampled_from([*(each.name for each in upstreams), "http://gone:80"])
    texts = st.text(max_size=150)
    any_finding = st.builds(
        Finding, st.just("name"), st.sampled_from(Severity), names, texts, st.just({}), st.lists(texts).map(tuple)
    )
    return found, draw(st.lists(any_finding, max_size=3))


@given(any_page(), st.integers(40, 200), st.booleans())
def test_every_page_fits_its_width_and_does_nothing_to_a_terminal_but_colour(
    found: tuple[Snapshot, list[Finding]], width: int, is_ascii: bool
) -> None:
    plain = render(*found, width=width, is_coloured=False, is_ascii=is_ascii)
    coloured = render(*found, width=width, is_coloured=True, is_ascii=is_ascii)
    assert ESCAPE.sub("", coloured) == plain
    assert plain.isascii() or not is_ascii
    lines = plain.split("\n")
    assert lines.pop() == ""
    for line in lines:
        assert line.isprintable()
        assert len(line) <= width
        assert line == line.rstrip()


# Where it is printed


@pytest.fixture(autouse=True)
def _ordinary_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "COLORTERM", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


@contextlib.contextmanager
def terminal(columns: int) -> Iterator[tuple[TextIO, int]]:
    """A file that is a pseudo-terminal, and the descriptor from which to read what was written."""
    ours, theirs = os.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        with os.fdopen(theirs, "w", encoding="utf-8") as file:
            yield file, ours
    finally:
        os.close(ours)


def shown_on_terminal(found: Snapshot, columns: int) -> str:
    with terminal(columns) as (file, ours):
        show(found, [], file)
        file.flush()
        return os.read(ours, 100_000).decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [80, 120])
def test_a_terminal_gets_colour_and_as_many_columns_as_it_has(columns: int) -> None:
    text = shown_on_terminal(snapshot(REUSED), columns)
    assert text == render(snapshot(REUSED), [], width=columns, is_coloured=True)
    assert "\x1b[32mreused 12,040 (> 99 %)\x1b[0m" in text


def test_a_terminal_that_does_not_know_its_columns_gets_80() -> None:
    assert shown_on_terminal(snapshot(REUSED), 0) == render(snapshot(REUSED), [], width=80, is_coloured=True)


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_gets_no_colour_where_the_environment_says_so(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    assert shown_on_terminal(snapshot(REUSED), 80) == ALL_IS_WELL_AT_80


def test_without_rich_a_terminal_gets_plain_text(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [each for each in sys.modules if each.partition(".")[0] == "rich"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "rich", None)
    assert shown_on_terminal(snapshot(REUSED), 80) == ALL_IS_WELL_AT_80
    assert render(snapshot(REUSED), [], width=80, is_coloured=True) == ALL_IS_WELL_AT_80


def test_a_pipe_gets_plain_text_of_100_columns(tmp_path: Any) -> None:
    path = tmp_path / "page"
    with path.open("w", encoding="utf-8") as file:
        show(snapshot(DROPS_AT_5_S), [TOO_SHORT], file)
    expected = render(snapshot(DROPS_AT_5_S), [TOO_SHORT], width=100, is_coloured=False)
    assert path.read_text(encoding="utf-8") == expected


def test_a_pipe_gets_colour_where_the_environment_forces_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    file = io.StringIO()
    show(snapshot(REUSED), [], file)
    assert file.getvalue() == render(snapshot(REUSED), [], width=100, is_coloured=True)


@pytest.mark.parametrize("errors", ["strict", "backslashreplace"])
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_a_file_that_cannot_hold_the_marks_gets_ascii(encoding: str, errors: str) -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding, errors, newline="\n", write_through=True)
    show(snapshot(DROPS_AT_5_S), [TOO_SHORT], file)
    expected = render(snapshot(DROPS_AT_5_S), [TOO_SHORT], width=100, is_coloured=False, is_ascii=True)
    assert raw.getvalue().decode("ascii") == expected


class AsciiOnly:
    """A file of the simplest kind, which does not tell that it takes ASCII only."""

    def __init__(self) -> None:
        self.written = ""

    def write(self, text: str) -> None:
        text.encode("ascii")
        self.written += text


def test_a_file_that_only_writes_gets_what_it_can_hold() -> None:
    file: Any = AsciiOnly()
    show(snapshot(REUSED), [], file)
    assert file.written == render(snapshot(REUSED), [], width=100, is_coloured=False, is_ascii=True)


def test_a_closed_file_gets_nothing() -> None:
    file = io.StringIO()
    file.close()
    show(snapshot(REUSED), [], file)


def test_a_pipe_that_nobody_reads_breaks_as_it_does_in_python() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    file = os.fdopen(writing, "w", buffering=1, encoding="utf-8")
    with pytest.raises(BrokenPipeError):
        show(snapshot(REUSED), [], file)
    with contextlib.suppress(BrokenPipeError):
        file.close()


def test_what_several_findings_advise_in_the_same_words_is_said_once() -> None:
    of = upstream()
    advice = [f"{RETRY}.", "Something else.", f"A request may fail. {RETRY}"]
    findings = [finding(of, Severity.HIGH, "It is bad.", each) for each in advice]
    plain = " ".join(" ".join(page(snapshot(of), *findings)).split())
    assert plain.count(RETRY) == 1
    assert plain.index(RETRY) < plain.index("Something else.") < plain.index(f"A request may fail. {RETRY_AGAIN}.")
