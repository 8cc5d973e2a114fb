"""Findings about how connections are used; they hold of several servers taken together, too."""

from __future__ import annotations

from ._advice import RETRY
from ._figures import as_time, checked_out, cost_of, counted, dropped_in, limit_of, make_finding
from ._finding import Finding, Severity
from ._lost_races import cause_of
from ._snapshot import Snapshot, UpstreamSnapshot
from ._thresholds import (
    HIT_SHARE,
    LEAST_HITS,
    LEAST_INHERITED,
    LEAST_LEAKED_SLOTS,
    LEAST_LOST,
    LEAST_TIMED_OUT,
    LEAST_WAITS,
    LONG_WAIT,
    LOST_SHARE,
)

_REASONS = ("fin", "close_notify", "reset", "unexpected_data", "timed_out", "unknown")
_READ = (
    "Read every response to its end, or close it: with session.get(..., stream=True) as response",
    (
        "With urllib3's preload_content=False: response.drain_conn(), or close() and release_conn(); by "
        "close() alone the slot stays taken"
    ),
)


def _inherited_connections(upstream: UpstreamSnapshot, _: Snapshot) -> Finding | None:
    count = upstream.inherited_connections
    if count < LEAST_INHERITED:
        return None
    told = (
        f"{counted(count, 'connection')}, opened by another process before it forked this one, "
        f"{'was' if count == 1 else 'were'} used here: where both use one, each may get the other's response"
    )
    advice = (
        (
            "Make the Session or PoolManager after the fork: in gunicorn's post_worker_init, Celery's "
            "worker_process_init, the initializer of a multiprocessing.Pool"
        ),
        "Where it is made before: replace it by a new one, in os.register_at_fork(after_in_child=...)",
    )
    return make_finding("inherited_connections", Severity.HIGH, upstream, told, advice, count)


def _leaked_slots(upstream: UpstreamSnapshot, _: Snapshot) -> Finding | None:
    count, timed_out = upstream.leaked_connections, upstream.checkouts.get("timed_out", 0)
    if count < LEAST_LEAKED_SLOTS or not upstream.pools or not all(pool.is_blocking for pool in upstream.pools):
        return None
    slots = sum(pool.maximum for pool in upstream.pools)
    told = (
        f"{counted(count, 'connection')} never came back, and as the pools block, each took a slot along for good; "
        f"the live pools had {counted(slots, 'slot')} to begin with"
    )
    told += f", and {counted(timed_out, 'checkout')} waited for one in vain" if timed_out else ""
    evidence = {"slots": slots, "timed_out": timed_out, "pending": upstream.pending_requests}
    return make_finding("leaked_slots", Severity.HIGH, upstream, told, _READ, count, **evidence)


def _lost_races(upstream: UpstreamSnapshot, _: Snapshot) -> Finding | None:
    by_reason = {reason: dropped_in(upstream, "request", reason) for reason in _REASONS}
    lost, reused = sum(by_reason.values()), upstream.checkouts.get("reused", 0)
    if lost < LEAST_LOST or lost < LOST_SHARE * reused:
        return None
    reasons = ", ".join(f"{reason} {count}" for reason, count in by_reason.items() if count)
    told = (
        f"{lost} of {counted(reused, 'request')} on a reused connection failed before a byte of the response came: the "
        f"connection was ended after urllib3 had checked it ({reasons})"
    )
    evidence = {"reused": reused, "share": lost / max(reused, lost)} | cost_of(upstream, "lost_race", lost)
    cause = cause_of(upstream, by_reason)
    if cause is not None:
        told, advice, evidence = told + cause.told, cause.advice, evidence | cause.evidence
    else:
        advice = _whatever_ended_them(upstream, by_reason)
    return make_finding("lost_races", Severity.HIGH, upstream, told, advice, lost, **evidence)


def _whatever_ended_them(upstream: UpstreamSnapshot, by_reason: dict[str, int]) -> tuple[str, ...]:
    limit = limit_of(upstream)
    known = "" if limit is None else f" ({as_time(limit.p95)}, by {counted(limit.count, 'close')})"
    advice = [
        RETRY,
        f"Raise the server's keep-alive limit{known} above the gaps between requests, so that few come just then",
        "If these come with restarts or crashes of the server: have it finish its requests before it stops",
    ]
    if by_reason["reset"]:
        advice.append("A NAT or load balancer that forgot an idle connection resets it, too: see TCP keep-alive")
    return tuple(advice)


def _waiting_for_connection(upstream: UpstreamSnapshot, _: Snapshot) -> Finding | None:
    timed_out, waits = upstream.checkouts.get("timed_out", 0), upstream.wait_seconds
    is_failing, told, affected = timed_out >= LEAST_TIMED_OUT, [], 0
    slots = sum(pool.maximum for pool in upstream.pools if pool.is_blocking)
    evidence: dict[str, float] = {"slots": slots, "active_peak": upstream.active_peak, "timed_out": timed_out}
    evidence["seconds_lost"] = sum(each.total for each in (waits, upstream.failed_wait_seconds) if each)
    if is_failing:
        told.append(f"{timed_out} checkouts of a blocking pool got no connection in time")
        affected += timed_out
    if waits is not None and waits.count >= LEAST_WAITS and waits.p95 >= LONG_WAIT:
        told.append(
            f"one in twenty of {counted(waits.count, 'checkout')} of a blocking pool waited {as_time(waits.p95)} or "
            f"longer for a connection, all together {as_time(waits.total)}"
        )
        affected += waits.count // 20
        evidence |= {"waits": waits.count, "wait_p95_seconds": waits.p95, "wait_max_seconds": waits.maximum}
    if not told:
        return None
    advice = (
        (
            "Give the pool as many connections as threads use it: HTTPAdapter(pool_maxsize=..., pool_block=True), "
            f"PoolManager(maxsize=..., block=True). It is {slots} now, over all pools"
        ),
        "Give connections back sooner: read or close a response before going on, and set a timeout for requests",
        "If the pool is there to spare the server, waiting is right; only urllib3 ends it (pool_timeout), not requests",
    )
    severity = Severity.HIGH if is_failing else Severity.MEDIUM
    return make_finding("waiting_for_connection", severity, upstream, "; ".join(told), advice, affected, **evidence)


def _unread_responses(upstream: UpstreamSnapshot, _: Snapshot) -> Finding | None:
    # What leaks is abandoned as well, as a rule: the two must not be added up.
    leaked, total = upstream.leaked_connections, checked_out(upstream)
    count = max(leaked, upstream.closed_connections.get("abandoned", 0))
    if count < LEAST_HITS or count < HIT_SHARE * total:
        return None
    told = (
        f"{count} connections were lost to responses that were not read to the end, in {counted(total, 'checkout')}; "
        f"{leaked} of them never came back to their pool"
    )
    advice = (*_READ, "Where reading is stopped on purpose, closing is right, and its price is a new connection")
    evidence = {"checkouts": total, "leaked": leaked} | cost_of(upstream, "new", count)
    return make_finding("unread_responses", Severity.MEDIUM, upstream, told, advice, count, **evidence)


#: Each gives its finding, or None.
CHECKS = (
    _inherited_connections,
    _leaked_slots,
    _lost_races,
    _waiting_for_connection,
    _unread_responses,
)
