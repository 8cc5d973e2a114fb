"""The stage: two servers, an ordinary session, and the library installed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import requests
from opentelemetry.trace import SpanKind
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

import pool_telemetry
from misbehaving import Server

from .screen import Screen
from .telemetry import Telemetry

BURST = 6  # the story says "six"
# Two limits that cannot be mistaken for each other.
HTTP_KEEPALIVE, HTTPS_KEEPALIVE = 1.5, 2.25


@dataclass
class Stage:
    """All that the scenes have in common."""

    screen: Screen
    telemetry: Telemetry
    http: Server
    https: Server
    session: requests.Session

    @property
    def servers(self) -> tuple[Server, Server]:
        """Both upstreams."""
        return self.http, self.https

    def request(self, server: Server, path: str, method: str = "GET", **options: Any) -> requests.Response:
        """A request within a span of its own, as the instrumentation of requests would make it."""
        with self.telemetry.tracer.start_as_current_span(f"{method} {path}", kind=SpanKind.CLIENT):
            return self.session.request(method, server.url + path, timeout=5, **options)


def new_session(ca_file: str | None) -> requests.Session:
    """An ordinary session: connections are pooled, and a request that fails is sent once more if that is safe."""
    session = requests.Session()
    session.trust_env = False  # proxies and certificates of this machine are none of the demo's business
    session.verify = ca_file or True
    adapter = HTTPAdapter(pool_maxsize=BURST, max_retries=Retry(total=1))
    session.mount("http://", adapter)
    session.mount("https://", adapter)
    return session


@contextlib.contextmanager
def set_the_stage() -> Iterator[Stage]:
    """The servers, the session, and the library installed."""
    telemetry = Telemetry()
    # Arguments come before whatever the environment says.
    pool_telemetry.install(
        spans="notable",
        metrics="all",
        excluded_hosts=(),
        tracer_provider=telemetry.tracer_provider,
        meter_provider=telemetry.meter_provider,
    )
    try:
        with (
            Server(keepalive=HTTP_KEEPALIVE) as http,
            Server("1.3", keepalive=HTTPS_KEEPALIVE) as https,
            new_session(https.ca_file) as session,
        ):
            yield Stage(Screen(), telemetry, http, https, session)
    finally:
        pool_telemetry.uninstall()
