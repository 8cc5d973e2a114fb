"""``examples/prometheus``: what is committed there, held against the code, promtool, and Grafana's own types."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pool_telemetry import _semconv
from prometheus import app, dashboard, series
from prometheus.panels import ROWS
from tests.integrations.scraping import EXAMPLE, find_program, free_ports, need_exporter, wait_until
from tests.programs import INTERRUPTIBLE, ROOT, environment, needs_fork, run
from tests.support import NOT_TO_BE_HAD

FLEET = ROOT / "docs" / "explanation" / "fleet.md"


def text_of(name: str) -> str:
    return (EXAMPLE / name).read_text(encoding="utf-8")


# Rules and alerts.


def promtool(*arguments: str, folder: Path = EXAMPLE) -> subprocess.CompletedProcess[str]:
    command = [find_program("promtool"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def alerts() -> dict[str, str]:
    """The text of each alert, by its name."""
    parts = re.split(r"^ +- alert: (\w+)\n", text_of("alerts.yml"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_promtool_finds_nothing_wrong_with_configuration_and_rules() -> None:
    for arguments in (["check", "config", "prometheus.yml"], ["check", "rules", "recording.yml", "alerts.yml"]):
        done = promtool(*arguments)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout


def test_each_alert_fires_on_the_planted_case_and_is_silent_on_its_healthy_twin() -> None:
    done = promtool("test", "rules", "alerts_test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_has_a_case() -> None:
    cases = re.findall(r"alertname: (\w+)\n +exp_alerts:\n", text_of("alerts_test.yml"))
    assert set(cases) == set(alerts())


def test_alerts_that_never_fire_are_noticed(tmp_path: Path) -> None:
    for file in ("recording.yml", "alerts_test.yml"):
        shutil.copy(EXAMPLE / file, tmp_path)
    silenced, count = re.subn(r"(expr: (?:>-\n +)?)(?=\S)", r"\1vector(0) > 1 and ", text_of("alerts.yml"))
    assert count == len(alerts())
    (tmp_path / "alerts.yml").write_text(silenced, encoding="utf-8")
    done = promtool("test", "rules", "alerts_test.yml", folder=tmp_path)
    assert done.returncode == 1
    missed = set(re.findall(r"alertname: (\w+),", done.stdout + done.stderr))
    assert missed == set(alerts())


def test_each_alert_says_what_it_means_and_where_to_read_on() -> None:
    page = (ROOT / "docs" / "reference" / "findings.md").read_text(encoding="utf-8")
    findings = re.findall(r"^## (\w+)$", page, re.MULTILINE)
    for name, text in alerts().items():
        assert re.search(r"^ +summary: \".*\$labels\.job.*\"$", text, re.MULTILINE), name
        assert re.search(r"^ +description: >-\n +\S", text, re.MULTILINE), name
        (runbook,) = re.findall(r"^ +runbook_url: docs/reference/findings\.md#(\w+)$", text, re.MULTILINE)
        assert runbook in findings
        (severity,) = re.findall(r"labels: {severity: (\w+)}", text)
        assert severity in ("critical", "warning", "info")


# The dashboard.


def committed() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text_of("dashboard.json"))
    return found


def panels() -> list[dict[str, Any]]:
    return [panel for panel in committed()["panels"] if panel["type"] != "row"]


def test_the_dashboard_is_what_it_is_made_of() -> None:
    assert text_of("dashboard.json") == dashboard.render(), "make dashboard"


def test_it_has_a_row_for_each_question() -> None:
    titles = [panel["title"] for panel in committed()["panels"] if panel["type"] == "row"]
    assert [title.partition(".")[0] for title in titles] == ["At a glance", *map(str, range(1, 10))]


def test_each_question_is_answered_by_panels_of_its_row_and_each_alert_belongs_to_one() -> None:
    answers = re.findall(r"^\| (\d) \| [^|]+ \| ([^|]+) \| ([^|]*)\|$", text_of("README.md"), re.MULTILINE)
    rows = {title[0]: {panel.title for line in lines for panel in line} for title, lines in ROWS.items()}
    assert [number for number, _, _ in answers] == [title for title in rows if title != "A"]
    for number, told, _ in answers:
        named = set(re.findall(r"\*([^*]+)\*", told))
        assert named
        assert named <= rows[number]
    assert sorted(re.findall(r"`(\w+)`", "".join(told for _, _, told in answers))) == sorted(alerts())


@pytest.mark.parametrize("panel", panels(), ids=lambda panel: panel["title"])
def test_each_panel_has_a_unit_a_description_and_queries_that_heed_the_variables(panel: dict[str, Any]) -> None:
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["description"].endswith((".", "only."))
    assert panel["targets"]
    for target in panel["targets"]:
        selectors = re.findall(r"\b(?:urllib3|http_client)_\w+\{([^}]*)\}", target["expr"])
        names = re.findall(r"\b(?:urllib3_(?:pool|connection)|http_client)_\w+(?=\{)", target["expr"])
        assert len(selectors) == len(names) > 0
        for matchers in selectors:
            assert matchers.startswith('job=~"$service", instance=~"$instance", server_address=~"$upstream"')


def test_the_variables_are_those_and_each_can_be_all() -> None:
    variables = {variable["name"]: variable for variable in committed()["templating"]["list"]}
    assert list(variables) == ["datasource", "service", "instance", "upstream"]
    for name in ("service", "instance", "upstream"):
        assert variables[name]["multi"]
        assert variables[name]["includeAll"]


def test_no_panel_lies_on_another() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in committed()["panels"]:
        place = panel["gridPos"]
        columns, rows = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        cells = {(x, y) for x in columns for y in rows}
        assert not cells & taken, panel["title"]
        assert max(columns) < dashboard.COLUMNS
        taken |= cells
    ids = [panel["id"] for panel in committed()["panels"]]
    assert len(set(ids)) == len(ids)


needs_grafana = pytest.mark.skipif(
    sys.version_info < (3, 11), reason=f"{NOT_TO_BE_HAD}: Grafana's types of dashboards, for Python 3.10"
)


def lost(mine: Any, theirs: Any, where: str = "") -> Iterator[str]:
    """What of mine is not in theirs, or is another there."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for key, value in mine.items():
            yield from lost(value, theirs[key], f"{where}.{key}") if key in theirs else [f"{where}.{key}"]
    elif isinstance(mine, list) and isinstance(theirs, list) and len(mine) == len(theirs):
        for number, (one, other) in enumerate(zip(mine, theirs, strict=True)):
            yield from lost(one, other, f"{where}[{number}]")
    elif mine != theirs:
        yield where


def as_grafana_reads_it(text: dict[str, Any]) -> Any:
    """The dashboard, in and out of Grafana's own types, which know no other fields than theirs."""
    sdk = pytest.importorskip("grafana_foundation_sdk.models.dashboard", reason="missing: grafana-foundation-sdk")
    plugins = pytest.importorskip("grafana_foundation_sdk.cog.plugins", reason="missing: grafana-foundation-sdk")
    encoder = pytest.importorskip("grafana_foundation_sdk.cog.encoder", reason="missing: grafana-foundation-sdk")
    plugins.register_default_plugins()
    return json.loads(encoder.JSONEncoder().encode(sdk.Dashboard.from_json(text)))


@needs_grafana
def test_grafana_knows_all_that_the_dashboard_says() -> None:
    assert list(lost(committed(), as_grafana_reads_it(committed()))) == []


@needs_grafana
def test_what_grafana_does_not_know_would_be_noticed() -> None:
    text = committed()
    text["panels"][1]["targets"][0]["legend"] = "x"
    text["templating"]["list"][1]["multiple"] = True
    assert list(lost(text, as_grafana_reads_it(text))) == [
        ".templating.list[1].multiple",
        ".panels[1].targets[0].legend",
    ]


# Compose, the app, and the cost.


def test_compose_the_configuration_and_the_app_agree_on_ports_and_files() -> None:
    settings = app.settings()
    compose = text_of("compose.yaml")
    assert set(re.findall(r"\$\{(\w+)\}", compose)) == set(settings) - {"APP_PORTS"}
    targets = re.findall(r"localhost:(\d+)", text_of("prometheus.yml").partition("scrape_configs:")[2])
    assert targets == settings["APP_PORTS"].split(",")
    for name in re.findall(r"^ +- \./(\S+?):/", compose, re.MULTILINE):
        assert (EXAMPLE / name).exists()
    rules = re.findall(r"^  - (\w+\.yml)$", text_of("prometheus.yml"), re.MULTILINE)
    assert rules == ["recording.yml", "alerts.yml"]
    assert all(f"./{name}:" in compose for name in rules)
    (interval,) = re.findall(r"scrape_interval: (\w+)", text_of("prometheus.yml"))
    (source,) = (EXAMPLE / "grafana" / "provisioning" / "datasources").iterdir()
    assert re.search(rf"timeInterval: {interval}\b", source.read_text(encoding="utf-8"))


def page(port: int) -> str:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
            return str(answer.read().decode())
    except OSError:
        return ""


def test_the_app_is_a_fleet_that_can_be_scraped_until_it_is_interrupted() -> None:
    need_exporter()
    with free_ports(2) as ports:
        process = subprocess.Popen(
            [*INTERRUPTIBLE, "-W", "error", "-m", "prometheus.app"],
            env=environment((), APP_PORTS=",".join(map(str, ports))),
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            last = 'error_type="urllib3.exceptions.NewConnectionError"'
            wait_until(
                lambda: process.poll() is not None or all(last in page(port) for port in ports),
                "both processes have told of a round",
            )
            os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to all of them
            out, err = process.communicate()
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
    assert process.returncode == 0, err
    # The exporter listens a moment before its reader has a provider. Of who asks in between the SDK says this, no more.
    too_soon = "Cannot call collect on a MetricReader until it is registered on a MeterProvider\n"
    assert err.replace(too_soon, "") == ""
    for port in ports:
        assert f"http://localhost:{port}/metrics" in out


@needs_fork
def test_a_forked_process_without_a_port_says_so_in_a_line_and_goes_on() -> None:
    program = """
        import logging, os, sys
        import prometheus_client, urllib3, pool_telemetry
        from misbehaving import Server

        def ask(pools):
            for _ in range(pools):
                urllib3.PoolManager().request("GET", server.url + "/ok")
            prometheus_client.generate_latest()  # a page of the application's own

        logging.basicConfig(stream=sys.stdout)
        pool_telemetry.install(export=True)
        with Server() as server:
            ask(1)
            if child := os.fork():
                assert os.waitpid(child, 0)[1] == 0
            else:
                ask(3)
                assert pool_telemetry.snapshot().upstreams[0].checkouts["new"] == 3
                sys.stdout.flush()
                os._exit(0)
        """
    with free_ports(1) as (port,):
        said = run(program, (), **app.environment(str(port)))
    assert said == (
        f"WARNING:pool_telemetry:no metrics are exported from this process: port {port} is taken, perhaps by another "
        "process of this program; where they share it, have them send (OTEL_METRICS_EXPORTER=otlp), or give each a "
        "port of its own (OTEL_EXPORTER_PROMETHEUS_PORT)\n"
    )


@pytest.mark.parametrize(("port", "kind"), [("many", "ValueError"), ("99999", "OverflowError")])
def test_a_port_that_is_none_is_said_in_a_line_and_leaves_nothing_behind(port: str, kind: str) -> None:
    program = """
        import logging, sys
        import prometheus_client, urllib3, pool_telemetry
        from misbehaving import Server

        logging.basicConfig(stream=sys.stdout)
        pool_telemetry.install(export=True)
        with Server() as server:
            urllib3.PoolManager().request("GET", server.url + "/ok")
        prometheus_client.generate_latest()  # a page of the application's own
        """
    said = run(program, (), **app.environment(port))
    assert said == (
        "WARNING:pool_telemetry:no metrics are exported from this process: no page can be served at what "
        "OTEL_EXPORTER_PROMETHEUS_HOST and OTEL_EXPORTER_PROMETHEUS_PORT say, a host's name or address and a number: "
        f"{kind}\n"
    )


def test_the_page_on_cost_says_what_a_real_collection_counts() -> None:
    need_exporter()
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "prometheus.series"],
        env=environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout in FLEET.read_text(encoding="utf-8")


def test_what_the_page_on_cost_drops_first_are_the_buckets_that_nobody_asks_for() -> None:
    (pattern,) = re.findall(r"^ +regex: (\S+)$", FLEET.read_text(encoding="utf-8"), re.MULTILINE)
    buckets = {
        metric.name: f"{metric.name.replace('.', '_')}{'_seconds' if metric.unit == 's' else ''}_bucket"
        for metric in _semconv.METRICS
        if metric.buckets
    }
    assert [name for name, bucket in buckets.items() if re.fullmatch(pattern, bucket)] == series.unasked()
    assert len(series.unasked()) == 5
