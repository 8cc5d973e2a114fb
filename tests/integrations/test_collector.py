"""Metrics as a real OpenTelemetry Collector takes them and hands them on, against the books of the upstream."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from misbehaving import Server
from tests import programs
from tests.integrations.collector import Collector, collecting
from tests.integrations.otlp import Point, Receiver
from tests.integrations.scraping import find_program
from tests.integrations.services import AT_EXIT, CHECKOUTS, DROPPED, SETUP
from tests.programs import ROOT

DROPS = "urllib3.pool.dropped_connections"
OPENED, CLOSED = "urllib3.pool.opened_connections", "urllib3.pool.closed_connections"
IDLE, SETUP_TIME = "urllib3.connection.idle.duration", "urllib3.connection.setup.duration"
OPEN = "http.client.open_connections"
OUTCOME = "urllib3.pool.checkout.outcome"
# The standard variable, and how counters and histograms then arrive.
TEMPORALITIES = {"": "cumulative", "delta": "delta"}

# Three collections: before the first drop, after it, and after the second.
PROGRAM = """
import os, requests
import pool_telemetry
from tests.live.wire import pooled, wait_for_peer

pool_telemetry.install({arguments})

def wait_for_drop():
    (pool,) = session.get_adapter(url).poolmanager.pools._container.values()
    (conn,) = pooled(pool)
    wait_for_peer(conn.sock)

url = os.environ["UPSTREAM"]
with requests.Session() as session:
    for path in ("/ok", "/ok", "/fin/0.05"):
        session.get(url + path)
    {flush}
    for path in ("/fin/0.05", "/ok"):
        wait_for_drop()
        session.get(url + path)
        {flush}
"""


@pytest.fixture
def collector(receiver: Receiver, tmp_path: Path) -> Iterator[Collector]:
    with collecting(receiver.port, tmp_path) as running:
        yield running


def variables(collector: Collector, server: Server, temporality: str) -> dict[str, str]:
    return {
        "UPSTREAM": server.url,
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.otlp,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE": temporality,
        **AT_EXIT,
    }


class Told:
    """The series of one program, by metric and attributes, each with its points in the order of their arrival."""

    def __init__(self, receiver: Receiver) -> None:
        self.series: dict[str, dict[tuple[Any, ...], list[Point]]] = {}
        for point in (point for collection in receiver.collections for point in collection):
            key = tuple(sorted(point.attributes.items()))
            self.series.setdefault(point.name, {}).setdefault(key, []).append(point)

    def points(self, name: str) -> list[Point]:
        return [point for points in self.series[name].values() for point in points]

    def totals(self, name: str, attribute: str = "server.port") -> Counter[Any]:
        """What a counter has counted, or how many samples a histogram holds, by an attribute."""
        totals: Counter[Any] = Counter()
        for points in self.series[name].values():
            value = sum(each.value for each in points) if points[0].temporality == "delta" else points[-1].value
            totals[points[0].attributes[attribute]] += int(value)
        return totals


def on_page(page: str, name: str, attribute: str = "server_port") -> Counter[str]:
    """What Prometheus would find under a name, summed by a label."""
    totals: Counter[str] = Counter()
    for labels, value in re.findall(rf"^{name}{{(.*?)}} (\S+)", page, re.MULTILINE):
        totals[dict(re.findall(r'(\w+)="(.*?)"', labels))[attribute]] += int(float(value))
    return totals


@pytest.mark.parametrize("temporality", TEMPORALITIES)
def test_totals_are_the_upstreams_from_0_on_in_either_temporality_and_on_the_collectors_page_for_prometheus(
    temporality: str, collector: Collector, receiver: Receiver, server: Server
) -> None:
    program = PROGRAM.format(arguments="export=True", flush="pool_telemetry.flush()")
    programs.run(program, (), **variables(collector, server, temporality))
    told, books = Told(receiver), server.books
    port = server.port
    assert (books.requests, books.accepted, books.ended["fin"]) == (5, 3, 2)
    assert +told.totals(CHECKOUTS, OUTCOME) == {"new": 1, "reused": 2, "replaced": 2}
    assert told.totals(DROPS) == {port: books.ended["fin"]}
    assert told.totals(OPENED) == told.totals(SETUP_TIME) == {port: books.accepted}
    assert told.totals(CLOSED) == {port: books.accepted}  # the session is closed by then
    assert told.totals(IDLE, OUTCOME) == {"reused": 2, "replaced": 2}
    counts = [point for name in (CHECKOUTS, DROPS, IDLE, SETUP_TIME) for point in told.points(name)]
    assert {point.temporality for point in counts} == {TEMPORALITIES[temporality]}
    # A level is what it is.
    assert {point.temporality for point in told.points(OPEN)} == {"cumulative"}
    assert sum(points[-1].value for points in told.series[OPEN].values()) == 0
    assert max(point.value for point in told.points(OPEN)) == 1
    check_beginnings(told, is_delta=temporality == "delta")

    page = collector.page()
    outcomes = on_page(page, "urllib3_pool_checkouts_total", "urllib3_pool_checkout_outcome")
    assert +outcomes == {"new": 1, "reused": 2, "replaced": 2}
    assert on_page(page, "urllib3_pool_dropped_connections_total") == {str(port): books.ended["fin"]}
    assert on_page(page, "urllib3_connection_setup_duration_seconds_count") == {str(port): books.accepted}


def check_beginnings(told: Told, *, is_delta: bool) -> None:
    """Each counter is there, with 0, before the first of what it counts; and no time is left out between its points."""
    # Four points: one at the end of the program as well, after the session has been closed.
    assert {len(points) for name in (CHECKOUTS, DROPS, CLOSED) for points in told.series[name].values()} == {4}
    values = {
        tuple(point.value for point in points) for name in (DROPS, CLOSED) for points in told.series[name].values()
    }
    rising = {(0, 1, 1, 0), (0, 0, 0, 1)} if is_delta else {(0, 1, 2, 2), (0, 0, 0, 1)}
    assert values == {(0, 0, 0, 0)} | rising
    for name in (CHECKOUTS, DROPS, CLOSED):
        for points in told.series[name].values():
            for earlier, later in pairwise(points):
                assert later.began == (earlier.ended if is_delta else earlier.began)


def test_the_guides_expression_counts_what_a_series_begins_with_too(tmp_path: Path) -> None:
    """Of two that had 3 when they were first seen, and two that have had 7 for long; with 1 a minute, or none."""
    guide = (ROOT / "docs" / "how-to" / "collector.md").read_text(encoding="utf-8")
    (expression,) = re.findall(r"```promql\n(.*?)```", guide, re.DOTALL)
    (metric,) = set(re.findall(r"urllib3_\w+", expression))
    values = {"young": "_x30 3x5", "young, growing": "_x30 3+1x5", "old": "7x35", "old, growing": "7+1x35"}
    wanted = {"young": 3, "young, growing": 8, "old": 0, "old, growing": 15}

    def labels(upstream: str) -> str:
        return f'{{job="shop", server_address="{upstream}"}}'

    case = {
        "interval": "1m",
        "input_series": [{"series": metric + labels(name), "values": given} for name, given in values.items()],
        "promql_expr_test": [
            {
                "expr": expression,
                "eval_time": "36m",
                "exp_samples": [{"labels": labels(name), "value": value} for name, value in wanted.items()],
            }
        ],
    }
    (tmp_path / "tests.yml").write_text(json.dumps({"tests": [case]}))  # JSON is YAML
    promtool = [find_program("promtool"), "test", "rules", "tests.yml"]
    told = subprocess.run(promtool, cwd=tmp_path, capture_output=True, text=True)
    assert told.returncode == 0, told.stdout + told.stderr


@pytest.mark.parametrize("temporality", TEMPORALITIES)
def test_the_exemplar_of_what_a_drop_has_cost_leads_to_the_request_that_paid(
    temporality: str, collector: Collector, receiver: Receiver, server: Server
) -> None:
    instrument = str(Path(sys.executable).with_name("opentelemetry-instrument"))
    given = {**variables(collector, server, temporality), "OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "urllib3"}
    # The last at Python's exit: the page has the exemplars of the last collection.
    flush = "path == '/ok' or metrics.get_meter_provider().force_flush()"
    program = "from opentelemetry import metrics\n" + PROGRAM.format(arguments="", flush=flush)
    outcome = subprocess.run(
        [instrument, sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        env=programs.environment((), OTEL_METRICS_EXPORTER="otlp", OTEL_TRACES_EXPORTER="otlp", **given),
    )
    assert outcome.returncode == 0, outcome.stderr
    told = Told(receiver)
    requests = {(span.trace_id, span.span_id) for span in receiver.spans if span.name == "GET"}
    payers = {(span.trace_id, span.parent_id) for span in receiver.spans if span.name.startswith(DROPPED)}
    everybody = {(span.trace_id, span.parent_id) for span in receiver.spans if span.name.startswith(SETUP)}
    assert len(payers) == server.books.ended["fin"] == 2
    assert len(requests) == server.books.requests == 5
    assert payers < everybody <= requests

    def led_to(name: str, attribute: str, value: str) -> set[tuple[bytes, bytes]]:
        points = [point for point in told.points(name) if point.attributes[attribute] == value]
        return {exemplar for point in points for exemplar in point.exemplars}

    # The SDK keeps one for each bucket and collection, and each drop has a collection to itself.
    assert led_to(IDLE, OUTCOME, "replaced") == payers
    assert led_to(SETUP_TIME, "urllib3.connection.setup.cause", "replaced") == payers
    (new,) = led_to(SETUP_TIME, "urllib3.connection.setup.cause", "new")
    assert new in everybody - payers
    page = collector.page()
    on_page = {line.partition(" # ")[2] for line in page.splitlines() if "setup_duration" in line and " # " in line}
    is_on_page = any(f'trace_id="{trace.hex()}"' in exemplar for exemplar in on_page for trace, _ in payers)
    assert is_on_page == (TEMPORALITIES[temporality] == "cumulative")  # where it adds up it keeps none
