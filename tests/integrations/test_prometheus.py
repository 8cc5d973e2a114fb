"""What a real Prometheus has of a fleet: equal to what the processes know, and something for each panel and rule."""

from __future__ import annotations

import contextlib
import math
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from misbehaving import ServerProcess
from pool_telemetry import Snapshot
from pool_telemetry._snapshot import Durations, UpstreamSnapshot
from prometheus import dashboard, promql
from prometheus.panels import ROWS, Panel
from tests.integrations import scraping
from tests.integrations.collector import collecting
from tests.integrations.figures import Figures
from tests.integrations.otlp import Receiver
from tests.integrations.scraping import JOB, Process, Prometheus, Sample, Vector, key_of, wait_until
from tests.live.wire import CLOCKS_AGREE_WITHIN
from tests.programs import ROOT

# The first of them waits for the fleet, and for Prometheus to see all of it.
pytestmark = pytest.mark.timeout(300)

PANELS = [(title, panel) for title, lines in ROWS.items() for line in lines for panel in line]
CHECKOUTS, DROPPED, CLOSED = promql.CHECKOUTS, promql.DROPPED, promql.CLOSED
AGE, PENDING = "urllib3_pool_close_wait_age_seconds", "urllib3_pool_pending_requests"
SERVER, PROCESS = promql.SERVER, promql.PROCESS


def ratio(of: Vector, to: Vector) -> Vector:
    """Element by element, where both are."""
    return {key: value / to[key] for key, value in of.items() if to.get(key)}


@dataclass(frozen=True)
class Seen:
    """A moment at which Prometheus has all of the story, and what the processes knew before and after it."""

    prometheus: Prometheus
    at: float
    figures: Figures
    before: dict[str, Snapshot]
    after: dict[str, Snapshot]

    def asked(self, expression: str) -> list[Sample]:
        """What a query of the dashboard gives at that moment, for all of the fleet."""
        for variable in dashboard.VARIABLES:
            expression = expression.replace(f"${variable}", ".*")
        expression = re.sub(r"\$__(rate_interval|range)", scraping.WINDOW, expression)
        assert "$" not in expression
        return self.prometheus.query(expression, self.at)

    def vector(self, expression: str) -> Vector:
        """The same, without what is 0 or no number: a series that a snapshot does not have is 0."""
        samples = self.asked(expression)
        return {
            frozenset((name, value) for name, value in labels.items() if name != "__name__"): value
            for labels, value in samples
            if value and not math.isnan(value)
        }


@contextlib.contextmanager
def observed(prometheus: Prometheus, fleet: dict[str, dict[str, str]], *, is_sent: bool) -> Iterator[Seen]:
    """Processes live through the story, and Prometheus has it.

    Args:
        fleet: the environment of each process, by its instance.
        is_sent: whether they send what they know, or are scraped.
    """
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(ServerProcess())
        processes = {
            instance: stack.enter_context(Process(upstream.url, **variables)) for instance, variables in fleet.items()
        }

        def told(word: str) -> dict[str, Snapshot]:
            return {instance: process.told(word) for instance, process in processes.items()}

        def has(snapshots: dict[str, Snapshot], pending: int, at: float) -> bool:
            """Whether Prometheus has what the processes knew then."""
            wanted = Figures(snapshots).by(CHECKOUTS, "instance")
            waiting = dict.fromkeys(wanted, pending)
            return prometheus.sums(CHECKOUTS, at) == wanted and prometheus.sums(PENDING, at) == waiting

        def wait_for_scrapes(since: float) -> None:
            """Of all targets, if there are any, that have begun since."""
            scrapes = "timestamp(up)"
            wait_until(lambda: all(up.value > since for up in prometheus.query(scrapes)), "the next scrapes are over")

        # Twice, for a histogram has no series before its first sample: only what comes then is seen to be more.
        played = told("play")
        wait_until(lambda: has(played, 0, time.time()), "Prometheus has the first round")
        told("play")
        before = told("hold")
        if is_sent:
            told("flush")
        wait_for_scrapes(time.time())  # one that began before may have found a part of it, on a Collector's page
        moments: list[float] = []

        def is_seen() -> bool:
            moments.append(time.time())
            if not has(before, 1, moments[-1]):
                return False
            # On a busy machine one may fail that had begun by then, and is entered at the time of its beginning.
            wait_for_scrapes(moments[-1])
            return has(before, 1, moments[-1])

        wait_until(is_seen, "Prometheus has all of the story")
        yield Seen(prometheus, moments[-1], Figures(before), before, told("tell"))


INSTANCES = ("first", "second")


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    scraping.need_exporter()
    with (
        scraping.free_ports(2) as ports,
        scraping.running(tmp_path_factory.mktemp("prometheus"), scraping.targets(ports)) as prometheus,
        observed(prometheus, {f"localhost:{port}": scraping.scraped(port) for port in ports}, is_sent=False) as found,
    ):
        yield found


def check_series(seen: Seen) -> None:
    """Every series is what the process knows, and there is no other."""
    found = seen.prometheus.query('{__name__=~"urllib3_.+|http_client_.+", __name__!~".+_bucket"}', seen.at)
    assert {sample.labels["__name__"] for sample in found} == set(seen.figures.samples) | {AGE}
    for name, samples in seen.figures.samples.items():
        labels = ", ".join(sorted({label for sample in samples for label in sample.labels}))
        failed = 'error_type=""' if "phase_duration" in name else ""
        wanted = {key: value for key, value in seen.figures.by(name, labels).items() if value}
        assert seen.vector(f"sum by ({labels}) ({name}{{{failed}}})") == pytest.approx(wanted, rel=1e-9), name


def test_every_series_is_what_the_process_knows(seen: Seen) -> None:
    check_series(seen)


def test_the_age_of_the_oldest_dead_socket_lies_between_what_was_known_before_and_after(seen: Seen) -> None:
    ((_, panel),) = (each for each in PANELS if each[1].title == "The oldest of them")
    (query,) = panel.queries.values()
    ages = {labels["instance"]: age for labels, age in seen.asked(query) if age}  # of the upstream that has any
    assert set(ages) == set(seen.before)

    def oldest(snapshot: Snapshot) -> float:
        connections = [each for upstream in snapshot.upstreams for each in upstream.connections]
        return max(each.close_wait_seconds or 0 for each in connections if each.state == "idle")

    for instance, age in ages.items():
        slack = CLOCKS_AGREE_WITHIN
        assert 0 < oldest(seen.before[instance]) - slack <= age <= oldest(seen.after[instance]) + slack


def test_a_service_is_a_job_and_its_processes_are_instances(seen: Seen) -> None:
    instances = [sample.labels["instance"] for sample in seen.asked("group by (job, instance) (urllib3_pool_count)")]
    assert sorted(instances) == sorted(seen.before)
    for name, (label, matchers, _) in dashboard.VARIABLES.items():
        for variable in dashboard.VARIABLES:
            matchers = matchers.replace(f"${variable}", ".*")
        selector = f"urllib3_pool_checkouts_total{{{matchers}}}"
        listed = seen.prometheus.ask(f"label/{label}/values", **{"match[]": selector})
        expected = {"service": [JOB], "instance": sorted(seen.before), "upstream": ["127.0.0.1"]}
        assert sorted(listed) == expected[name]


REUSED, GOT = ("reused",), ("reused", "new", "replaced")
Expected = Callable[[Figures], Vector]


def over_all(expression: str) -> str:
    """The same question about all that was counted, instead of what was counted lately."""
    return re.sub(r"(?:rate|increase)\(([^[]+)\[[^]]+\]\)", r"\1", expression)


def mean(name: str, by: str, **where: Any) -> Expected:
    return lambda figures: ratio(figures.by(f"{name}_sum", by, **where), figures.by(f"{name}_count", by, **where))


def figure(name: str, by: str, **where: Any) -> Expected:
    return lambda figures: figures.by(name, by, **where)


def most(name: str) -> Expected:
    return figure(name, PROCESS)  # one series for each process and upstream


def share(of: Expected, to: Expected) -> Expected:
    return lambda figures: ratio(of(figures), to(figures))


def checkouts(by: str, *outcomes: str) -> Expected:
    return figure(CHECKOUTS, by, **{promql.OUTCOME: outcomes})


def not_reused(figures: Figures) -> Vector:
    return {key: 1 - value for key, value in share(checkouts("", *REUSED), checkouts("", *GOT))(figures).items()}


def reconnecting(by: str) -> Expected:
    return figure(f"{promql.SETUP}_sum", by, **{promql.CAUSE: ("replaced", "lost_race")})


def parked(by: str) -> Expected:
    return figure("urllib3_pool_socket_count", by, **{promql.STATE: ("idle",), promql.TCP_STATE: ("close_wait",)})


def drops(by: str, phase: str) -> Expected:
    return figure(DROPPED, by, **{promql.PHASE: (phase,)})


def closes(reason: str) -> Expected:
    return figure(CLOSED, SERVER, **{promql.CLOSE: (reason,)})


# Of each panel, over all that was counted. Of estimates and ages there is no exact figure, and they have tests of their
# own: ``None``.
TOTALS: dict[tuple[str, str], list[Expected | None]] = {
    ("A", "Checkouts that had to connect"): [not_reused],
    ("A", "Spent on reconnecting"): [reconnecting("")],
    ("A", "Sockets in CLOSE_WAIT"): [parked("")],
    ("A", "Lost races"): [drops("", "request")],
    ("A", "Leaked connections"): [figure("urllib3_pool_leaked_connections_total", "")],
    ("A", "Threads that wait"): [figure("urllib3_pool_pending_requests", "")],
    ("1", "Discarded connections"): [closes("discarded")],
    ("1", "Most connections in use at once"): [most("urllib3_pool_active_peak")],
    ("1", "Size of the pools"): [figure("urllib3_pool_size", PROCESS)],
    ("2", "Dropped connections found at a checkout"): [drops(f"{SERVER}, {promql.DROP}", "checkout")],
    ("2", "Lost races"): [drops(f"{SERVER}, {promql.DROP}", "request")],
    ("2", "Share of reused connections that lost the race"): [
        share(drops(SERVER, "request"), checkouts(SERVER, *REUSED))
    ],
    ("2", "Idle time of connections when they are taken"): [mean(promql.IDLE, f"{SERVER}, {promql.OUTCOME}")],
    ("2", "Gaps between requests, p95"): [None],
    ("3", "Sockets in CLOSE_WAIT"): [parked(PROCESS)],
    ("3", "The oldest of them"): [None],
    ("3", "All sockets, by TCP state"): [figure("urllib3_pool_socket_count", f"{promql.STATE}, {promql.TCP_STATE}")],
    ("4", "Checkouts"): [figure(CHECKOUTS, promql.OUTCOME)],
    ("4", "Share that is reused"): [share(checkouts(SERVER, *REUSED), checkouts(SERVER, *GOT))],
    ("4", "Closed connections"): [figure(CLOSED, promql.CLOSE)],
    ("4", "Pools made"): [figure("urllib3_pool_creations_total", SERVER)],
    ("4", "Requests of a connection"): [mean("urllib3_connection_requests", SERVER)],
    ("5", "Leaked connections"): [figure("urllib3_pool_leaked_connections_total", PROCESS)],
    ("5", "Responses that were not read to their end"): [closes("abandoned")],
    ("6", "Wait for a connection"): [mean(promql.WAIT, SERVER, error_type=("",))],
    ("6", "Wait for a connection, p95"): [None],
    ("6", "Threads that wait"): [figure("urllib3_pool_pending_requests", PROCESS)],
    ("6", "Checkouts that timed out"): [checkouts(SERVER, "timed_out")],
    ("7", "Spent on reconnecting"): [reconnecting(SERVER)],
    ("7", "Set-up of a connection"): [mean(promql.SETUP, f"{SERVER}, {promql.CAUSE}", error_type=("",))],
    ("7", "Set-up of a connection, p95"): [None],
    ("7", "Failed set-ups"): [
        figure(f"{promql.SETUP}_count", f"{SERVER}, error_type", error_type=("urllib3.exceptions.NewConnectionError",))
    ],
    ("7", "Phases of a set-up"): [
        mean("urllib3_connection_setup_phase_duration_seconds", f"{SERVER}, urllib3_connection_setup_phase")
    ],
    ("8", "Keep-alive limit, measured"): [mean(promql.REMOTE_CLOSE, SERVER)],
    ("8", "Closes that were measured"): [figure(f"{promql.REMOTE_CLOSE}_count", SERVER)],
    ("8", "Keep-alive limit and gaps between requests"): [mean(promql.REMOTE_CLOSE, SERVER), mean(promql.IDLE, SERVER)],
    ("9", "Open connections"): [figure("http_client_open_connections", f"{SERVER}, {promql.STATE}")],
    ("9", "Live pools"): [figure("urllib3_pool_count", SERVER)],
    ("9", "Closed with their pool"): [closes("pool_closed")],
    ("9", "Connections in use"): [figure("urllib3_pool_use_time_seconds_total", SERVER)],
}


def check_panel(seen: Seen, row: str, panel: Panel) -> None:
    """Each query finds something, which is what the processes know, and no two series have the same legend."""
    legends = []
    for (legend, expression), expected in zip(panel.queries.items(), TOTALS[row[0], panel.title], strict=True):
        found = seen.asked(expression)
        assert any(math.isfinite(value) and value > 0 for _, value in found), expression
        legends += [as_grafana_fills(legend, labels) for labels, _ in found]
        if expected is not None:
            wanted = {key: value for key, value in expected(seen.figures).items() if value}
            assert wanted
            assert seen.vector(over_all(expression)) == pytest.approx(wanted, rel=1e-9), expression
    assert len(set(legends)) == len(legends), legends


def as_grafana_fills(legend: str, labels: dict[str, str]) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda label: labels[label[1]], legend)


@pytest.mark.parametrize(("row", "panel"), PANELS, ids=[f"{row[0]}-{panel.title}" for row, panel in PANELS])
def test_every_query_of_the_dashboard_finds_something_and_counts_what_it_says(
    seen: Seen, row: str, panel: Panel
) -> None:
    check_panel(seen, row, panel)


ESTIMATED: dict[str, Callable[[UpstreamSnapshot], Iterable[Durations | None]]] = {
    "Gaps between requests, p95": lambda upstream: upstream.idle_seconds.values(),
    "Wait for a connection, p95": lambda upstream: [upstream.wait_seconds],
    "Set-up of a connection, p95": lambda upstream: upstream.setup_seconds.values(),
}


@pytest.mark.parametrize("title", ESTIMATED)
def test_an_estimate_lies_in_the_buckets_of_what_the_processes_measured(seen: Seen, title: str) -> None:
    ((_, panel),) = (each for each in PANELS if each[1].title == title)
    (expression,) = map(over_all, panel.queries.values())
    (bucket,) = re.findall(r"\w+_bucket", expression)
    borders = sorted(float(each.labels["le"]) for each in seen.asked(f"group by (le) ({bucket})"))
    # The p95 of all is no less than the least of its parts', and no more than the greatest.
    upstreams = [upstream for snapshot in seen.before.values() for upstream in snapshot.upstreams]
    parts = [each.p95 for upstream in upstreams for each in ESTIMATED[title](upstream) if each is not None]
    exact_to = 1.01  # as snapshots are
    below = max((border for border in borders if border < min(parts) / exact_to), default=0)
    above = min(border for border in borders if border >= max(parts) * exact_to)
    (estimate,) = seen.vector(expression).values()
    assert below <= estimate <= above


def rules(prometheus: Prometheus, kind: str = "") -> list[dict[str, Any]]:
    found = [rule for group in prometheus.ask("rules")["groups"] for rule in group["rules"]]
    return [rule for rule in found if kind in ("", rule["type"])]


def test_every_recording_rule_and_every_alert_can_be_evaluated_and_the_figures_are_there(seen: Seen) -> None:
    def are_evaluated() -> bool:
        return all(rule["health"] != "unknown" for rule in rules(seen.prometheus))

    wait_until(are_evaluated, "all rules have been evaluated")
    assert {rule["name"]: rule.get("lastError") for rule in rules(seen.prometheus) if rule["health"] != "ok"} == {}
    recording = rules(seen.prometheus, "recording")
    assert len(recording) == 8
    for rule in recording:
        found = [sample.value for sample in seen.asked(rule["query"])]
        assert any(value > 0 for value in found), rule["name"]
        wait_for(seen.prometheus, rule["name"])


@pytest.mark.parametrize("kind", ["recording", "alerting"])
def test_each_series_that_a_rule_asks_for_is_there(seen: Seen, kind: str) -> None:
    for rule in rules(seen.prometheus, kind):
        query = re.sub(r"\b(by|on) \([^)]*\)", "", rule["query"])
        selectors = re.findall(r"(?:\w+:)?urllib3_\w+(?::\w+)?(?:\{[^}]*\})?", query)
        assert selectors
        for selector in selectors:
            wait_for(seen.prometheus, selector)


def test_the_page_on_cost_counts_what_the_rules_record(seen: Seen) -> None:
    kept: Counter[frozenset[tuple[str, str]]] = Counter()
    for rule in rules(seen.prometheus, "recording"):
        kept.update(key_of(sample.labels, PROCESS) for sample in seen.asked(rule["query"]))
    page = (ROOT / "docs" / "explanation" / "fleet.md").read_text(encoding="utf-8")
    told = r"keep (\d+) series of each service and upstream, and (\d+) of each process and upstream"
    ((of_service, of_process),) = re.findall(told, page)
    assert int(of_service) == max(count for of, count in kept.items() if "instance" not in dict(of))
    assert int(of_process) == max(count for of, count in kept.items() if "instance" in dict(of))


def wait_for(prometheus: Prometheus, expression: str) -> None:
    wait_until(lambda: prometheus.query(expression), expression)


@pytest.mark.parametrize("name", ["Urllib3SlotsLeaked", "Urllib3LostRaces"])
def test_alerts_that_need_no_time_fire_of_what_went_wrong(seen: Seen, name: str) -> None:
    wait_for(seen.prometheus, f'ALERTS{{alertname="{name}", alertstate="firing"}}')


def check_sent(prometheus: Prometheus, endpoint: str) -> None:
    """What is sent there has the same names and figures as what is scraped."""
    with observed(prometheus, {each: scraping.sent(each, endpoint) for each in INSTANCES}, is_sent=True) as seen:
        check_series(seen)
        for row, panel in PANELS:
            check_panel(seen, row, panel)


def test_what_is_sent_by_otlp_has_the_same_names_and_figures(tmp_path: Path) -> None:
    program = os.environ.get("PROMETHEUS_OTLP_BIN") or scraping.find_program("prometheus")
    argument = scraping.otlp_argument(program)
    with scraping.running(tmp_path, scraping.targets([]), argument, program=program) as prometheus:
        if not prometheus.takes_otlp():
            pytest.skip("missing: a Prometheus that takes OTLP, in PROMETHEUS_OTLP_BIN (examples/prometheus/build)")
        check_sent(prometheus, prometheus.otlp)


def test_what_a_collector_hands_on_has_the_same_names_and_figures(
    receiver: Receiver, tmp_path_factory: pytest.TempPathFactory
) -> None:
    guide = (ROOT / "docs" / "how-to" / "collector.md").read_text(encoding="utf-8")
    (scrapes,) = re.findall(r"^```yaml\n(scrape_configs:\n.*?)^```$", guide, re.DOTALL | re.MULTILINE)
    with collecting(receiver.port, tmp_path_factory.mktemp("collector")) as collector:
        scrapes = scrapes.replace("localhost:8889", urlsplit(collector.prometheus).netloc)
        with scraping.running(tmp_path_factory.mktemp("prometheus"), scrapes) as prometheus:
            check_sent(prometheus, f"{collector.otlp}/v1/metrics")
