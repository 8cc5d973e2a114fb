"""What was emitted: metrics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from misbehaving import Server

from .screen import BOLD, DIM, milliseconds, seconds, spread
from .stage import HTTP_KEEPALIVE, HTTPS_KEEPALIVE, Stage
from .telemetry import OUTCOME, PHASE, PREFIX, REASON, Metrics


def show_metrics(stage: Stage, metrics: Metrics) -> None:
    """A compact summary for each upstream."""
    for server, limit in zip(stage.servers, (HTTP_KEEPALIVE, HTTPS_KEEPALIVE), strict=True):
        print(f"\n{stage.screen.paint(server.url, BOLD)}")

        def row(name: str, text: str, *codes: str) -> None:
            stage.screen.hanging(f"   {name:<33} ", text, *codes)

        def counts(name: str, *attributes: str, server: Server = server) -> None:
            found = metrics.by(PREFIX + name, server, *attributes)
            row(name, f"{sum(found.values())}:~{spread(found)}" if found else "0")

        def samples(name: str, attribute: str, show: Callable[[Any], str], server: Server = server) -> None:
            found = metrics.by(PREFIX + name, server, attribute)
            row(name, ", ".join(f"{kind}~{show(point)}" for kind, point in sorted(found.items())))

        counts("pool.checkouts", OUTCOME)
        counts("pool.dropped_connections", REASON, PHASE)
        samples("connection.idle.duration", OUTCOME, seconds)
        for point in metrics.by(PREFIX + "connection.remote_close.duration", server).values():
            row("connection.remote_close.duration", seconds(point))
            row("", f"^ the server's keep-alive limit ({limit}~s)", DIM)
        samples("connection.setup.duration", "urllib3.connection.setup.cause", milliseconds)
        samples("connection.setup.phase.duration", "urllib3.connection.setup.phase", milliseconds)
        row("pool.opened_connections", str(metrics.total(PREFIX + "pool.opened_connections", server)))
        counts("pool.closed_connections", "urllib3.connection.close.reason")
        row("pool.leaked_connections", str(metrics.total(PREFIX + "pool.leaked_connections", server)))
        row("pool.active.peak", str(metrics.total(PREFIX + "pool.active.peak", server)))
