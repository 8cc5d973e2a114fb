"""SDK providers of our own, from the standard ``OTEL_*`` variables: for an application that has set none.

They are never set as the global ones. Those are the application's to set, once in a process, also after ``install()``;
and what got a tracer of ours meanwhile would keep it.

Each process makes its own. In a forked child the SDK goes on with the parent's: with what the parent's histograms held,
and, in older versions, under its identity, where two that write one series overwrite each other.

The only importer of the SDK, but for the demo, and imported only when asked for.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import logging
import os
import sys
import threading
import uuid
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from opentelemetry.metrics import get_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    MetricExporter,
    MetricExportResult,
    MetricReader,
    PeriodicExportingMetricReader,
)
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

from ._children import is_child_of_multiprocessing
from ._discretion import quoted
from ._errors import MissingExporterError, NoPageError
from ._settings import STARTED_IN

log = logging.getLogger("pool_telemetry")
# The protocols of OTEL_EXPORTER_OTLP_PROTOCOL, as the entry points of exporters have them.
_PROTOCOLS = {"http/protobuf": "otlp_proto_http", "grpc": "otlp_proto_grpc"}
_EXTRAS = {"otlp_proto_http": "otlp", "otlp_proto_grpc": "otlp-grpc", "prometheus": "prometheus"}


def check_exporters(*, traces: bool = True, metrics: bool = True) -> None:
    """Find every exporter that the variables name, for one signal or both.

    Raises:
        MissingExporterError: the package of one is not installed.
    """
    wanted = [signal for signal, is_wanted in {"traces": traces, "metrics": metrics}.items() if is_wanted]
    found = [_exporters(signal) for signal in wanted]
    if any(found):
        _detected()


@functools.cache
def _detected() -> Resource:
    # Once, and before anything is watched: detectors may make requests, in threads that are waited for.
    return Resource.create()


# One of each in a process: by its number and the signal.
_made: dict[tuple[int, str], Any] = {}


# Not by the providers themselves: a forked child would export what is its parent's. And now, so that what the
# application does at exit is told too: handlers run last to first.
@atexit.register
def _shut_down() -> None:
    for (process, _), provider in tuple(_made.items()):
        if process == os.getpid():
            provider.shutdown()


# Threads that are at it. A signal handler on top of one of them would wait for its locks for ever.
_flushing: set[int] = set()


def flush() -> None:
    """Send what this process's own providers have not sent yet; not in the midst of doing so.

    Raises:
        Exception: one of them could not; the others have.
    """
    me = threading.get_ident()
    if me in _flushing:
        return
    try:
        _flushing.add(me)
        with contextlib.ExitStack() as each_in_turn:
            for (process, _), provider in tuple(_made.items()):
                if process == os.getpid():
                    each_in_turn.callback(provider.force_flush)
    finally:
        _flushing.discard(me)


def tracer_provider() -> TracerProvider | None:
    """The process's own tracer provider, ``None`` if nothing exports traces; it is flushed at exit.

    Raises:
        MissingExporterError: the package of an exporter is not installed.
    """
    key = os.getpid(), "traces"
    exporters = [] if key in _made else [make() for make in _exporters("traces")]
    if exporters:
        _warn_of_missing_threads(os.getpid())
        provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        for exporter in exporters:
            provider.add_span_processor(BatchSpanProcessor(exporter))
        _made.setdefault(key, provider)
    return _made.get(key)


def meter_provider() -> MeterProvider | None:
    """The process's own meter provider, ``None`` if nothing exports metrics; it is flushed at exit.

    Raises:
        MissingExporterError: the package of an exporter is not installed.
        NoPageError: its page cannot be served, as another process has the port.
    """
    key = os.getpid(), "metrics"
    made = [] if key in _made else [_make_metric_exporter(make) for make in _exporters("metrics")]
    if made:
        _warn_of_missing_threads(os.getpid())
        # An exporter that is asked, as Prometheus asks, is a reader already.
        readers = [each if isinstance(each, MetricReader) else _periodic_reader(each) for each in made]
        _made.setdefault(key, MeterProvider(readers, _resource(), shutdown_on_exit=False))
    return _made.get(key)


@functools.cache
def _instance_id(process: int) -> str:
    return str(uuid.uuid4())  # the same for spans and metrics


@functools.cache
def _warn_of_missing_threads(process: int) -> None:
    # uWSGI up to 2.0.26 runs Python's threads only while a request does, unless it is told otherwise. Its module is
    # there in its own processes only.
    if getattr(sys.modules.get("uwsgi"), "has_threads", True):
        return
    log.warning("uWSGI lets no thread run between requests, and so exports come late: start it with --enable-threads")


def _resource() -> Resource:
    process = os.getpid()
    attributes: dict[str, str | int] = {"process.pid": process}
    given = OTELResourceDetector().detect().attributes.get(SERVICE_INSTANCE_ID)
    if given is None:
        attributes[SERVICE_INSTANCE_ID] = _instance_id(process)
    # Given to its siblings as well. By that variable Celery tells children of its pool that are not forked.
    elif process != STARTED_IN or is_child_of_multiprocessing() or "FORKED_BY_MULTIPROCESSING" in os.environ:
        attributes[SERVICE_INSTANCE_ID] = f"{given}-{process}"
    return _detected().merge(Resource(attributes))


def _periodic_reader(exporter: MetricExporter) -> PeriodicExportingMetricReader:
    export, process, there = exporter.export, os.getpid(), get_meter_provider()

    # Once the application has set a provider, which may well export to the same back end: histograms that went on here
    # at the values they had would get in the way of its own. And in a forked child the SDK starts the parent's reader.
    def export_while_alone(*args: Any, **kwargs: Any) -> MetricExportResult:
        is_alone = os.getpid() == process and get_meter_provider() is there
        return export(*args, **kwargs) if is_alone else MetricExportResult.SUCCESS

    exporter.export = export_while_alone  # type: ignore[method-assign]  # a class around it would be ten methods long
    return PeriodicExportingMetricReader(exporter)


def _make_metric_exporter(make: Any) -> Any:
    if not str(getattr(make, "__module__", "")).startswith("opentelemetry.exporter.prometheus"):
        return make()  # of others it is not known whose port was taken
    reader: Any = make.__new__(make)
    try:
        reader.__init__()
    except Exception as error:
        # It may have entered itself into a registry by now. A page of the application's own that shows this would log a
        # warning each time that it is asked for.
        with contextlib.suppress(Exception):
            reader.shutdown()
        if getattr(error, "errno", None) == errno.EADDRINUSE:
            port = int(os.environ.get("OTEL_EXPORTER_PROMETHEUS_PORT", "9464"))
            raise NoPageError(
                f"port {port} is taken, perhaps by another process of this program; where they share it, have them "
                "send (OTEL_METRICS_EXPORTER=otlp), or give each a port of its own (OTEL_EXPORTER_PROMETHEUS_PORT)"
            ) from None
        raise NoPageError(
            "no page can be served at what OTEL_EXPORTER_PROMETHEUS_HOST and OTEL_EXPORTER_PROMETHEUS_PORT say, a "
            f"host's name or address and a number: {type(error).__name__}"
        ) from error
    return reader


def _exporters(signal: str) -> list[Callable[[], Any]]:
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return []
    names = os.environ.get(f"OTEL_{signal.upper()}_EXPORTER", "").split(",")
    named = [name.strip() for name in names if name.strip()] or ["otlp"]
    return [_exporter(signal, name) for name in named if name.lower() != "none"]


def _exporter(signal: str, name: str) -> Callable[[], Any]:
    if name == "otlp":
        variables = f"OTEL_EXPORTER_OTLP_{signal.upper()}_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"
        # An empty variable is one that is not set: so says OpenTelemetry's specification.
        protocol = next(filter(None, (os.environ.get(variable, "").strip() for variable in variables)), "http/protobuf")
        if protocol not in _PROTOCOLS:
            raise MissingExporterError(f"{variables[1]} is {quoted(protocol)}: there is {' and '.join(_PROTOCOLS)}")
        name = _PROTOCOLS[protocol]
    entry_point = next(iter(entry_points(group=f"opentelemetry_{signal}_exporter", name=name)), None)
    cause: Exception | None = None
    if entry_point is not None:
        try:
            found: Callable[[], Any] = entry_point.load()
        except (ImportError, AttributeError) as error:  # what it needs is not installed
            cause = error
        else:
            return found
    extra = _EXTRAS.get(name)
    remedy = f"install pool-telemetry[{extra}]" if extra else "install the package that brings it"
    raise MissingExporterError(
        f"no OpenTelemetry exporter {quoted(name)} for {signal} is installed: {remedy}, "
        f"or set OTEL_{signal.upper()}_EXPORTER to otlp, console or none"
    ) from cause
