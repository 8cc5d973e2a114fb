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
from collections.abc import Callable, Iterator
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
HELD = 0.3  # seconds in which a search keeps its connection though somebody waits for it

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
    "GET /search": """Takes its time to read the answer, and all of the pool meanwhile: there is one connection, and the
        pool blocks.""",
    "GET /reviews": "Arrived meanwhile. 'HTTP wait_for_connection' is the time it spent in the queue.",
}


@dataclass(frozen=True)
class Shop:
    """Handles requests; for each it asks the upstream."""

    session: requests.Session
    adapter: HTTPAdapter
    upstream: ServerProcess
    tracer: trace.Tracer

    def handle(self, request: str, path: str = "/ok", before_reading: Callable[[], object] | None = None) -> str:
        """A request, within the span that a web framework's instrumentation would make; gives its trace ID.

        Args:
            before_reading: called while the connection is held, by an answer that is streamed.

        Returns:
            32 hexadecimal digits; nothing if the trace is not recorded.
        """
        with self.tracer.start_as_current_span(request, kind=SpanKind.SERVER) as span:
            answer = self.session.get(self.upstream.url + path, timeout=5, stream=before_reading is not None)
            if before_reading:
                before_reading()
            _ = answer.content  # the connection goes back to the pool once it is read
            answer.raise_for_status()
        context = span.get_span_context()
        return trace.format_trace_id(context.trace_id) if context.trace_flags.sampled else ""

    def is_awaited(self) -> bool:
        """Whether somebody waits for its connection."""
        pools = self.adapter.poolmanager.pools
        (key,) = pools.keys()
        return bool(pools[key].pool.not_empty._waiters)  # no public word of a queue tells


@contextmanager
def open_shop(provider: TracerProvider) -> Iterator[Shop]:
    """The shop, its session and its upstream."""
    adapter = HTTPAdapter(pool_maxsize=1, pool_block=True, max_retries=Retry(total=1))
    with ServerProcess("1.3") as upstream, requests.Session() as session:
        session.trust_env = False  # no proxy of this machine may come between
        session.verify = upstream.ca_file or True
        session.mount("https://", adapter)
        yield Shop(session, adapter, upstream, provider.get_tracer(SERVICE))


def tell(shop: Shop) -> dict[str, str]:
    """The story; gives the trace ID of each request."""
    opening, clean, paying, racing, slow, waiting = STORY
    # The upstream is told when to hang up: with one limit for all, a slow machine would tell of drops nobody announced.
    trace_ids = {opening: shop.handle(opening), clean: shop.handle(clean, f"/fin/{KEEPALIVE}")}
    shop.upstream.wait_for(lambda books: books.ended["fin"] == 1)
    time.sleep(UNNOTICED)
    trace_ids[paying] = shop.handle(paying)
    trace_ids[racing] = shop.handle(racing, "/lost")
    reviewing = threading.Thread(target=lambda: trace_ids.update({waiting: shop.handle(waiting)}))

    def search() -> None:
        reviewing.start()
        while reviewing.is_alive() and not shop.is_awaited():
            time.sleep(0.001)
        time.sleep(HELD)

    trace_ids[slow] = shop.handle(slow, before_reading=search)
    reviewing.join()
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
    variables = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"
    endpoint = next(filter(None, map(os.environ.get, variables)), None)
    if endpoint is None:
        endpoint = os.environ[variables[1]] = f"http://localhost:{ports['OTLP_HTTP_PORT']}"
    if not is_reachable(endpoint):
        print(f"No Jaeger at {endpoint}: start one with 'docker compose up -d' in examples/jaeger.", file=sys.stderr)
        return 1
    print(f"A shop asks an upstream that hangs up on idle connections after {KEEPALIVE} s. One moment ...")
    trace_ids = perform()
    if not all(trace_ids.values()):
        print("Not all is traced: unset OTEL_SDK_DISABLED and OTEL_TRACES_SAMPLER.", file=sys.stderr)
        return 1
    for request, text in STORY.items():
        print(f"\n{request:<16} http://localhost:{ports['JAEGER_UI_PORT']}/trace/{trace_ids[request]}")
        print(textwrap.fill(" ".join(text.split()), 80, initial_indent="   ", subsequent_indent="   "))
    return 0


if __name__ == "__main__":
    sys.exit(main())
