"""A small shop whose traces in Jaeger show what its connection pool did.

Start a Jaeger (`docker compose up -d` in this folder), then `make jaeger` in the root of the checkout. It takes a few
seconds, and ends with the links to look at.
"""

from __future__ import annotations

import os
import socket
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import requests
from opentelemetry import trace
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.instrumentation.requests import RequestsInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

import pool_telemetry
from misbehaving import ServerProcess

from .backend import settings

SERVICE = "shop"
KEEPALIVE = 1.0  # seconds after which the upstream hangs up on an idle connection
UNNOTICED = 0.4  # seconds in which nobody notices
SLOW = 0.3  # seconds that the upstream takes for a search

CLEAN, PAYING = "GET /basket", "POST /orders"
# What to look at in the trace of each request, in their order.
STORY = {
    "GET /catalogue": """The first request opens the connection: 'HTTP connection_setup' has what it took, and its
        children how much of it was DNS, TCP and TLS.""",
    CLEAN: "Right after it, on the same connection: nothing below the GET. A clean reuse makes no spans.",
    PAYING: f"""After a quiet moment. The upstream had hung up after {KEEPALIVE} s, so this request paid for a new
        connection: 'HTTP connection_dropped' tells why and after how much idling, 'HTTP connection_setup' the price.
        The reference of the former leads to {CLEAN}, which left the connection behind.""",
    "GET /orders": """A lost race: the connection was sound when urllib3 looked, and ended with the request on its way
        (urllib3.connection.drop.phase = request). A retry put it right, over a new connection (setup.cause =
        lost_race).""",
    "GET /search": "Takes its time, and all of the pool: there is one connection, and the pool blocks.",
    "GET /reviews": "Arrived meanwhile. 'HTTP wait_for_connection' is the time it spent in the queue.",
}


@dataclass(frozen=True)
class Shop:
    """Handles requests; for each it asks the upstream."""

    session: requests.Session
    upstream: ServerProcess
    tracer: trace.Tracer

    def handle(self, request: str, path: str = "/ok") -> str:
        """A request, within the span that a web framework's instrumentation would make; gives its trace ID."""
        with self.tracer.start_as_current_span(request, kind=SpanKind.SERVER) as span:
            self.session.get(self.upstream.url + path, timeout=5).raise_for_status()
        return trace.format_trace_id(span.get_span_context().trace_id)


@contextmanager
def open_shop(provider: TracerProvider) -> Iterator[Shop]:
    """The shop, its session and its upstream."""
    pool = HTTPAdapter(pool_maxsize=1, pool_block=True, max_retries=Retry(total=1))
    with ServerProcess("1.3", keepalive=KEEPALIVE) as upstream, requests.Session() as session:
        session.trust_env = False  # no proxy of this machine may come between
        session.verify = upstream.ca_file or True
        session.mount("https://", pool)
        yield Shop(session, upstream, provider.get_tracer(SERVICE))


def tell(shop: Shop) -> dict[str, str]:
    """The story; gives the trace ID of each request."""
    opening, clean, paying, racing, slow, waiting = STORY
    trace_ids = {opening: shop.handle(opening), clean: shop.handle(clean)}
    shop.upstream.wait_for(lambda books: books.ended["fin"] == 1)
    time.sleep(UNNOTICED)
    trace_ids[paying] = shop.handle(paying)
    trace_ids[racing] = shop.handle(racing, "/lost")
    known = shop.upstream.books().requests
    searching = threading.Thread(target=lambda: trace_ids.update({slow: shop.handle(slow, f"/slow/{SLOW}")}))
    searching.start()
    shop.upstream.wait_for(lambda books: books.requests > known)
    trace_ids[waiting] = shop.handle(waiting)
    searching.join()
    return trace_ids


def perform() -> dict[str, str]:
    """The story with OpenTelemetry set up from the OTEL_* variables; gives the trace IDs once all is exported."""
    os.environ.setdefault("OTEL_SERVICE_NAME", SERVICE)
    os.environ.setdefault("OTEL_SEMCONV_STABILITY_OPT_IN", "http")  # today's names for the attributes of the GETs
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    RequestsInstrumentor().instrument()
    pool_telemetry.install()
    try:
        with open_shop(provider) as shop:
            return tell(shop)
    finally:
        provider.shutdown()


def is_reachable(endpoint: str) -> bool:
    """Whether something listens there."""
    address = urlsplit(endpoint)
    try:
        socket.create_connection((address.hostname or "", address.port or 80), timeout=2).close()
    except OSError:
        return False
    return True


def main() -> int:
    """Gives the exit code."""
    ports = {**settings(), **os.environ}  # in the order of Docker's compose
    own = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
    endpoint = own or os.environ.setdefault(
        "OTEL_EXPORTER_OTLP_ENDPOINT", f"http://localhost:{ports['OTLP_HTTP_PORT']}"
    )
    if not is_reachable(endpoint):
        print(f"No Jaeger at {endpoint}: start one with 'docker compose up -d' in examples/jaeger.", file=sys.stderr)
        return 1
    print(f"A shop asks an upstream that hangs up on idle connections after {KEEPALIVE} s. One moment ...")
    trace_ids = perform()
    for request, text in STORY.items():
        print(f"\n{request:<16} http://localhost:{ports['JAEGER_UI_PORT']}/trace/{trace_ids[request]}")
        print(textwrap.fill(" ".join(text.split()), 80, initial_indent="   ", subsequent_indent="   "))
    return 0


if __name__ == "__main__":
    sys.exit(main())
