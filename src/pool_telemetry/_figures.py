"""Figures of an upstream that several findings rest on, and how they are written in a sentence."""

from __future__ import annotations

from ._finding import Finding, Severity
from ._snapshot import Durations, UpstreamSnapshot
from ._thresholds import LEAST_CLOSES, LIMIT_SLACK, LIMIT_SPREAD


def make_finding(
    name: str,
    severity: Severity,
    upstream: UpstreamSnapshot,
    told: str,
    advice: tuple[str, ...],
    affected: int,
    /,
    **evidence: float,
) -> Finding:
    """A finding of this upstream; every one says how many connections or requests are affected."""
    return Finding(name, severity, upstream.name, f"{told}.", {"affected": affected} | evidence, advice)


def dropped_in(upstream: UpstreamSnapshot, phase: str, reason: str) -> int:
    """Connections that were dropped for a reason, as noticed in a phase."""
    return upstream.drops.get(reason, {}).get(phase, 0)


def checked_out(upstream: UpstreamSnapshot) -> int:
    """Checkouts that got a connection."""
    return sum(upstream.checkouts.get(outcome, 0) for outcome in ("reused", "new", "replaced"))


def parked_in(upstream: UpstreamSnapshot) -> int:
    """Pooled connections in CLOSE_WAIT."""
    return sum(each.state == "idle" and each.tcp_state == "close_wait" for each in upstream.connections)


def limit_of(upstream: UpstreamSnapshot) -> Durations | None:
    """The moments of the peer's FINs, if they are so many and lie so close together that they show a limit."""
    closes = upstream.remote_close_seconds
    return closes if closes is not None and closes.count >= LEAST_CLOSES and is_one_limit(closes) else None


def is_one_limit(closes: Durations) -> bool:
    """Whether moments of FINs lie so close together that one limit may have ended all."""
    return closes.p95 - closes.p05 <= max(LIMIT_SLACK, LIMIT_SPREAD * closes.p95)


def cost_of(upstream: UpstreamSnapshot, cause: str, times: int) -> dict[str, float]:
    """What so many set-ups cost, at their mean; nothing where that is unknown."""
    took = upstream.setup_seconds.get(cause)
    return {"seconds_lost": took.total / took.count * times} if took and took.count else {}


def counted(number: int, word: str) -> str:
    """A number of something."""
    return f"{number} {word}" + ("" if number == 1 else "s")


def in_percent(part: float) -> str:
    """A share from 0 to 1."""
    return f"{part:.0%}".replace("%", " %")


def as_time(seconds: float) -> str:
    """A duration in the unit that suits it."""
    if seconds < 0.9995:
        return f"{seconds * 1000:.{1 if seconds < 0.01 else 0}f} ms"
    return f"{seconds:.{2 if seconds < 100 else 0}f} s"
