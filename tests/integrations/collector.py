"""A real OpenTelemetry Collector for OTLP: Jaeger's program is a distribution of it."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from jaeger import backend
from tests.integrations.services import PATIENCE, free_port, is_listening, started


@dataclass(frozen=True)
class Collector:
    """A Collector that listens, and hands everything on.

    Attributes:
        otlp: its endpoint for OTLP over HTTP.
        prometheus: the page of its Prometheus exporter, which it makes of the metrics it has been sent.
    """

    otlp: str
    prometheus: str

    def page(self) -> str:
        """What Prometheus would scrape, in the format that has exemplars."""
        request = urllib.request.Request(self.prometheus, headers={"Accept": "application/openmetrics-text"})
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return str(answer.read().decode())


@contextmanager
def collecting(to: int, folder: Path) -> Iterator[Collector]:
    """A Collector between what exports and a receiver, until the block ends; else the test is skipped.

    Args:
        to: the receiver's port.
        folder: for its configuration and its log.
    """
    program = backend.find_program()
    if program is None:
        pytest.skip("missing: Jaeger's program, which is a Collector too (examples/jaeger/build)")
    otlp, prometheus = free_port(), free_port()
    # JSON is YAML.
    (folder / "collector.yaml").write_text(json.dumps(_configuration(otlp, prometheus, to)))
    command = [program, "--config", "collector.yaml"]
    # It is killed at the end: there is nothing to keep, and an orderly end takes it ten seconds.
    with started(
        command, folder / "collector.log", folder, is_ready=lambda: is_listening(otlp) and is_listening(prometheus)
    ):
        yield Collector(f"http://127.0.0.1:{otlp}", f"http://127.0.0.1:{prometheus}/metrics")


def _configuration(otlp: int, prometheus: int, to: int) -> dict[str, object]:
    # What has been taken is handed on before it is answered, so that nothing has to be waited for.
    forward = {
        "endpoint": f"http://127.0.0.1:{to}",
        "compression": "none",
        "sending_queue": {"enabled": False},
        "retry_on_failure": {"enabled": False},
    }
    return {
        "receivers": {"otlp": {"protocols": {"http": {"endpoint": f"127.0.0.1:{otlp}"}}}},
        "exporters": {
            "otlphttp": forward,
            "prometheus": {"endpoint": f"127.0.0.1:{prometheus}", "enable_open_metrics": True},
        },
        "service": {
            "telemetry": {"metrics": {"level": "none"}},
            "pipelines": {
                "traces": {"receivers": ["otlp"], "exporters": ["otlphttp"]},
                "metrics": {"receivers": ["otlp"], "exporters": ["otlphttp", "prometheus"]},
            },
        },
    }
