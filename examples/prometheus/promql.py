"""Queries as the dashboard's panels make them: names, labels and forms that come again and again.

Durations are sums over counts. A quantile from buckets is only known to lie between two borders: it is an estimate.
"""

from __future__ import annotations

WHERE = 'job=~"$service", instance=~"$instance", server_address=~"$upstream"'
SERVER = "job, server_address, server_port"
PROCESS = f"instance, {SERVER}"
TO = "{{job}} → {{server_address}}:{{server_port}}"  # a legend
FROM = "{{instance}} → {{server_address}}:{{server_port}}"
OUTCOME, CAUSE = "urllib3_pool_checkout_outcome", "urllib3_connection_setup_cause"
DROP, PHASE = "urllib3_connection_drop_reason", "urllib3_connection_drop_phase"
CLOSE = "urllib3_connection_close_reason"
STATE, TCP_STATE = "http_connection_state", "network_connection_state"
IDLE, REMOTE_CLOSE = "urllib3_connection_idle_duration_seconds", "urllib3_connection_remote_close_duration_seconds"
SETUP, WAIT = "urllib3_connection_setup_duration_seconds", "urllib3_pool_wait_duration_seconds"
CHECKOUTS, CLOSED = "urllib3_pool_checkouts_total", "urllib3_pool_closed_connections_total"
DROPPED, SOCKETS = "urllib3_pool_dropped_connections_total", "urllib3_pool_socket_count"
REUSED, SERVED = f'{OUTCOME}="reused"', f'{OUTCOME}=~"reused|new|replaced"'
RECONNECTED = f'{CAUSE}=~"replaced|lost_race"'
PARKED = f'{STATE}="idle", {TCP_STATE}="close_wait"'
AT_REQUEST, AT_CHECKOUT = f'{PHASE}="request"', f'{PHASE}="checkout"'


def series(metric: str, *matchers: str) -> str:
    """A selector that heeds the dashboard's variables."""
    return f"{metric}{{{', '.join((WHERE, *matchers))}}}"


def total(by: str, vector: str) -> str:
    """The sum over everything else; over all, if ``by`` is empty."""
    return f"sum by ({by}) ({vector})" if by else f"sum({vector})"


def rate(by: str, metric: str, *matchers: str, over: str = "$__rate_interval") -> str:
    """What a counter grows by in a second."""
    return total(by, f"rate({series(metric, *matchers)}[{over}])")


def grown(by: str, metric: str, *matchers: str) -> str:
    """What a counter has grown by in the time that the dashboard shows."""
    return total(by, f"increase({series(metric, *matchers)}[$__range])")


def mean(by: str, metric: str, *matchers: str) -> str:
    """The mean of what a histogram got lately."""
    return f"{rate(by, metric + '_sum', *matchers)} / {rate(by, metric + '_count', *matchers)}"


def mean_of_all(by: str, metric: str) -> str:
    """The mean of what a histogram got since the processes were started."""
    return f"{total(by, series(metric + '_sum'))} / {total(by, series(metric + '_count'))}"


def estimate(by: str, metric: str, *matchers: str) -> str:
    """The p95 of it, as far as the buckets tell."""
    return f"histogram_quantile(0.95, {rate(f'{by}, le', metric + '_bucket', *matchers)})"
