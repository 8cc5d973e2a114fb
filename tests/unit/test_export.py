"""``export``: providers from the standard variables, only where asked for and only where the application has none."""

from __future__ import annotations

from tests.programs import once, run

pytestmark = once

REQUEST = """
import sys, pool_telemetry, urllib3
from misbehaving import Server

def use_it():
    with Server() as server, urllib3.PoolManager() as http:
        http.request("GET", server.url + "/ok")
"""


def test_spans_and_metrics_reach_the_console_by_the_end_of_the_program() -> None:
    told = run(
        REQUEST + "pool_telemetry.install(export=True)\nuse_it()\n",
        OTEL_TRACES_EXPORTER="console",
        OTEL_METRICS_EXPORTER="console",
    )
    assert "HTTP connection_setup 127.0.0.1:" in told
    assert "urllib3.pool.checkouts" in told


def test_the_environment_alone_asks_for_it_and_none_leaves_a_signal_out() -> None:
    told = run(
        REQUEST + "pool_telemetry.install()\nuse_it()\n",
        POOL_TELEMETRY_EXPORT="1",
        OTEL_TRACES_EXPORTER="console, none",
        OTEL_METRICS_EXPORTER="none",
    )
    assert "HTTP connection_setup 127.0.0.1:" in told
    assert "urllib3.pool.checkouts" not in told


def test_providers_of_the_application_are_left_alone() -> None:
    told = run(
        REQUEST
        + """
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
tracers, meters = TracerProvider(), MeterProvider()
trace.set_tracer_provider(tracers)
metrics.set_meter_provider(meters)
pool_telemetry.install(export=True)
use_it()
assert trace.get_tracer_provider() is tracers and metrics.get_meter_provider() is meters
""",
        OTEL_TRACES_EXPORTER="console",
        OTEL_METRICS_EXPORTER="console",
    )
    assert told == ""


def test_a_missing_exporter_is_a_clear_error_and_nothing_has_been_set() -> None:
    told = run(
        REQUEST
        + """
from opentelemetry import trace
before = trace.get_tracer_provider()
try:
    pool_telemetry.install(export=True)
except pool_telemetry.MissingExporterError as error:
    print(error)
assert trace.get_tracer_provider() is before
pool_telemetry.install()  # it can still be installed without
use_it()
""",
        OTEL_TRACES_EXPORTER="console",
        OTEL_METRICS_EXPORTER="carrier_pigeon",
    )
    assert "'carrier_pigeon' for metrics" in told
    assert "OTEL_METRICS_EXPORTER" in told


def test_the_sdk_is_imported_only_when_asked_for() -> None:
    told = run(
        REQUEST + "pool_telemetry.install()\nuse_it()\nprint('opentelemetry.sdk' in sys.modules)\n",
    )
    assert told.strip() == "False"
