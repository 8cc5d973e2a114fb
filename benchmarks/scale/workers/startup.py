"""What it takes to import and switch on an instrumentation: ``startup NAME nothing|application``."""

from __future__ import annotations

import sys

from .answering import Clocks, answer

OURS, URLLIB3, REQUESTS, NONE = "ours", "urllib3", "requests", "none"
NOTHING, APPLICATION = "nothing", "application"


def set_up(there: str) -> None:
    """What a program has imported by then."""
    if there == APPLICATION:
        import requests  # noqa: F401 - and urllib3 with it
        from opentelemetry import metrics, trace
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.trace import TracerProvider

        trace.set_tracer_provider(TracerProvider())
        metrics.set_meter_provider(MeterProvider())


def switch_on(name: str) -> None:
    """As a program's first lines have it."""
    if name == OURS:
        import pool_telemetry

        pool_telemetry.install()
    elif name == URLLIB3:
        from opentelemetry.instrumentation.urllib3 import URLLib3Instrumentor

        URLLib3Instrumentor().instrument()
    elif name == REQUESTS:
        from opentelemetry.instrumentation.requests import RequestsInstrumentor

        RequestsInstrumentor().instrument()


def main(name: str, there: str) -> None:
    """Answers the line on stdin."""
    set_up(there)

    def block() -> dict[str, float]:
        clocks = Clocks()
        switch_on(name)
        return clocks.read()

    answer(block=block, make=lambda: switch_on(name))


if __name__ == "__main__":
    main(*sys.argv[1:])
