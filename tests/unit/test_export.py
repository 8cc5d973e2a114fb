"""``export``: providers from the standard variables, only where asked for and only where the application has none."""

from __future__ import annotations

import json

import pytest

from tests.programs import needs_fork, once, run

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
        OTEL_METRICS_EXPORTER="not_installed",  # and not asked for
    )
    assert told == ""


def test_providers_that_the_application_sets_later_are_kept_and_get_what_comes_then() -> None:
    told = run(
        REQUEST
        + """
import logging
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

logging.basicConfig(stream=sys.stdout)  # a warning would be there
tracer = trace.get_tracer("the application's, made early")
pool_telemetry.install(export=True)
use_it()
spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
tracers, meters = TracerProvider(), MeterProvider([reader])
tracers.add_span_processor(SimpleSpanProcessor(spans))
trace.set_tracer_provider(tracers)
metrics.set_meter_provider(meters)
assert trace.get_tracer_provider() is tracers and metrics.get_meter_provider() is meters
with tracer.start_as_current_span("request"):
    use_it()
(setup,) = [span for span in spans.get_finished_spans() if span.name.startswith("HTTP connection_setup")]
(request,) = [span for span in spans.get_finished_spans() if span.name == "request"]
assert setup.parent.span_id == request.context.span_id
(data,) = reader.get_metrics_data().resource_metrics
points = [
    point
    for scope in data.scope_metrics for metric in scope.metrics for point in metric.data.data_points
    if metric.name == "urllib3.connection.setup.duration"
]
assert [point.count for point in points] == [1, 1], points  # the first was still in the buffer
""",
        OTEL_TRACES_EXPORTER="console",
        OTEL_METRICS_EXPORTER="none",
    )
    assert told.count('"name": "HTTP connection_setup') == 1


def test_flushing_in_a_signal_handler_on_top_of_a_flush_does_not_wait_for_itself() -> None:
    told = run(
        REQUEST
        + """
import os
from pool_telemetry import _export
pool_telemetry.install(export=True)
use_it()
provider = _export.tracer_provider()
force_flush, calls = provider.force_flush, []
def interrupted(*args):
    calls.append(None)
    pool_telemetry.flush()  # as a handler of SIGTERM does, on top of this one
    return force_flush(*args)
provider.force_flush = interrupted
pool_telemetry.flush()
pool_telemetry.flush()
assert len(calls) == 2
sys.stdout.flush()
os._exit(0)
""",
        OTEL_TRACES_EXPORTER="console",
        OTEL_METRICS_EXPORTER="none",
    )
    assert told.count('"name": "HTTP connection_setup') == 1


def test_what_was_told_before_uninstalling_is_sent_by_a_flush_after_it() -> None:
    told = run(
        REQUEST
        + """
import os
pool_telemetry.install(export=True)
use_it()
pool_telemetry.uninstall()
pool_telemetry.flush()
sys.stdout.flush()
os._exit(0)
""",
        OTEL_TRACES_EXPORTER="console",
        OTEL_METRICS_EXPORTER="none",
    )
    assert told.count('"name": "HTTP connection_setup') == 1


def test_flushing_leaves_an_applications_providers_alone_and_without_export_does_nothing() -> None:
    told = run(
        REQUEST
        + """
from opentelemetry import metrics
pool_telemetry.install()
use_it()
pool_telemetry.flush()
assert not [name for name in sys.modules if name.startswith("opentelemetry.sdk")]
pool_telemetry.uninstall()

from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
metrics.set_meter_provider(MeterProvider([PeriodicExportingMetricReader(ConsoleMetricExporter())]))
pool_telemetry.install(export=True, spans="off")
use_it()
pool_telemetry.flush()
sys.stdout.flush()
import os
os._exit(0)
""",
        OTEL_METRICS_EXPORTER="console",
    )
    assert told == ""


def test_our_own_metrics_end_where_those_of_the_application_begin() -> None:
    """The histograms too, whose values the SDK remembers: exported on, they would contradict the application's own."""
    told = run(
        REQUEST
        + """
from opentelemetry import metrics
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from pool_telemetry import _export
pool_telemetry.install(export=True)
use_it()
_export.meter_provider().force_flush()
print("ours until here")
metrics.set_meter_provider(MeterProvider([InMemoryMetricReader()]))
use_it()
""",
        OTEL_TRACES_EXPORTER="none",
        OTEL_METRICS_EXPORTER="console",
    )
    ours, _, later = told.partition("ours until here")
    assert "urllib3.connection.setup.duration" in ours
    assert later.strip() == ""


def test_what_does_nothing_is_a_provider_of_the_application_s_as_well() -> None:
    told = run(
        REQUEST
        + """
from opentelemetry import metrics, trace
trace.set_tracer_provider(trace.NoOpTracerProvider())
pool_telemetry.install(export=True)
metrics.set_meter_provider(metrics.NoOpMeterProvider())
use_it()
""",
        OTEL_TRACES_EXPORTER="console",
        OTEL_METRICS_EXPORTER="console",
    )
    assert told == ""


def test_the_totals_are_exported_at_the_end_although_it_was_uninstalled_before() -> None:
    told = run(
        REQUEST
        + """
pool_telemetry.install(export=True)
use_it()
pool_telemetry.uninstall()
use_it()
""",
        OTEL_TRACES_EXPORTER="none",
        OTEL_METRICS_EXPORTER="console",
    )
    (exported,) = json.loads(f"[{told}]")
    metrics = {
        metric["name"]: metric["data"]["data_points"]
        for metric in exported["resource_metrics"][0]["scope_metrics"][0]["metrics"]
    }
    assert sum(point["value"] for point in metrics["urllib3.pool.checkouts"]) == 1
    assert sum(point["value"] for point in metrics["urllib3.pool.opened_connections"]) == 1
    assert sum(point["count"] for point in metrics["urllib3.connection.setup.duration"]) == 1


def test_an_sdk_that_is_disabled_asks_for_no_exporter() -> None:
    told = run(
        REQUEST + "pool_telemetry.install(export=True)\nuse_it()\n",
        OTEL_SDK_DISABLED="true",
        OTEL_TRACES_EXPORTER="not_installed",
    )
    assert told == ""


def test_exporters_that_are_named_later_are_found_at_the_next_install() -> None:
    told = run(
        REQUEST
        + """
import os
pool_telemetry.install(export=True)
pool_telemetry.uninstall()
os.environ["OTEL_TRACES_EXPORTER"] = "console"
pool_telemetry.install(export=True)
use_it()
""",
        OTEL_TRACES_EXPORTER="NONE",
        OTEL_METRICS_EXPORTER="none",
    )
    assert told.count('"name": "HTTP connection_setup') == 1


def test_an_unknown_protocol_is_named_with_those_that_there_are() -> None:
    told = run(
        """
import pool_telemetry
try:
    pool_telemetry.install(export=True)
except pool_telemetry.MissingExporterError as error:
    print(error)
""",
        OTEL_EXPORTER_OTLP_PROTOCOL="http/json",
    )
    assert told.strip() == "OTEL_EXPORTER_OTLP_PROTOCOL is 'http/json': there is http/protobuf and grpc"


def test_nothing_is_set_for_the_application() -> None:
    told = run(
        REQUEST
        + """
from opentelemetry import metrics, trace
before = trace.get_tracer_provider(), metrics.get_meter_provider()
pool_telemetry.install(export=True)
assert (trace.get_tracer_provider(), metrics.get_meter_provider()) == before
""",
        OTEL_TRACES_EXPORTER="console",
        OTEL_METRICS_EXPORTER="console",
    )
    assert told == ""


def test_installing_again_goes_on_with_the_same_exporters() -> None:
    told = run(
        REQUEST
        + """
for _ in range(2):
    pool_telemetry.install(export=True)
    use_it()
    pool_telemetry.uninstall()
    use_it()
""",
        OTEL_TRACES_EXPORTER="console",
        OTEL_METRICS_EXPORTER="none",
    )
    assert told.count('"name": "HTTP connection_setup') == 2


@pytest.mark.parametrize(
    ("name", "protocol", "extra"),
    [("otlp", "", "otlp"), ("otlp", " http/protobuf ", "otlp"), ("otlp", "grpc", "otlp-grpc")],
)
def test_a_missing_otlp_exporter_names_the_extra_to_install(name: str, protocol: str, extra: str) -> None:
    told = run(
        """
import importlib.metadata, pool_telemetry
importlib.metadata.entry_points = lambda **_: ()  # whatever is installed here
try:
    pool_telemetry.install(export=True)
except pool_telemetry.MissingExporterError as error:
    print(error)
""",
        OTEL_TRACES_EXPORTER=name,
        OTEL_EXPORTER_OTLP_PROTOCOL=protocol,
    )
    assert f"install pool-telemetry[{extra}]," in told


def test_a_missing_exporter_for_prometheus_names_the_extra_to_install() -> None:
    told = run(
        """
import importlib.metadata, pool_telemetry
importlib.metadata.entry_points = lambda **_: ()  # whatever is installed here
try:
    pool_telemetry.install(export=True)
except pool_telemetry.MissingExporterError as error:
    print(error)
""",
        OTEL_TRACES_EXPORTER="none",
        OTEL_METRICS_EXPORTER="prometheus",
    )
    assert "'prometheus' for metrics is installed: install pool-telemetry[prometheus]," in told


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


def test_what_the_sdk_says_against_a_variable_is_one_warning_and_the_requests_go_on() -> None:
    told = run(
        REQUEST
        + """
import logging
logging.basicConfig(stream=sys.stdout)
pool_telemetry.install(export=True)
use_it()
use_it()
print("served")
""",
        OTEL_TRACES_EXPORTER="none",
        OTEL_METRICS_EXPORTER="console",
        OTEL_METRIC_EXPORT_INTERVAL="0",
    )
    assert told.count("no metrics are exported from this process: ") == 1
    assert "from this process: interval value" in told
    assert "\nbuiltins.ValueError\n" in told
    assert told.endswith("served\n")


FORK = """
import json, logging, os, sys, pool_telemetry, urllib3
from misbehaving import Server

logging.basicConfig(stream=sys.stdout)
sys.stdout.reconfigure(line_buffering=True)

def child(work):
    if pid := os.fork():
        assert os.waitpid(pid, 0)[1] == 0
    else:
        work()
        import atexit
        atexit._run_exitfuncs()
        os._exit(0)

def request(http, server):
    http.request("GET", server.url + "/ok")

with Server() as server, urllib3.PoolManager() as http:
    pool_telemetry.install(export=True)
"""


@needs_fork
@pytest.mark.parametrize("signal", ["TRACES", "METRICS"])
def test_each_process_tells_of_its_own_requests_only(signal: str) -> None:
    """Whether the parent has told anything before the fork, or has not; and a child of a child."""
    other = {"TRACES": "METRICS", "METRICS": "TRACES"}[signal]
    told = run(
        FORK
        + """
    child(lambda: request(urllib3.PoolManager(), server))
    request(http, server)
    child(lambda: [request(urllib3.PoolManager(), server), child(lambda: request(urllib3.PoolManager(), server))])
    child(lambda: None)
""",
        (),
        **{f"OTEL_{signal}_EXPORTER": "console", f"OTEL_{other}_EXPORTER": "none"},
    )
    decoder, documents = json.JSONDecoder(), []
    while told := told.lstrip():
        document, end = decoder.raw_decode(told)
        documents.append(document)
        told = told[end:]
    if signal == "TRACES":
        setups = [each for each in documents if each["name"].startswith("HTTP connection_setup")]
        identities = [each["resource"]["attributes"] for each in setups]
        assert len(setups) == 4
    else:
        (*resources,) = (resource for each in documents for resource in each["resource_metrics"])
        identities = [each["resource"]["attributes"] for each in resources]
        for resource in resources:
            metrics = {each["name"]: each for scope in resource["scope_metrics"] for each in scope["metrics"]}
            (setup,) = metrics["urllib3.connection.setup.duration"]["data"]["data_points"]
            (opened,) = metrics["urllib3.pool.opened_connections"]["data"]["data_points"]
            assert (setup["count"], opened["value"]) == (1, 1)
    for name in "process.pid", "service.instance.id":
        assert len({each[name] for each in identities}) == len(identities) == 4, identities


@needs_fork
def test_a_child_one_of_whose_exporters_cannot_be_made_says_so_once_and_goes_on() -> None:
    told = run(
        FORK
        + """
    from pool_telemetry import _export

    def work():
        _export.tracer_provider = lambda **_: 1 / 0
        for _ in range(2):
            request(urllib3.PoolManager(), server)
        print("served")

    child(work)
""",
        OTEL_TRACES_EXPORTER="console",
        OTEL_METRICS_EXPORTER="console",
    )
    assert told.count("no spans are exported from this process: division by zero") == 1
    assert "\nserved\n" in told
    assert "urllib3.pool.checkouts" in told  # an exporter that cannot be made is no reason to go without the other
