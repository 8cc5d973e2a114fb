"""The lines of the table: which variant is measured under which client."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .floor import Floor
from .variants import SEAMS, Datadog, Instrumentor, Ours, Replaced, Variant, wrapt_noop


@dataclass(frozen=True)
class Row:
    """A line of the table: a variant under a client, in a process with OpenTelemetry's SDK or without."""

    client: str
    name: str
    make: Callable[[], Variant]
    has_sdk: bool = True
    requests: int = 100  # so many make a measured block

    @property
    def kind(self) -> tuple[str, bool, int]:
        """What rows that have their bare requests in common share."""
        return self.client, self.has_sdk, self.requests


NOOP = "3 no-op wrapt wrappers"
METRICS = "pool_telemetry, metrics"
DEFAULT = "pool_telemetry, metrics and spans"
RECORDED = "pool_telemetry, samples recorded"
INCUMBENT = "opentelemetry-instrumentation"
ALL: dict[str, Any] = {"metrics": "all", "spans": "all"}


def rows() -> list[Row]:
    """Everything that ``make bench`` compares."""
    three = SEAMS[:3]
    return [
        Row("urllib3", NOOP, lambda: Replaced(wrapt_noop, three)),
        Row("urllib3", "2 no-op wrapt proxies, 1 plain", lambda: Floor(is_bare=True)),
        Row("urllib3", "the least that tells as much", lambda: Floor(is_bare=False)),
        Row("urllib3", METRICS, lambda: Ours(spans="off")),
        Row("urllib3", DEFAULT, Ours),
        # Each 256th request records what the buffer holds, and one of them is within each block.
        Row("urllib3", RECORDED, Ours, requests=256),
        Row("urllib3", "pool_telemetry, mode all", lambda: Ours(**ALL)),
        Row("urllib3", "pool_telemetry, no SDK", Ours, has_sdk=False),
        Row("urllib3", INCUMBENT, lambda: Instrumentor("opentelemetry.instrumentation.urllib3", "URLLib3Instrumentor")),
        Row("urllib3", "ddtrace", lambda: Datadog("urllib3")),
        Row("requests", NOOP, lambda: Replaced(wrapt_noop, three)),
        Row("requests", DEFAULT, Ours),
        Row(
            "requests",
            INCUMBENT,
            lambda: Instrumentor("opentelemetry.instrumentation.requests", "RequestsInstrumentor"),
        ),
        Row("requests", "ddtrace", lambda: Datadog("requests")),
    ]
