"""One upstream's part of a snapshot, made from its book and a look at each of its open connections."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from . import _tally
from ._digest import Digest
from ._lifecycle import CLOSE_WAIT
from ._looks import Look
from ._reading import Reading
from ._records import ACTIVE, IDLE, Book, ConnectionRecord, PoolRecord
from ._snapshot import Connection, Durations, Pool, UpstreamSnapshot
from ._turns import in_turns
from ._verdicts import close_wait_ns

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_SECOND = 1e9


def view_book(
    book: Book, reading: Reading, looks: dict[ConnectionRecord, Look], pools: Iterable[PoolRecord]
) -> UpstreamSnapshot:
    """An upstream as a snapshot has it.

    Args:
        book: whose lock is held.
        reading: its totals, of the same moment.
        looks: at all of its connections.
        pools: those that live, and have not been closed.
    """
    by_pool: dict[PoolRecord, list[Connection]] = {pool: [] for pool in pools}
    for part in in_turns(tuple(looks)):
        for connection in part:
            view = _connection(connection, looks[connection])
            try:
                by_pool[connection.pool].append(view)
            except KeyError:
                by_pool[connection.pool] = [view]
    drops: dict[str, dict[str, int]] = {}
    for (reason, phase), count in reading.drops.items():
        drops.setdefault(reason.value, {})[phase.value] = count
    kinds = _Kinds(book)
    return UpstreamSnapshot(
        scheme=reading.upstream.scheme,
        address=reading.upstream.address,
        port=reading.upstream.port,
        pools=tuple(
            Pool(pool.size, pool.is_block, pool.is_proxied, tuple(connections)) for pool, connections in by_pool.items()
        ),
        checkouts={outcome.value: count for outcome, count in reading.checkouts.items()},
        drops=drops,
        opened_connections=reading.opened,
        adopted_connections=reading.adopted,
        inherited_connections=book.inherited + sum(each.is_used_by_heir() for each in book.connections),
        closed_connections={reason.value: count for reason, count in reading.closed.items()},
        leaked_connections=reading.leaked,
        pools_created=reading.creations,
        pending_requests=reading.pending,
        active_peak=reading.peak,
        use_seconds=reading.use_ns / _SECOND,
        idle_seconds=kinds.by_word(_tally.IDLE),
        dropped_idle_seconds=kinds.by_word(_tally.DROPPED_IDLE),
        remote_close_seconds=kinds.alone(_tally.REMOTE_CLOSE),
        close_wait_seconds=kinds.alone(_tally.CLOSE_WAIT),
        setup_seconds=kinds.by_word(_tally.SETUP),
        failed_setup_seconds=kinds.by_word(_tally.FAILED_SETUP),
        setup_phase_seconds=kinds.by_word(_tally.SETUP_PHASE),
        wait_seconds=kinds.alone(_tally.WAIT),
        failed_wait_seconds=kinds.alone(_tally.FAILED_WAIT),
        connection_seconds=kinds.alone(_tally.CONNECTION),
        requests_per_connection=kinds.alone(_tally.REQUESTS, unit=1),
        lost_race_idle_seconds=kinds.by_word(_tally.LOST_RACE_IDLE),
    )


class _Open:
    """Becomes a ``Connection`` when it is filled."""


def _connection(connection: ConnectionRecord, look: Look) -> Connection:
    is_idle, state, at = look
    returned_at, opened_at = connection.returned_at if is_idle else None, connection.opened_at
    idle_ns = None if returned_at is None or returned_at > at else at - returned_at
    is_waiting = is_idle and state.tcp_state == CLOSE_WAIT
    # Of a frozen dataclass __init__ sets each field by a call: with ten thousand connections, a third of a snapshot.
    view: Any = _Open()
    view.state = IDLE if is_idle else ACTIVE
    view.tcp_state = state.tcp_state
    view.age_seconds = None if opened_at is None else (at - opened_at) / _SECOND
    view.idle_seconds = None if idle_ns is None else idle_ns / _SECOND
    view.close_wait_seconds = _seconds(close_wait_ns(state, idle_ns)) if is_waiting else None
    # The one that is under way has not been answered.
    view.requests = None if connection.adopted else connection.reuses + is_idle
    view.peer_address, view.peer_port = connection.peer or (None, None)
    view.local_port = connection.local_port
    view.protocol_version = connection.version
    view.tls_version = connection.tls_version
    view.is_adopted = connection.adopted
    view.__class__ = Connection
    opened: Connection = view
    return opened


class _Kinds:
    """The durations of a book."""

    def __init__(self, book: Book) -> None:
        self._digests = book.digests

    def by_word(self, wanted: str) -> dict[str, Durations]:
        return {word: _durations(digest) for (kind, word), digest in self._digests.items() if kind == wanted}

    def alone(self, wanted: str, unit: float = _SECOND) -> Durations | None:
        digest = self._digests.get((wanted, ""))
        return None if digest is None else _durations(digest, unit)


def _durations(digest: Digest, unit: float = _SECOND) -> Durations:
    p05, p25, median, p75, p95, p99 = (quantile / unit for quantile in digest.quantiles(*_QUANTILES))
    return Durations(
        count=digest.count,
        total=digest.total / unit,
        minimum=digest.minimum / unit,
        p05=p05,
        p25=p25,
        median=median,
        p75=p75,
        p95=p95,
        p99=p99,
        maximum=digest.maximum / unit,
    )


def _seconds(value: int | None) -> float | None:
    return None if value is None else value / _SECOND
