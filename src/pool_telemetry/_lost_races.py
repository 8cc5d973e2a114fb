"""What ended the connections that lost a race, as far as their idle times tell."""

from __future__ import annotations

from typing import NamedTuple

from ._advice import RETRY, longer_keepalive, reminders
from ._figures import as_time, in_percent, limit_of
from ._lifecycle import SHARED
from ._snapshot import Durations, UpstreamSnapshot
from ._thresholds import (
    LEAST_LOST,
    LEAST_SURVIVORS,
    LIMIT_SLACK,
    LIMIT_SPREAD,
    RACE_WINDOW,
    SHORTEST_MEMORY,
    SURVIVED_TIMES,
)


class Cause(NamedTuple):
    """What the figures say of why races were lost; goes into a finding."""

    told: str
    evidence: dict[str, float]
    advice: tuple[str, ...]


class _Idle(NamedTuple):
    """Idle times of all lost races: nearly all lie between the outer two, half are no longer than the middle one."""

    p05: float
    half: float
    p95: float
    lost: int


def cause_of(upstream: UpstreamSnapshot, by_reason: dict[str, int]) -> Cause | None:
    """What ended the connections, ``None`` where it cannot be told.

    Args:
        upstream: whose requests lost races.
        by_reason: how many, by reason.
    """
    known = [each for each in upstream.lost_race_idle_seconds.values() if each.count]
    lost, seen = sum(by_reason.values()), sum(each.count for each in known)
    # The limits of many servers taken together are none. And a few must not stand for the rest.
    if upstream.address in SHARED or seen < LEAST_LOST or 2 * seen <= lost:
        return None
    idle = _Idle(
        min(each.p05 for each in known), max(each.median for each in known), max(each.p95 for each in known), lost
    )
    limit = limit_of(upstream)
    if limit is not None and _is_close(idle, limit):
        return _by_a_hair(upstream, idle, limit)
    survived = _highest_reached(upstream.idle_seconds.get("reused"), lost + LEAST_SURVIVORS)
    if survived is not None and survived.seconds >= max(SURVIVED_TIMES * idle.half, idle.half + LIMIT_SLACK):
        return _by_restarts(upstream, idle, survived)
    # A unix socket has no way between.
    if limit is None and upstream.port is not None and by_reason["reset"] + by_reason["timed_out"] == lost:
        return _on_the_way(upstream, idle)
    return None


class _Quantile(NamedTuple):
    share: float
    seconds: float


def _highest_reached(durations: Durations | None, tail: int) -> _Quantile | None:
    """The highest quantile that so many durations reach or exceed, among them those lost, which had been reused too."""
    if durations is None:
        return None
    quantiles = ((0.99, durations.p99), (0.95, durations.p95), (0.75, durations.p75), (0.5, durations.median))
    reached = (_Quantile(*each) for each in quantiles if durations.count * (1 - each[0]) >= tail)
    return next(reached, None)


def _is_close(idle: _Idle, limit: Durations) -> bool:
    window = max(LIMIT_SLACK, min(RACE_WINDOW, LIMIT_SPREAD * limit.p95))
    return limit.p05 - window <= idle.p05 and idle.p95 <= limit.p95 + window


def _by_a_hair(upstream: UpstreamSnapshot, idle: _Idle, limit: Durations) -> Cause:
    reused, replaced = upstream.idle_seconds.get("reused"), upstream.idle_seconds.get("replaced")
    gap = max(idle.p95, reused.p99 if reused else 0, replaced.p95 if replaced else 0)
    ages = " to ".join(dict.fromkeys((as_time(idle.p05), as_time(idle.p95))))
    told = (
        f"; they had lain idle for {ages}, and the server closes after {as_time(limit.p95)}: they lost to its "
        "keep-alive limit by a hair"
    )
    evidence = {"idle_p05_seconds": idle.p05, "idle_p95_seconds": idle.p95, "limit_seconds": limit.p95}
    return Cause(told, evidence, (RETRY, *longer_keepalive(limit, gap, "the server")))


def _by_restarts(upstream: UpstreamSnapshot, idle: _Idle, survived: _Quantile) -> Cause:
    failed = sum(each.count for each in upstream.failed_setup_seconds.values())
    told = (
        f"; half of them had lain idle for {as_time(idle.half)} at most, and others went on after "
        f"{as_time(survived.seconds)}: no idle limit ended these, it looks like restarts or crashes of the server or "
        "its workers"
    )
    evidence = {
        "idle_median_seconds": idle.half,
        "survived_idle_seconds": survived.seconds,
        "failed_setups": float(failed),
    }
    advice = (
        RETRY,
        (
            "Have the server finish its requests before it stops, take no more of them by then, and not replace its "
            "workers too often (gunicorn --max-requests)"
        ),
    )
    return Cause(told, evidence, advice)


def _on_the_way(upstream: UpstreamSnapshot, idle: _Idle) -> Cause | None:
    reused = upstream.idle_seconds.get("reused")
    others = None
    if reused is not None and reused.count - idle.lost >= LEAST_SURVIVORS:
        others = _highest_reached(reused, idle.lost)
        if others is None or idle.p05 <= others.seconds:
            return None
    if idle.p05 < SHORTEST_MEMORY:
        return None
    told = f"; nearly all of them had lain idle for {as_time(idle.p05)} or longer"
    evidence = {"idle_p05_seconds": idle.p05}
    if others is not None:
        told += f", and {in_percent(others.share)} of all that were reused for {as_time(others.seconds)} at most"
        evidence["survived_idle_seconds"] = others.seconds
    told += ": a NAT, firewall or load balancer on the way had forgotten them, or the server resets what lies idle"
    return Cause(told, evidence, (RETRY, *reminders(idle.p05)))
