"""Looks at an upstream's connections from outside: whether each lies in its pool, and how its socket is.

A look changes nothing, neither the books nor what is looked at.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from . import _kernel
from ._lifecycle import SocketState
from ._marks import record_of
from ._records import Book, ConnectionRecord, PoolRecord
from ._turns import in_turns

#: What lies in each pool, by id; ``None`` where a queue cannot be read.
Queues = dict[PoolRecord, set[int] | None]
# A pool that is gone has closed what lay in it: the rest is in use.
_NOTHING: frozenset[int] = frozenset()


class Look(NamedTuple):
    """What was seen of a connection from outside.

    Attributes:
        is_idle: it lies in its pool.
        state: its socket's.
        at: when.
    """

    is_idle: bool
    state: SocketState
    at: int


def queues_of(pools: Iterable[PoolRecord], pooled: Callable[[Any], tuple[Any, ...] | None]) -> Queues:
    """What lies in these pools.

    Args:
        pools: of one upstream.
        pooled: gives the connections that lie in a pool's queue, ``None`` if the queue cannot be read.
    """
    queues: Queues = {}
    for pool in pools:
        live = pool.pool()
        lying = () if live is None else pooled(live)
        queues[pool] = None if lying is None else {id(conn) for conn in lying}
    return queues


def lies_in_pool(connection: ConnectionRecord, conn: Any, queues: Queues) -> bool:
    """Whether a connection lies in its pool; it is believed to where that cannot be seen."""
    lying = queues.get(connection.pool, _NOTHING)
    return lying is None or id(conn) in lying


def look_at(
    book: Book, pooled: Callable[[Any], tuple[Any, ...] | None], clock: Callable[[], int], *, are_marked: bool
) -> tuple[dict[ConnectionRecord, Look], list[ConnectionRecord]]:
    """A look at each connection of a book; and those apart that have lost their socket, or have another record by now.

    Args:
        book: whose lock is held.
        pooled: as of :func:`queues_of`.
        clock: monotonic time in nanoseconds.
        are_marked: connection objects bear their records.
    """
    began, queues = clock(), queues_of(tuple(book.pools), pooled)
    looks: dict[ConnectionRecord, Look] = {}
    strangers = []
    # There may be ten thousand: what each needs is fetched once, and a named tuple made without a call of Python's.
    read_state, out = _kernel.read_state, book.out
    new_look: Callable[..., Look] = tuple.__new__
    for part in in_turns(as_they_lie(book.connections)):
        for connection in part:
            conn = connection.live()
            sock = None if conn is None else socket_in(conn, connection)
            if sock is None or (are_marked and record_of(conn) is not connection):
                strangers.append(connection)
                continue
            lying = queues.get(connection.pool, _NOTHING)
            is_idle = connection not in out if lying is None else id(conn) in lying
            if connection.checked_out_at > began:
                is_idle = False  # taken by one who was given a turn since
            looks[connection] = new_look(Look, (is_idle, read_state(sock), clock()))
    return looks, strangers


def as_they_lie(connections: set[ConnectionRecord]) -> list[ConnectionRecord]:
    """In the order of memory, which is much that of their making."""
    # In a set's, which is random, the processor fetches each of thousands anew, and its socket: a tenth of a look.
    return sorted(connections, key=id)


def socket_of(connection: ConnectionRecord) -> Any:
    """The socket that a record is of, ``None`` if it is gone or cannot be told."""
    reference = connection.sock
    return None if reference is None else reference()


def socket_in(conn: Any, connection: ConnectionRecord) -> Any:
    """The socket of a connection object, ``None`` if it is not the one that its record is of."""
    sock, reference = getattr(conn, "sock", None), connection.sock
    return sock if reference is None or reference() is sock else None
