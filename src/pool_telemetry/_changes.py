"""What each event that was posted changes in its upstream's book: worked out first, and entered in one go.

A signal handler's exception, a KeyboardInterrupt for one, may come in wherever a function is called or a call ends.
What is worked out may be worked out again. What is entered may not: there nothing is called.
"""

from __future__ import annotations

from collections import deque
from typing import Any, NamedTuple

from ._facts import Adopted, CheckedOut, Closed, Dropped, Gone, PoolGone, PoolSeen, SetUp
from ._lifecycle import CloseReason, DropPhase, DropReason, Outcome
from ._records import Book, ConnectionRecord, PoolRecord

_NONE: frozenset[Any] = frozenset()


class Change(NamedTuple):
    """What one event changes; counts are added, sets joined or taken out."""

    book: Book
    outcome: Outcome | None = None
    drop: tuple[DropReason, DropPhase] | None = None
    reason: CloseReason | None = None
    opened: int = 0
    adopted: int = 0
    leaked: int = 0
    creations: int = 0
    reuses: int = 0
    inherited: int = 0
    use_ns: int = 0
    begun: frozenset[ConnectionRecord] = _NONE
    ended: frozenset[ConnectionRecord] = _NONE
    seen: frozenset[PoolRecord] = _NONE
    gone: frozenset[PoolRecord] = _NONE
    samples: tuple[Any, ...] = ()


def change_of(details: Any) -> Change:
    """What an event changes; may be asked any number of times."""
    if isinstance(details, CheckedOut):
        return _of_checkout(details)
    if isinstance(details, PoolSeen):
        return Change(_book_of(details.pool), creations=1, seen=frozenset((details.pool,)))
    if isinstance(details, PoolGone):
        return Change(_book_of(details.pool), gone=frozenset((details.pool,)))
    connection: ConnectionRecord = details.connection
    book = _book_of(connection.pool)
    if isinstance(details, SetUp):
        if details.error is not None:
            return Change(book, samples=(details,))
        return Change(book, opened=1, begun=frozenset((connection,)), samples=(details,))
    if isinstance(details, Adopted):
        return Change(book, adopted=1, begun=frozenset((connection,)))
    if isinstance(details, Closed):
        return _of_close(book, details)
    assert isinstance(details, Gone)
    # Collected while open: nobody closed it, the socket's own finaliser did.
    reason = CloseReason.ABANDONED if details.was_out else CloseReason.UNKNOWN
    return _of_close(book, closed_unseen(connection, reason))._replace(leaked=int(details.is_leak))


def _of_checkout(details: CheckedOut) -> Change:
    return Change(
        _book_of(details.pool),
        outcome=None if details.outcome is Outcome.REUSED else details.outcome,  # which the connection itself counts
        drop=_key(details.drop),
        samples=() if details.waited_ns is None else (details,),
    )


def _of_close(book: Book, details: Closed) -> Change:
    connection = details.connection
    if connection not in book.connections:  # two threads may close the same one
        return Change(book)
    return Change(
        book,
        drop=_key(details.drop),
        reason=details.reason,
        reuses=connection.reuses,
        inherited=int(connection.is_used_by_heir()),
        use_ns=details.use_ns,
        ended=frozenset((connection,)),
        samples=(details,),
    )


def closed_unseen(connection: ConnectionRecord, reason: CloseReason = CloseReason.UNKNOWN) -> Closed:
    """The end of a connection that nobody has told of."""
    return Closed(connection, reason, None, None, connection.use_ns)


def enter(change: Change, samples: deque[Any], posted: deque[Any], details: Any) -> None:
    """Enter a change, and take what is due to it from what is posted: all of it, or nothing.

    Args:
        change: its book's lock is held.
        samples: where durations are kept.
        posted: its first may be the event; then it goes.
        details: the event.
    """
    # Not one call from here to the end: += and its like are none.
    book = change.book
    if change.outcome is not None:
        book.checkouts[change.outcome] += 1
    if change.drop is not None:
        book.drops[change.drop] += 1
    if change.reason is not None:
        book.closed[change.reason] += 1
    book.opened += change.opened
    book.adopted += change.adopted
    book.leaked += change.leaked
    book.creations += change.creations
    book.checkouts[Outcome.REUSED] += change.reuses
    book.inherited += change.inherited
    book.use_ns += change.use_ns
    book.connections |= change.begun
    book.connections -= change.ended
    book.pools |= change.seen
    book.pools -= change.gone
    samples += change.samples
    if posted and posted[0] is details:
        del posted[0]


def _key(drop: Dropped | None) -> tuple[DropReason, DropPhase] | None:
    return None if drop is None else (drop.reason, drop.phase)


def _book_of(pool: PoolRecord) -> Book:
    assert pool.book is not None
    return pool.book
