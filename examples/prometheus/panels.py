"""What the dashboard asks, and how to read each answer: a row for each question of operators.

Figures are summed over processes, unless a single one matters.
"""

from __future__ import annotations

from typing import NamedTuple

from .promql import (
    AT_CHECKOUT,
    AT_REQUEST,
    CAUSE,
    CHECKOUTS,
    CLOSE,
    CLOSED,
    DROP,
    DROPPED,
    FROM,
    IDLE,
    OUTCOME,
    PARKED,
    PROCESS,
    RECONNECTED,
    REMOTE_CLOSE,
    REUSED,
    SERVED,
    SERVER,
    SETUP,
    SOCKETS,
    STATE,
    TCP_STATE,
    TO,
    WAIT,
    estimate,
    grown,
    mean,
    mean_of_all,
    rate,
    series,
    total,
)


class Panel(NamedTuple):
    """One panel.

    Attributes:
        description: how it is to be read, in a sentence or two.
        unit: Grafana's name of it.
        queries: by the legend of their series.
        kind: of Grafana's panels; a ``stat`` shows one figure of now.
    """

    title: str
    description: str
    unit: str
    queries: dict[str, str]
    kind: str = "timeseries"


#: Panels beside each other.
Line = tuple[Panel, ...]

ROWS: dict[str, tuple[Line, ...]] = {
    "At a glance": (
        (
            Panel(
                "Checkouts that had to connect",
                "Share of the checkouts that got a connection, and not a live one from the pool.",
                "percentunit",
                {"": f"1 - {grown('', CHECKOUTS, REUSED)} / {grown('', CHECKOUTS, SERVED)}"},
                "stat",
            ),
            Panel(
                "Spent on reconnecting",
                "Seconds in each second, over all threads: what connecting again took, in place of dropped "
                "connections.",
                "suffix: s/s",
                {"": rate("", f"{SETUP}_sum", RECONNECTED, over="$__range")},
                "stat",
            ),
            Panel(
                "Sockets in CLOSE_WAIT",
                "Pooled connections that the server has closed and nobody has looked at since.",
                "short",
                {"": total("", series(SOCKETS, PARKED))},
                "stat",
            ),
            Panel(
                "Lost races",
                "Requests on a reused connection that failed before a byte of the response came, in the time shown.",
                "short",
                {"": grown("", DROPPED, AT_REQUEST)},
                "stat",
            ),
            Panel(
                "Leaked connections",
                "That never came back, since the processes were started.",
                "short",
                {"": total("", series("urllib3_pool_leaked_connections_total"))},
                "stat",
            ),
            Panel(
                "Threads that wait",
                "For a connection of a blocking pool, now.",
                "short",
                {"": total("", series("urllib3_pool_pending_requests"))},
                "stat",
            ),
        ),
    ),
    "1. Is the pool too small? How many connections are discarded, and for which host?": (
        (
            Panel(
                "Discarded connections",
                "Closed because the pool was full when they came back: each served one request. All the time: more "
                "threads than the pool keeps connections.",
                "cps",
                {TO: rate(SERVER, CLOSED, f'{CLOSE}="discarded"')},
            ),
            Panel(
                "Most connections in use at once",
                "Of each process, since it was started: what the pool has to hold.",
                "short",
                {FROM: f"max by ({PROCESS}) ({series('urllib3_pool_active_peak')})"},
            ),
            Panel(
                "Size of the pools",
                "What all live pools of a process may keep for that host together. Beside the peak: of one pool, the "
                "size that it needs.",
                "short",
                {FROM: total(PROCESS, series("urllib3_pool_size"))},
            ),
        ),
    ),
    "2. How often does a reused connection fail, and after how much idling: which keep-alive should be set?": (
        (
            Panel(
                "Dropped connections found at a checkout",
                "How they were ended. `fin`: the server hung up; `reset`: it, or what lies on the way; "
                "`unexpected_data`: alive, and thrown away. urllib3 puts these right, at the price of a set-up.",
                "cps",
                {f"{{{{{DROP}}}}} · {TO}": rate(f"{SERVER}, {DROP}", DROPPED, AT_CHECKOUT)},
            ),
            Panel(
                "Lost races",
                "Ended with the request on its way: only a retry puts these right.",
                "cps",
                {f"{{{{{DROP}}}}} · {TO}": rate(f"{SERVER}, {DROP}", DROPPED, AT_REQUEST)},
            ),
            Panel(
                "Share of reused connections that lost the race",
                "Of the requests on reused connections; 0.1 % breaks three nines.",
                "percentunit",
                {TO: f"{rate(SERVER, DROPPED, AT_REQUEST)} / {rate(SERVER, CHECKOUTS, REUSED)}"},
            ),
        ),
        (
            Panel(
                "Idle time of connections when they are taken",
                "The mean. Found dead (`replaced`) after much longer than `reused`: it is the idling that ends them.",
                "s",
                {f"{{{{{OUTCOME}}}}} · {TO}": mean(f"{SERVER}, {OUTCOME}", IDLE)},
            ),
            Panel(
                "Gaps between requests, p95",
                "An estimate. The server's keep-alive limit should lie above it.",
                "s",
                {TO: estimate(SERVER, IDLE)},
            ),
        ),
    ),
    "3. How many pooled sockets are in CLOSE_WAIT, per host, and for how long: parked or leaking?": (
        (
            Panel(
                "Sockets in CLOSE_WAIT",
                "Of each process. A level is parked: what a burst has opened. A line that only climbs is a leak.",
                "short",
                {FROM: total(PROCESS, series(SOCKETS, PARKED))},
            ),
            Panel(
                "The oldest of them",
                "For how long the server has been gone. It falls when a burst gets down to them, or the pool is "
                "closed.",
                "s",
                {FROM: f"max by ({PROCESS}) ({series('urllib3_pool_close_wait_age_seconds')})"},
            ),
            Panel(
                "All sockets, by TCP state",
                "As the kernel gives it; `idle` lies in a pool, `active` is in use.",
                "short",
                {f"{{{{{STATE}}}}} {{{{{TCP_STATE}}}}}": total(f"{STATE}, {TCP_STATE}", series(SOCKETS))},
            ),
        ),
    ),
    "4. Are connections reused at all, and why not?": (
        (
            Panel(
                "Checkouts",
                "What was found: `new`, nothing usable; `replaced`, a dead connection.",
                "cps",
                {f"{{{{{OUTCOME}}}}}": rate(OUTCOME, CHECKOUTS)},
            ),
            Panel(
                "Share that is reused",
                "Of the checkouts that got a connection. Behind a server with keep-alive and one Session it is nearly"
                " all.",
                "percentunit",
                {TO: f"{rate(SERVER, CHECKOUTS, REUSED)} / {rate(SERVER, CHECKOUTS, SERVED)}"},
            ),
            Panel(
                "Closed connections",
                "Why each has ended. `response_close`: the server said so; `pool_closed`: a Session for each request,"
                " perhaps.",
                "cps",
                {f"{{{{{CLOSE}}}}}": rate(CLOSE, CLOSED)},
            ),
        ),
        (
            Panel(
                "Pools made",
                "A Session for each request makes one each time, and reuses nothing.",
                "cps",
                {TO: rate(SERVER, "urllib3_pool_creations_total")},
            ),
            Panel(
                "Requests of a connection",
                'The mean, of those that have ended. With metrics="all" only.',
                "short",
                {TO: mean(SERVER, "urllib3_connection_requests")},
            ),
        ),
    ),
    "5. Are responses leaked?": (
        (
            Panel(
                "Leaked connections",
                "Of each process, since it was started: each has cost a blocking pool a place, for good.",
                "short",
                {FROM: total(PROCESS, series("urllib3_pool_leaked_connections_total"))},
            ),
            Panel(
                "Responses that were not read to their end",
                "Their connection cannot be used again.",
                "cps",
                {TO: rate(SERVER, CLOSED, f'{CLOSE}="abandoned"')},
            ),
        ),
    ),
    "6. How long do threads wait for a connection?": (
        (
            Panel(
                "Wait for a connection",
                "The mean of the checkouts of blocking pools that got one, waits of zero included.",
                "s",
                {TO: mean(SERVER, WAIT, 'error_type=""')},
            ),
            Panel(
                "Wait for a connection, p95",
                "An estimate.",
                "s",
                {TO: estimate(SERVER, WAIT, 'error_type=""')},
            ),
            Panel(
                "Threads that wait",
                "At the moments of collection.",
                "short",
                {FROM: total(PROCESS, series("urllib3_pool_pending_requests"))},
            ),
            Panel(
                "Checkouts that timed out",
                "Their requests have failed: EmptyPoolError.",
                "cps",
                {TO: rate(SERVER, CHECKOUTS, f'{OUTCOME}="timed_out"')},
            ),
        ),
    ),
    "7. What do connecting and TLS cost?": (
        (
            Panel(
                "Spent on reconnecting",
                "Seconds in each second, over all threads: 1 is a thread that does nothing else. In place of dropped "
                "connections and after lost races.",
                "suffix: s/s",
                {TO: rate(SERVER, f"{SETUP}_sum", RECONNECTED)},
            ),
            Panel(
                "Set-up of a connection",
                "The mean, by why it was necessary: name look-up, TCP, proxy and TLS together.",
                "s",
                {f"{{{{{CAUSE}}}}} · {TO}": mean(f"{SERVER}, {CAUSE}", SETUP, 'error_type=""')},
            ),
            Panel(
                "Set-up of a connection, p95",
                "An estimate.",
                "s",
                {TO: estimate(SERVER, SETUP, 'error_type=""')},
            ),
        ),
        (
            Panel(
                "Failed set-ups",
                "By the exception.",
                "cps",
                {f"{{{{error_type}}}} · {TO}": rate(f"{SERVER}, error_type", f"{SETUP}_count", 'error_type!=""')},
            ),
            Panel(
                "Phases of a set-up",
                'The mean of each: dns, connect, tls, proxy. With metrics="all" only.',
                "s",
                {
                    "{{urllib3_connection_setup_phase}} · " + TO: mean(
                        f"{SERVER}, urllib3_connection_setup_phase",
                        "urllib3_connection_setup_phase_duration_seconds",
                        'error_type=""',
                    )
                },
            ),
        ),
    ),
    "8. What is the server's idle limit?": (
        (
            Panel(
                "Keep-alive limit, measured",
                "After so much idling the server hung up: the mean since the processes were started. One limit gives "
                "one figure; restarts of the server draw it down.",
                "s",
                {TO: mean_of_all(SERVER, REMOTE_CLOSE)},
                "stat",
            ),
            Panel(
                "Closes that were measured",
                "On how many the figure rests. A connection counts once.",
                "short",
                {TO: total(SERVER, series(f"{REMOTE_CLOSE}_count"))},
                "stat",
            ),
        ),
        (
            Panel(
                "Keep-alive limit and gaps between requests",
                "Means, lately. A limit below the gaps: requests find their connection closed.",
                "s",
                {f"limit · {TO}": mean(SERVER, REMOTE_CLOSE), f"gaps · {TO}": mean(SERVER, IDLE)},
            ),
        ),
    ),
    "9. Does close() really close?": (
        (
            Panel(
                "Open connections",
                "They should fall when pools are closed or go.",
                "short",
                {f"{{{{{STATE}}}}} · {TO}": total(f"{SERVER}, {STATE}", series("http_client_open_connections"))},
            ),
            Panel(
                "Live pools",
                "One that was closed, or collected, is none.",
                "short",
                {TO: total(SERVER, series("urllib3_pool_count"))},
            ),
            Panel(
                "Closed with their pool",
                "By close(), clear(), eviction, or because nobody held the pool any more.",
                "cps",
                {TO: rate(SERVER, CLOSED, f'{CLOSE}="pool_closed"')},
            ),
            Panel(
                "Connections in use",
                'The mean number, from the time that they were checked out. With metrics="all" only.',
                "short",
                {TO: rate(SERVER, "urllib3_pool_use_time_seconds_total")},
            ),
        ),
    ),
}
