"""The stage: a server, an ordinary connection pool, and the library installed as a user installs it."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import urllib3

import pool_telemetry

from .._snapshot import UpstreamSnapshot
from ._screen import Screen
from ._server import PATIENCE, Server

if TYPE_CHECKING:
    from ._telemetry import Telemetry

PLACES = 6  # the story says "six"


class Stage:
    """All that the scenes have in common."""

    def __init__(self, screen: Screen, server: Server, telemetry: Telemetry | None) -> None:
        self.screen, self.server, self.telemetry = screen, server, telemetry
        # `block`: never more than these. A `requests` session has the same pools inside, which do not block by default.
        self.http = urllib3.PoolManager(maxsize=PLACES, block=True, timeout=PATIENCE)
        self._told: Counter[str] = Counter()

    def ask(self, path: str, method: str = "GET", **options: Any) -> urllib3.BaseHTTPResponse:
        """A request; if OpenTelemetry is told, in a span such as an instrumented client makes."""
        span = self.telemetry.span(f"{method} {path}") if self.telemetry else contextlib.nullcontext()
        with span:
            return self.http.request(method, self.server.url + path, **options)

    def burst(self, path: str) -> None:
        """As many requests as there are places, at the same moment."""
        with ThreadPoolExecutor(PLACES) as threads:
            list(threads.map(self.ask, [path] * PLACES))

    def look(self) -> UpstreamSnapshot | None:
        """What is known of the server and of its pool, as soon as there is one."""
        return next((each for each in pool_telemetry.snapshot().upstreams if each.port == self.server.port), None)

    def upstream(self) -> UpstreamSnapshot:
        """What is known of the server and of its pool, once it was asked something."""
        found = self.look()
        assert found is not None
        return found

    def since(self) -> Counter[str]:
        """The checkouts by outcome since this was asked last."""
        now = Counter(self.upstream().checkouts)
        told, self._told = self._told, now
        return now - told

    def until(self, is_so: Callable[[], bool]) -> None:
        """Wait for something that the server or the kernel is about to do.

        Raises:
            TimeoutError: it did not.
        """
        deadline = time.monotonic() + PATIENCE
        while not is_so():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {PATIENCE} s: {self.server.books}")
            time.sleep(0.01)


@contextlib.contextmanager
def set_the_stage(screen: Screen, telemetry: Telemetry | None) -> Iterator[Stage]:
    """The server, the pool, and the library installed; arguments come before whatever the environment says."""
    pool_telemetry.uninstall()  # what the start-up hook may have installed is set up otherwise
    pool_telemetry.install(
        spans="notable" if telemetry else "off",
        metrics="all" if telemetry else "off",
        excluded_hosts=(),
        max_upstreams=100,
        export=False,
        report_at_exit=False,
        tracer_provider=telemetry.tracer_provider if telemetry else None,
        meter_provider=telemetry.meter_provider if telemetry else None,
    )
    try:
        with Server(PLACES) as server:
            stage = Stage(screen, server, telemetry)
            try:
                yield stage
            finally:
                stage.http.clear()
    finally:
        pool_telemetry.uninstall()
