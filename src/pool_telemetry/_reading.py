"""One upstream's figures at one moment, made from its book and a look at each of its open connections."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from . import _kernel
from ._facts import FinSeen
from ._frozen import frozen
from ._lifecycle import (
    CLOSE_WAIT,
    CloseReason,
    DropPhase,
    DropReason,
    Outcome,
    SocketState,
    Upstream,
)
from ._looks import Look
from ._records import ACTIVE, IDLE, Book, ConnectionRecord, OpenKey, PoolRecord, SocketKey
from ._turns import in_turns
from ._verdicts import close_wait_ns, remote_close_ns


@frozen
class Reading:
    """One upstream's figures at one moment: totals since the start, levels now."""

    upstream: Upstream
    checkouts: dict[Outcome, int]
    drops: dict[tuple[DropReason, DropPhase], int]
    opened: int
    adopted: int
    closed: dict[CloseReason, int]
    leaked: int
    open: dict[OpenKey, int]
    sockets: dict[SocketKey, int]
    close_wait_age_ns: int | None
    pending: int
    sizes: dict[bool, int]
    peak: int
    pools: int
    creations: int
    use_ns: int


def read_book(
    book: Book,
    looks: dict[ConnectionRecord, Look],
    pools: list[PoolRecord],
    peer_of: Callable[[ConnectionRecord], str | None] | None,
) -> tuple[Reading, list[FinSeen]]:
    """An upstream's figures, and the FINs that nobody has told of yet.

    Args:
        book: whose lock is held.
        looks: at all of its connections.
        pools: those that live, and have not been closed.
        peer_of: gives the peer's address by which levels are kept apart, if they are.
    """
    seen: Counter[tuple[str, str, str | None, str | None]] = Counter()
    fins: list[FinSeen] = []
    oldest = reuses = use_ns = 0
    for part in in_turns(tuple(looks)):  # not items(): thousands of pairs would call for the garbage collector
        for connection in part:
            is_idle, state, at = looks[connection]
            level = IDLE if is_idle else ACTIVE
            peer = None if peer_of is None else peer_of(connection)
            seen[level, connection.version, peer, state.tcp_state] += 1
            reuses += connection.reuses
            use_ns += connection.use_ns
            if is_idle and state.tcp_state == CLOSE_WAIT:
                idle_ns = connection.idle_ns(at)
                oldest = max(oldest, close_wait_ns(state, idle_ns) or 0)
                fin = fin_seen(connection, remote_close_of(connection, state, idle_ns))
                if fin is not None:
                    fins.append(fin)
    open_: Counter[OpenKey] = Counter()
    sockets: Counter[SocketKey] = Counter()
    for (level, version, peer, tcp_state), count in seen.items():
        open_[level, version, peer] += count
        sockets[level, tcp_state] += count
    sizes: Counter[bool] = Counter()
    for pool in pools:
        sizes[pool.is_block] += pool.size
    book.open_keys.update(dict.fromkeys(open_))
    book.socket_keys.update(dict.fromkeys(sockets))
    book.size_keys.update(dict.fromkeys(sizes))
    checkouts = Counter(book.checkouts)
    checkouts[Outcome.REUSED] += reuses
    reading = Reading(
        upstream=book.upstream,
        checkouts={outcome: checkouts[outcome] for outcome in Outcome},
        drops={(reason, phase): book.drops[reason, phase] for reason in DropReason for phase in DropPhase},
        opened=book.opened,
        adopted=book.adopted,
        closed={reason: book.closed[reason] for reason in CloseReason},
        leaked=book.leaked,
        open={key: open_[key] for key in book.open_keys},
        sockets={key: sockets[key] for key in book.socket_keys},
        close_wait_age_ns=oldest if _kernel.HAS_TCP_INFO and not book.upstream.is_unix_socket else None,
        pending=len(book.waiting),
        sizes={is_block: sizes[is_block] for is_block in book.size_keys},
        peak=book.highest_peak(),
        pools=len(pools),
        creations=book.creations,
        use_ns=book.use_ns + use_ns,
    )
    return reading, fins


def remote_close_of(connection: ConnectionRecord, state: SocketState, idle_ns: int | None) -> int | None:
    """Idle age at which the upstream closed; ``None`` where that cannot be known, behind another's socket for one."""
    return None if connection.pool.is_proxied else remote_close_ns(state, idle_ns, connection.tls_version)


def fin_seen(connection: ConnectionRecord, remote_close: int | None) -> FinSeen | None:
    """What to tell of a connection's end by the upstream: once, by the first who sees it."""
    return FinSeen(connection, remote_close) if remote_close is not None and connection.claim_fin() else None
