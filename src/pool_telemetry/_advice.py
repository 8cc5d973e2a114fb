"""What to do, where several findings advise the same."""

from __future__ import annotations

from ._figures import as_time
from ._snapshot import Durations
from ._thresholds import CLOSES_AT_ONCE, LONGEST_KEEPALIVE, SHORTEST_MEMORY

#: For whatever may fail a request.
RETRY = (
    "Have idempotent requests repeated: HTTPAdapter(max_retries=Retry(total=2)), as requests by itself repeats none. "
    "A POST is repeated only if Retry(allowed_methods=...) says so: where that is safe, by an idempotency key for one"
)
#: Where a page has said that already.
RETRY_AGAIN = "Have idempotent requests repeated, as said above"
_KNOBS = "nginx keepalive_timeout, gunicorn --keep-alive, uvicorn --timeout-keep-alive, an ALB's idle timeout"


def longer_keepalive(limit: Durations | None, gap: float, peer: str) -> tuple[str, str]:
    """What to set, and what to do if it cannot be set.

    Args:
        limit: the keep-alive limit, where it is known.
        gap: seconds that about 95 % of the connections lay idle at most; 0 where that is unknown.
        peer: who closes.
    """
    if limit is not None and limit.p95 <= CLOSES_AT_ONCE:
        first = f"Turn keep-alive on: {peer} closes right after a response without announcing it ({_KNOBS})"
    elif gap <= LONGEST_KEEPALIVE:
        enough = (
            f"above {as_time(gap)}, as about 95 % of the connections lay idle for no longer"
            if gap
            else "above the gaps"
        )
        first = f"Set the keep-alive limit, of the proxy or load balancer in front if there is one, {enough} ({_KNOBS})"
    else:
        first = f"Live with it: gaps of {as_time(gap)} (p95) are longer than networks remember connections"
    often = f" more often than every {as_time(limit.p95)}" if limit and limit.p95 > CLOSES_AT_ONCE else ""
    return first, f"If the limit is not yours to set: a cheap request{often} keeps one connection open"


def reminders(idle: float) -> tuple[str, str]:
    """How to have the network keep connections in mind that it forgets.

    Args:
        idle: seconds after which nearly all of them were forgotten.
    """
    probe = max(1, min(SHORTEST_MEMORY, int(idle / 2)))
    return (
        (
            "Let TCP keep-alive keep it in mind, at the program's start: HTTPConnection.default_socket_options.extend("
            f"[(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, {probe})]); not "
            "by assigning another list, which urllib3 2 does not see. Through a proxy: ProxyManager(socket_options=...)"
        ),
        "Or raise the idle timeout of what is on the way; where the server itself resets, only its own limit helps",
    )
