"""How many series a fleet makes: `make series`, or `python -m prometheus.series --workers 200 --upstreams 5`.

Counted in real collections: of upstreams with which all goes well, and of one with which everything goes wrong that
this library tells of.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from prometheus_client import CollectorRegistry

import pool_telemetry
from misbehaving import Server
from pool_telemetry._semconv import METRICS

from .story import Shop, ask

PORT = "server_port"


@dataclass
class Count:
    """What one process exports of some upstreams, by the metric.

    Attributes:
        points: of OpenTelemetry, where a histogram's is one.
        series: of Prometheus, where each bucket is one.
        buckets: among those.
    """

    points: Counter[str] = field(default_factory=Counter)
    series: Counter[str] = field(default_factory=Counter)
    buckets: Counter[str] = field(default_factory=Counter)

    def sum(self) -> int:
        """All series."""
        return sum(self.series.values())


class Collection:
    """The library installed, and two readers of what it tells; a context manager."""

    def __init__(self, metrics: str) -> None:
        self._metrics = metrics

    def __enter__(self) -> Collection:
        self._registry = CollectorRegistry()
        self._points = InMemoryMetricReader()
        self._provider = MeterProvider([self._points, PrometheusMetricReader(registry=self._registry)])
        pool_telemetry.install(metrics=self._metrics, spans="off", meter_provider=self._provider)
        return self

    def __exit__(self, *exc_info: object) -> None:
        pool_telemetry.uninstall()
        self._provider.shutdown()

    def count(self, servers: Iterable[Server]) -> Count:
        """What there is of these upstreams."""
        ports = {server.port for server in servers}
        count, names = Count(), {}
        for metric in self._told():
            names[_as_prometheus(metric.name)] = metric.name
            count.points[metric.name] += sum(
                point.attributes.get("server.port") in ports for point in metric.data.data_points
            )
        for family in self._registry.collect():
            name = next((ours for name, ours in names.items() if family.name in (name, f"{name}_seconds")), "")
            found = [sample for sample in family.samples if int(sample.labels.get(PORT, 0)) in ports]
            count.series[name] += len(found)
            count.buckets[name] += sum(sample.name.endswith("_bucket") for sample in found)
        return count

    def _told(self) -> Iterator[Any]:
        data = self._points.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                yield from scope.metrics


def _as_prometheus(name: str) -> str:
    return name.replace(".", "_")


def calm(metrics: str, upstreams: int) -> Count:
    """One process that finds all well: each upstream is asked twice, over one connection; TLS, by a name to look up."""
    with contextlib.ExitStack() as stack:
        collection = stack.enter_context(Collection(metrics))
        servers = [stack.enter_context(Server("1.3")) for _ in range(upstreams)]
        for server in servers:
            pool = stack.enter_context(Shop(server.url, server.ca_file).make())
            ask(pool, "/ok")
            ask(pool, "/ok")
        return collection.count(servers)


def stormy(metrics: str) -> Count:
    """One process and one upstream, of which there is everything; TLS, by a name to look up."""
    with Collection(metrics) as collection, Server("1.3") as server, Shop(server.url, server.ca_file) as shop:
        for _ in range(2):  # on a busy machine a round may miss something that is a matter of milliseconds
            shop.play()
        with shop.waiting():
            return collection.count([server])


def table(well: Count, ill: Count) -> Iterator[str]:
    """A line for each metric of one upstream and process; in Markdown."""
    yield "| metric | `metrics=` | points | most | series | most | of which buckets |"
    yield "|---|---|--:|--:|--:|--:|--:|"
    for metric in METRICS:
        name = metric.name
        figures = (well.points[name], ill.points[name], well.series[name], ill.series[name], ill.buckets[name])
        told = " | ".join(str(figure) for figure in figures)
        yield f"| `{name}` | {'core' if metric.is_core else 'all'} | {told} |"


def unasked() -> list[str]:
    """Histograms of which neither the dashboard nor a rule asks for a bucket."""
    files = ("dashboard.json", "recording.yml", "alerts.yml")
    queries = "".join(Path(__file__).with_name(name).read_text(encoding="utf-8") for name in files)
    return [
        metric.name
        for metric in METRICS
        if metric.buckets and f"{_as_prometheus(metric.name)}_seconds_bucket" not in queries
    ]


def main(arguments: list[str] | None = None) -> int:
    """Print the tables; gives the exit code."""
    parser = argparse.ArgumentParser(prog="python -m prometheus.series", description=__doc__)
    parser.add_argument("--workers", type=int, default=50, help="processes (default: %(default)s)")
    parser.add_argument("--upstreams", type=int, default=20, help="that each of them asks (default: %(default)s)")
    options = parser.parse_args(arguments)
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    # localhost may have two addresses, and a failed attempt makes series of its own.
    urllib3.util.connection.HAS_IPV6 = False

    modes = ("core", "all")
    well, ill = {each: calm(each, 1) for each in modes}, {each: stormy(each) for each in modes}
    many = {each: calm(each, options.upstreams) for each in modes}
    print("\n".join(table(well["all"], ill["all"])), end="\n\n")

    print(f"| | one upstream | most | {options.upstreams} upstreams | {options.workers} such processes | most |")
    print("|---|--:|--:|--:|--:|--:|")
    for mode in modes:
        fleet = options.workers * many[mode].sum(), options.workers * options.upstreams * ill[mode].sum()
        figures = well[mode].sum(), ill[mode].sum(), many[mode].sum(), *fleet
        print(f'| `metrics="{mode}"` |', " | ".join(f"{figure:,}" for figure in figures), "|")

    print("\n| left out | `core`, most | `all`, most |\n|---|--:|--:|")
    left_out = {"nothing": [], "the buckets that nobody asks for": unasked(), "all buckets": list(ill["all"].buckets)}
    for what, names in left_out.items():
        left = [ill[mode].sum() - sum(ill[mode].buckets[name] for name in names) for mode in modes]
        print(f"| {what} | {left[0]} | {left[1]} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
