"""Programs of ``test_instrumentations``: another instrumentation and us, put in and taken out in each order."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from urllib3.connection import HTTPConnection

import pool_telemetry
from misbehaving import Server
from tests.live.wire import drops, wait_for_peer
from tests.support import Telemetry, check_laws
from tests.touched import contents


class Other(Protocol):
    """An instrumentation that is not ours."""

    def put_in(self, telemetry: Telemetry) -> None:
        """Have it watch."""

    def take_out(self) -> None:
        """Have it watch no more."""

    def told(self) -> int:
        """How many requests it has told of."""


class OpenTelemetry:
    """One of OpenTelemetry's own."""

    def __init__(self, instrumentor: Any) -> None:
        self._instrumentor = instrumentor
        self._telemetry: Telemetry | None = None

    def put_in(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._instrumentor.instrument(tracer_provider=telemetry.tracer_provider)

    def take_out(self) -> None:
        self._instrumentor.uninstrument()

    def told(self) -> int:
        assert self._telemetry is not None
        return sum(span.kind.name == "CLIENT" for span in self._telemetry.spans)


class Datadog:
    """ddtrace, whose traces are counted and thrown away instead of being sent to an agent."""

    def __init__(self) -> None:
        os.environ |= {
            "DD_TRACE_STARTUP_LOGS": "0",
            "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "0",
            "DD_REMOTE_CONFIGURATION_ENABLED": "0",
        }
        from ddtrace.trace import TraceFilter, tracer

        counted = self._counted = [0]

        class Count(TraceFilter):  # type: ignore[misc]  # its type is not known where ddtrace is not installed
            def process_trace(self, trace: list[Any]) -> None:
                counted[0] += sum(span.name == "urllib3.request" for span in trace)

        tracer.configure(trace_processors=[Count()])

    def put_in(self, telemetry: Telemetry) -> None:
        import ddtrace

        ddtrace.patch(urllib3=True, requests=True, httplib=True)

    def take_out(self) -> None:
        from ddtrace.contrib.internal.httplib.patch import unpatch as unpatch_httplib
        from ddtrace.contrib.internal.requests.patch import unpatch as unpatch_requests
        from ddtrace.contrib.internal.urllib3.patch import unpatch as unpatch_urllib3

        for unpatch in (unpatch_httplib, unpatch_requests, unpatch_urllib3):
            unpatch()

    def told(self) -> int:
        return self._counted[0]


class Sentry:
    """sentry-sdk, whose envelopes stay here; what it has put into http.client it never takes out."""

    def __init__(self) -> None:
        self._told = 0

    def put_in(self, telemetry: Telemetry) -> None:
        import sentry_sdk

        def note(crumb: Any, _: Any) -> Any:
            self._told += crumb["category"] == "httplib"
            return crumb

        sentry_sdk.init(
            "http://nobody@127.0.0.1:1/1", traces_sample_rate=1.0, before_breadcrumb=note, transport=lambda _: None
        )

    def take_out(self) -> None:
        import sentry_sdk

        sentry_sdk.get_client().close()
        sentry_sdk.init()

    def told(self) -> int:
        return self._told


def otel_urllib3() -> Other:
    from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor

    return OpenTelemetry(URLLib3Instrumentor())


def otel_requests() -> Other:
    from opentelemetry.instrumentation.requests import RequestsInstrumentor

    return OpenTelemetry(RequestsInstrumentor())


def otel_botocore() -> Other:
    from opentelemetry.instrumentation.botocore import BotocoreInstrumentor

    return OpenTelemetry(BotocoreInstrumentor())  # type: ignore[no-untyped-call]  # theirs has no types


def by_urllib3(url: str) -> Callable[[str], object]:
    import urllib3

    http = urllib3.PoolManager()
    return lambda path: http.request("GET", url + path)


def by_requests(url: str) -> Callable[[str], object]:
    import requests

    session = requests.Session()
    session.trust_env = False
    return lambda path: session.get(url + path)


def by_botocore(url: str) -> Callable[[str], object]:
    import botocore.session

    s3 = botocore.session.Session().create_client(
        "s3", "eu-central-1", endpoint_url=url, aws_access_key_id="nobody", aws_secret_access_key="nothing"
    )

    def get(path: str) -> object:
        _, bucket, key = path.split("/", 2)
        return s3.get_object(Bucket=bucket, Key=key)["Body"].read()

    return get


#: Package to be installed, what makes it, and what makes requests that it watches.
OTHERS: dict[str, tuple[str, Callable[[], Other], Callable[[str], Callable[[str], object]]]] = {
    "OpenTelemetry's of urllib3": ("opentelemetry.instrumentation.urllib3", otel_urllib3, by_urllib3),
    "OpenTelemetry's of requests": ("opentelemetry.instrumentation.requests", otel_requests, by_requests),
    "OpenTelemetry's of botocore": ("opentelemetry.instrumentation.botocore", otel_botocore, by_botocore),
    "ddtrace": ("ddtrace", Datadog, by_requests),
    "sentry-sdk": ("sentry_sdk", Sentry, by_requests),
}


def put_in_and_take_out(name: str, are_we_first_in: bool, are_we_first_out: bool) -> None:
    """Check who tells of what, while both are in, one is, and none."""
    _, make, make_client = OTHERS[name]
    other = make()
    with Server() as server, Telemetry() as telemetry:
        before = contents()
        put_in: list[Callable[[], object]] = [telemetry.install, lambda: other.put_in(telemetry)]
        take_out: list[Callable[[], object]] = [pool_telemetry.uninstall, other.take_out]
        for put in put_in if are_we_first_in else reversed(put_in):
            put()
        get = make_client(server.url)

        def told() -> tuple[float, float, int]:
            metrics = telemetry.collect()
            return metrics.value("urllib3.pool.checkouts"), sum(drops(metrics).values()), other.told()

        def tells() -> Iterator[float]:
            """How many checkouts and drops we tell of, and requests the other, of two with a drop between them."""
            was = told()
            get("/fin/0")
            # Not by isinstance(), which asks lazy objects of others for what they stand for.
            connections = [each for each in gc.get_objects() if issubclass(type(each), HTTPConnection)]
            (conn,) = [each for each in connections if each.sock is not None]
            wait_for_peer(conn.sock)
            del conn, connections
            get("/close/now")  # of two parts, for botocore
            return (now - then for now, then in zip(told(), was, strict=True))

        we, they = (2, 1), (2,)
        assert tuple(tells()) == (*we, *they)
        first, last = take_out if are_we_first_out else reversed(take_out)
        first()
        assert tuple(tells()) == ((0, 0, *they) if are_we_first_out else (*we, 0))
        last()
        assert tuple(tells()) == (0, 0, 0)
        after = contents()
        changed = [
            name
            for was, now in zip(before, after, strict=True)
            for name in was.keys() | now.keys()
            if was.get(name) is not now.get(name)
        ]
        assert not changed, changed
        for put in put_in if are_we_first_out else reversed(put_in):
            put()
        assert tuple(tells()) == (*we, *they)
        check_laws(telemetry.collect())
