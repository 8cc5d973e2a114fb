"""Findings about one server's limits and one pool's size."""

from __future__ import annotations

from typing import NamedTuple

from ._advice import RETRY, longer_keepalive, reminders
from ._figures import (
    as_time,
    checked_out,
    cost_of,
    counted,
    dropped_in,
    in_percent,
    limit_of,
    make_finding,
    parked_in,
)
from ._finding import Finding, Severity
from ._snapshot import Durations, Snapshot, UpstreamSnapshot
from ._thresholds import (
    CHECKOUTS_PER_POOL,
    ENDED_SHARE,
    HIT_SHARE,
    HOSTS_KEPT,
    LEAST_DISCARDED,
    LEAST_ENDED,
    LEAST_HITS,
    LEAST_PARKED,
    LEAST_POOLS,
    LEAST_SURVIVORS,
    SHORTEST_MEMORY,
)


class _Hits(NamedTuple):
    """Checkouts that found a connection dropped."""

    number: int
    total: int
    evidence: dict[str, float]

    @property
    def told(self) -> str:
        return f"{self.number} of {counted(self.total, 'checkout')} ({in_percent(self.number / self.total)})"

    @property
    def cost(self) -> str:
        seconds = self.evidence.get("seconds_lost")
        return "" if seconds is None else f"; the new set-ups took about {as_time(seconds)} in all"


def _hits(upstream: UpstreamSnapshot, *reasons: str) -> _Hits | None:
    count, total = sum(dropped_in(upstream, "checkout", reason) for reason in reasons), checked_out(upstream)
    if count < LEAST_HITS or count > total or count < HIT_SHARE * total:
        return None
    return _Hits(count, total, {"checkouts": total, "share": count / total} | cost_of(upstream, "replaced", count))


def _keepalive_shorter_than_gaps(upstream: UpstreamSnapshot, _: Snapshot) -> Finding | None:
    hits = _hits(upstream, "fin", "close_notify")
    # A restart of the server ends no more than were ever open at once.
    if hits is None or hits.number <= upstream.active_peak:
        return None
    limit, closes, evidence = limit_of(upstream), upstream.remote_close_seconds, hits.evidence
    reused, replaced = upstream.idle_seconds.get("reused"), upstream.idle_seconds.get("replaced")
    dropped = [upstream.dropped_idle_seconds.get(reason) for reason in ("fin", "close_notify")]
    if limit is None and reused is not None and min((each.p05 for each in dropped if each), default=0) < reused.p95:
        return None  # they were ended at any age, as by restarts
    peer = "the proxy or the server behind it" if any(pool.is_proxied for pool in upstream.pools) else "the server"
    told = f"{hits.told} found a connection that {peer} had closed while it lay idle{hits.cost}"
    if closes is not None:
        ages = " to ".join(dict.fromkeys((as_time(closes.p05), as_time(closes.p95))))
        told += f"; {counted(closes.count, 'close')} seen, after {ages} of idling"
        evidence["closes_seen"] = closes.count
    if limit is not None:
        told += ", which is the keep-alive limit"
        evidence["limit_seconds"] = limit.p95
    parked = evidence["parked"] = parked_in(upstream)
    told += (
        f"; {parked} more {'lies' if parked == 1 else 'lie'} closed in the pools (CLOSE_WAIT), which is harmless"
        if parked
        else ""
    )
    gap = _long_gap(reused, replaced)
    evidence |= {"gap_p95_seconds": gap} if gap else {}
    return make_finding(
        "keepalive_shorter_than_gaps",
        Severity.MEDIUM,
        upstream,
        told,
        (*longer_keepalive(limit, gap, peer), f"A request may also come in the moment of the close, and fail. {RETRY}"),
        hits.number,
        **evidence,
    )


def _long_gap(reused: Durations | None, replaced: Durations | None) -> float:
    """About the p95 of both together, rather too long than too short: those replaced had lain idle for longest."""
    longest = reused.p99 if reused else 0.0
    if replaced is None:
        return longest
    part = 1 - 0.05 * (replaced.count + (reused.count if reused else 0)) / replaced.count
    steps = ((0.05, replaced.p05), (0.25, replaced.p25), (0.5, replaced.median), (0.75, replaced.p75))
    return max(longest, next((seconds for step, seconds in steps if step >= part), replaced.p95))


def _resets_after_idle(upstream: UpstreamSnapshot, _: Snapshot) -> Finding | None:
    hits, idle = _hits(upstream, "reset"), upstream.dropped_idle_seconds.get("reset")
    # A unix socket has no way between; and a server that crashes resets no more than were ever open at once.
    if hits is None or idle is None or upstream.port is None or hits.number <= upstream.active_peak:
        return None
    reused = upstream.idle_seconds.get("reused")
    if reused is not None and reused.count >= LEAST_SURVIVORS:
        if idle.p05 <= reused.p99:
            return None
        hits.evidence["reused_idle_p99_seconds"] = reused.p99
        compared = f"; 99 % of those reused had for {as_time(reused.p99)} at most"
    elif idle.p05 < SHORTEST_MEMORY:
        return None
    else:
        compared = ""
    hits.evidence["reset_idle_p05_seconds"] = idle.p05
    told = (
        f"{hits.told} found a connection that had been reset, 95 % of them after {as_time(idle.p05)} of idling or more"
        f"{compared}{hits.cost}: a NAT, firewall or load balancer on the way forgets it, or the server resets it"
    )
    advice = (
        *reminders(idle.p05),
        f"What is forgotten without a reset shows in a request that fails. {RETRY}",
    )
    return make_finding("resets_after_idle", Severity.MEDIUM, upstream, told, advice, hits.number, **hits.evidence)


def _late_data(upstream: UpstreamSnapshot, _: Snapshot) -> Finding | None:
    hits = _hits(upstream, "unexpected_data")
    if hits is None:
        return None
    is_tls = upstream.scheme == "https"
    advice = (
        (
            "Have the server send its session tickets with the handshake or none (OpenSSL: SSL_CTX_set_num_tickets), "
            "and ask for client certificates in the handshake, not after it"
        ),
        (
            "If it is not yours to set: TLS 1.2 sends tickets in the handshake only. Give this host an HTTPAdapter "
            "whose ssl_context has maximum_version = ssl.TLSVersion.TLSv1_2"
        ),
    )
    if not is_tls:
        advice = (
            (
                "Look at what the server sends after its responses: a body longer than its Content-Length, or one "
                "where none is allowed (HEAD, 204, 304)"
            ),
            "Repeat the request by hand and look on: curl -v, tcpdump",
        )
    told = (
        f"{hits.told} threw a connection away that was alive, because {'TLS data' if is_tls else 'data'} that urllib3 "
        f"had not asked for came after the response{hits.cost}"
    )
    return make_finding("late_data", Severity.MEDIUM, upstream, told, advice, hits.number, **hits.evidence)


def _server_closes_after_response(upstream: UpstreamSnapshot, _: Snapshot) -> Finding | None:
    ended, total = upstream.closed_connections.get("response_close", 0), checked_out(upstream)
    if ended < LEAST_ENDED or ended < ENDED_SHARE * total:
        return None
    told = (
        f"{ended} responses to {counted(total, 'checkout')} ended their connection (by Connection: close, or "
        "HTTP/1.0), so that the next request had to open another"
    )
    advice = (
        (
            "Turn the server's keep-alive on: gunicorn's sync workers have none, gthread has (--keep-alive); Python's "
            "http.server needs protocol_version = 'HTTP/1.1'; servers for development often have none"
        ),
        (
            "Nothing is wrong if the client itself asks for it by a header Connection: close, or if the server has to "
            "spread its load anew with each request"
        ),
    )
    evidence = {"checkouts": total, "share": ended / max(total, ended)} | cost_of(upstream, "new", ended)
    return make_finding("server_closes_after_response", Severity.MEDIUM, upstream, told, advice, ended, **evidence)


def _pool_per_request(upstream: UpstreamSnapshot, snapshot: Snapshot) -> Finding | None:
    pools, total = upstream.pools_created, checked_out(upstream)
    # A server that is down has no connections to reuse.
    if min(pools, upstream.opened_connections) < LEAST_POOLS or total > CHECKOUTS_PER_POOL * pools:
        return None
    told = f"{pools} pools were made for {counted(total, 'checkout')}, so that hardly any connection could be reused"
    advice = [
        "Make one requests.Session or PoolManager and use it for all requests (requests.get() makes one for each)",
        "Settings of TLS that are made anew for each request, as an ssl_context, make a pool for each, too",
    ]
    hosts = len(snapshot.upstreams)
    if hosts > HOSTS_KEPT:
        advice.insert(
            1,
            f"If there is only one: it keeps the pools of {HOSTS_KEPT} hosts, and there are {hosts} here or more. "
            "HTTPAdapter(pool_connections=...), PoolManager(num_pools=...)",
        )
    evidence = {"checkouts": total, "hosts": hosts} | cost_of(upstream, "new", pools - 1)
    return make_finding("pool_per_request", Severity.MEDIUM, upstream, told, tuple(advice), pools, **evidence)


def _pool_too_small(upstream: UpstreamSnapshot, _: Snapshot) -> Finding | None:
    discarded, total = upstream.closed_connections.get("discarded", 0), checked_out(upstream)
    peak, kept = upstream.active_peak, max((pool.maximum for pool in upstream.pools), default=0)
    # One burst discards no more than were in use at once; and a pool as large as that discards none.
    if discarded < LEAST_DISCARDED or discarded < HIT_SHARE * total or discarded <= peak or peak <= kept:
        return None
    told = (
        f"{counted(discarded, 'connection')} were closed because the pool they came back to was full, in "
        f"{counted(total, 'checkout')}; up to {peak} were in use at once"
    )
    evidence: dict[str, float] = {"checkouts": total, "active_peak": peak} | cost_of(upstream, "new", discarded)
    if kept:
        told += f", and the largest pool keeps {kept}"
        evidence["pool_maximum"] = kept
    together = " (all pools together: each needs less)" if len(upstream.pools) > 1 else ""
    advice = (
        (
            f"Let the pool keep {peak}{together}: HTTPAdapter(pool_maxsize={peak}), mounted for the host; "
            f"PoolManager(maxsize={peak}), whose default is 1"
        ),
        "Or have fewer threads make requests; pool_block=True makes them wait rather than open more",
    )
    return make_finding("pool_too_small", Severity.MEDIUM, upstream, told, advice, discarded, **evidence)


def _close_wait_parked(upstream: UpstreamSnapshot, snapshot: Snapshot) -> Finding | None:
    parked, peak = parked_in(upstream), upstream.active_peak
    if parked < LEAST_PARKED:
        return None
    slots = sum(pool.maximum for pool in upstream.pools)
    evidence: dict[str, float] = {"slots": slots, "active_peak": peak, "open": len(upstream.connections)}
    told = (
        f"{parked} of {counted(len(upstream.connections), 'connection')} lie in the pools closed by the other side "
        f"(CLOSE_WAIT), where no request gets down to them; at most {peak} were in use at once"
    )
    if snapshot.watched_seconds > 0:
        evidence["mean_in_use"] = upstream.use_seconds / snapshot.watched_seconds
        told += f", {evidence['mean_in_use']:.2f} on average"
    advice = (
        "Nothing need be done: each holds a file descriptor and no more, and the next burst replaces them",
        (
            f"To hold fewer, let fewer than {slots} be kept: HTTPAdapter(pool_maxsize=...), PoolManager(maxsize=...); "
            "what a burst opens beyond that is closed after use"
        ),
    )
    return make_finding("close_wait_parked", Severity.LOW, upstream, told, advice, parked, **evidence)


#: Each gives its finding, or None.
CHECKS = (
    _keepalive_shorter_than_gaps,
    _resets_after_idle,
    _late_data,
    _server_closes_after_response,
    _pool_per_request,
    _pool_too_small,
    _close_wait_parked,
)
