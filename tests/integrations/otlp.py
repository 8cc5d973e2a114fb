"""An OTLP/HTTP receiver: what a back end is sent, decoded."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

Attributes = dict[str, Any]


class Span(NamedTuple):
    """A span that has arrived."""

    scope: str
    name: str
    trace_id: bytes
    span_id: bytes
    parent_id: bytes
    attributes: Attributes
    resource: Attributes
    start: int  # ns


class Point(NamedTuple):
    """A metric's point that has arrived.

    Attributes:
        value: of a histogram, how many samples it holds.
        temporality: ``delta`` or ``cumulative``; of a gauge it is empty.
        began: of the time that the value is of, in nanoseconds; so is ``ended``.
        exemplars: the trace and the span of each.
    """

    scope: str
    name: str
    value: float
    attributes: Attributes
    resource: Attributes
    temporality: str
    began: int
    ended: int
    exemplars: list[tuple[bytes, bytes]]


class Receiver:
    """Listens on loopback, a context manager.

    Args:
        is_keeping: whether a connection lives on after its answer; if not it is closed, without having said so.

    Attributes:
        connections: how many were accepted.
        exports: the path of each request.
        spans: all so far.
        collections: the points of each export of metrics.
    """

    def __init__(self, is_keeping: bool = True) -> None:
        self.is_keeping = is_keeping
        self.connections = 0
        self.exports: list[str] = []
        self.spans: list[Span] = []
        self.collections: list[list[Point]] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Receiver:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                with receiver._lock:
                    receiver.connections += 1

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with receiver._lock:
                    receiver._take(self.path, body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()
                self.close_connection = not receiver.is_keeping

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False  # so that closing waits for them
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def metrics(self, name: str, **wanted: Any) -> dict[str, float]:
        """The last collection's points of a metric that have these attributes, by the attributes left, 0 left out."""
        return _pick(self.collections[-1], name, wanted)

    def by_process(self, name: str, **wanted: Any) -> dict[int, dict[str, float]]:
        """What :meth:`metrics` gives, of the last that each process has sent: by ``process.pid`` and instance.

        Raises:
            AssertionError: two processes have sent as the same instance, or one as two.
        """
        last = self._last_by("process.pid", "service.instance.id")
        assert len({pid for pid, _ in last}) == len({instance for _, instance in last}) == len(last), list(last)
        return {pid: _pick(points, name, wanted) for (pid, _), points in last.items()}

    def by_instance(self, name: str, **wanted: Any) -> dict[str, dict[str, float]]:
        """What :meth:`metrics` gives, of the last that each instance has sent: by ``service.instance.id``."""
        last = self._last_by("service.instance.id")
        return {instance: _pick(points, name, wanted) for (instance,), points in last.items()}

    def _last_by(self, *attributes: str) -> dict[tuple[Any, ...], list[Point]]:
        # All points of one export have one resource.
        return {
            tuple(points[0].resource.get(name) for name in attributes): points for points in self.collections if points
        }

    def _take(self, path: str, body: bytes) -> None:
        self.exports.append(path)
        if path == "/v1/traces":
            self.spans += _spans(ExportTraceServiceRequest.FromString(body))
        elif path == "/v1/metrics":
            self.collections.append(list(_points(ExportMetricsServiceRequest.FromString(body))))


def _pick(points: Iterable[Point], name: str, wanted: Attributes) -> dict[str, float]:
    return {
        ", ".join(str(value) for key, value in point.attributes.items() if key not in wanted): point.value
        for point in points
        if point.name == name and point.value and wanted.items() <= point.attributes.items()
    }


def _spans(request: ExportTraceServiceRequest) -> Iterator[Span]:
    for resource in request.resource_spans:
        for scope in resource.scope_spans:
            for span in scope.spans:
                yield Span(
                    scope.scope.name,
                    span.name,
                    span.trace_id,
                    span.span_id,
                    span.parent_span_id,
                    _attributes(span.attributes),
                    _attributes(resource.resource.attributes),
                    span.start_time_unix_nano,
                )


def _points(request: ExportMetricsServiceRequest) -> Iterator[Point]:
    for resource in request.resource_metrics:
        described = _attributes(resource.resource.attributes)
        for scope in resource.scope_metrics:
            for metric in scope.metrics:
                data = getattr(metric, str(metric.WhichOneof("data")))
                for point in data.data_points:
                    yield Point(
                        scope.scope.name,
                        metric.name,
                        point.count if hasattr(point, "count") else getattr(point, point.WhichOneof("value")),
                        _attributes(point.attributes),
                        described,
                        {1: "delta", 2: "cumulative"}.get(getattr(data, "aggregation_temporality", 0), ""),
                        point.start_time_unix_nano,
                        point.time_unix_nano,
                        [(each.trace_id, each.span_id) for each in point.exemplars],
                    )


def _attributes(pairs: Iterable[Any]) -> Attributes:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}
