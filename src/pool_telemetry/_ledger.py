"""The books: which pools and connections live, and exact totals, by upstream.

Hooks *post* what happened to a deque, which is atomic and safe even inside garbage collection or a signal handler;
under the lock it is *booked* later, by whoever comes next along a slow path or collects metrics. Nothing else changes
the books. What a clean reuse counts stays in the connection's own record until the connection is closed.

What threads share, and who writes it:
    ``_posted``                 any thread appends, the holder of the lock takes out
    ``Book.out``, ``.waiting``  sets, changed by single atomic calls
    ``Book.peaks``              appended by any thread; its maximum counts
    everything else             the holder of the lock
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from . import _kernel
from ._changes import change_of, closed_unseen, enter
from ._faults import let_signals_pass
from ._lifecycle import OTHER, Upstream
from ._reading import Look, Reading, read_book
from ._records import (
    Adopted,
    Book,
    ConnectionRecord,
    PoolRecord,
    mark,
    record_of,
    unmark,
)
from ._tally import tally
from ._turns import in_turns

if TYPE_CHECKING:
    from ._snapshot import UpstreamSnapshot

T = TypeVar("T")


class Ledger:
    """Books of all upstreams of this process.

    Args:
        pooled: gives the connections that lie in a pool's queue, ``None`` if the queue cannot be read.
        is_closed: whether a pool has been closed.
        clock: monotonic time in nanoseconds.
    """

    def __init__(
        self,
        pooled: Callable[[Any], tuple[Any, ...] | None],
        is_closed: Callable[[Any], bool],
        clock: Callable[[], int],
    ) -> None:
        self._pooled = pooled
        self.is_closed = is_closed
        self._clock = clock
        self.max_upstreams = 100
        #: Whether levels are kept apart by the peer's address.
        self.by_peer = False
        self.is_attached = False
        #: Durations to be tallied: details, and of a clean reuse (connection, idle ns, use).
        self.samples: deque[Any] = deque()
        #: Those that have been, for histograms; without metrics they are not kept.
        self.tallied: deque[Any] = deque(maxlen=0)
        self._inherited: weakref.WeakSet[Any] = weakref.WeakSet()
        self._posted: deque[Any] = deque()
        self._left_alone: dict[Any, PoolRecord] = {}
        self._clear()

    def _clear(self) -> None:
        #: Whose books these are.
        self.process = os.getpid()
        # A lock that another thread held at the fork would stay locked: the child gets its own.
        self._lock = threading.RLock()  # which knows its owner, so that what was not taken is not released
        #: Held while a new pool or upstream is entered. The same thread may enter it again: a finaliser that makes a
        #: request may run in there.
        self.entering = threading.RLock()
        # Threads that hold the lock or wait for it, noted before they ask: in a signal handler on top of one of them
        # nobody must ask again.
        self._inside: set[int] = set()
        self.began = self._clock()
        self.samples.clear()
        self.tallied.clear()
        self._posted.clear()
        self._books: dict[Upstream, Book] = {}
        self._last: list[Reading] = []

    # What hooks call: never blocks

    def post(self, details: Any) -> None:
        """Leave something that happened to be booked later; safe wherever Python code can run."""
        self._posted.append(details)

    def settle(self) -> None:
        """Book what was posted, unless somebody is at it; then it is theirs to do."""
        if threading.get_ident() not in self._inside:
            self._locked(lambda: None, is_patient=False)

    def _locked(self, work: Callable[[], T], *, is_patient: bool = True) -> T | None:
        """Book what was posted, and do something, under the lock; ``None`` if it is taken and not waited for."""
        # No `with`: an exception of a signal handler may come after any call, also that which takes the lock, and
        # would leave it locked for good.
        me = threading.get_ident()
        try:
            self._inside.add(me)
            if not self._lock.acquire(blocking=is_patient):
                return None
            self._book()
            return work()
        finally:
            try:
                self._inside.discard(me)
            finally:
                # Not contextlib.suppress: entering it is a call, after which a signal may come.
                try:  # noqa: SIM105 - see above
                    self._lock.release()
                except RuntimeError:  # it was not taken
                    pass

    def check_process(self) -> bool:
        """Start with empty books in a forked child, also where no fork hook has run (uWSGI); whether it did."""
        is_child = os.getpid() != self.process
        if is_child:
            self.reset()
        return is_child

    # Pools

    def open_book(self, upstream: Upstream) -> Book:
        """The book of an upstream, of ``_OTHER`` when there are too many."""
        with self.entering:
            book = self._books.get(upstream)
            if book is None:
                if sum(each.address != OTHER for each in tuple(self._books)) >= self.max_upstreams:
                    upstream = Upstream(OTHER, None, upstream.scheme)
                book = self._books.setdefault(upstream, Book(upstream))
            return book

    def pools(self) -> list[PoolRecord]:
        """All pools that are watched."""
        return self._locked(lambda: [pool for book in self._books.values() for pool in book.pools]) or []

    def leave_alone(self, reference: Any, record: PoolRecord) -> None:
        """Remember a pool that is not looked at, to take the mark off it later."""
        self._left_alone[reference] = record

    def forget_left_alone(self, reference: Any) -> None:
        """A pool that was left alone is gone."""
        self._left_alone.pop(reference, None)

    # Uninstalling, installing again, forking

    def detach(self) -> None:
        """Take our marks off everything that is the application's; the books stay."""
        self._locked(self._detach)

    def _detach(self) -> None:
        self.is_attached = False
        self._unmark()

    def attach(self, is_wanted: Callable[[Upstream], bool], take_up: Callable[[PoolRecord], None]) -> None:
        """Take up again what is still there; what ended unobserved is closed for an unknown reason.

        Args:
            is_wanted: whether an upstream is to be watched; one that is no longer is forgotten, but for its totals.
            take_up: called with each pool that is watched again.
        """
        self.check_process()
        self._locked(lambda: self._attach(is_wanted, take_up))

    def _attach(self, is_wanted: Callable[[Upstream], bool], take_up: Callable[[PoolRecord], None]) -> None:
        self.is_attached = True
        for book in tuple(self._books.values()):
            book.waiting.clear()
            book.out.clear()
            book.missing.clear()
            if is_wanted(book.upstream):
                self._take_up(book, take_up)
            else:
                for connection in tuple(book.connections):
                    book.forget(connection)
                book.pools.clear()

    def _take_up(self, book: Book, take_up: Callable[[PoolRecord], None]) -> None:
        for pool in tuple(book.pools):
            live = pool.pool()
            if live is not None:
                take_up(pool)
                mark(live, pool)
        queues = self._queues(book)
        taken_up: set[int] = set()
        for connection in tuple(book.connections):
            conn = connection.conn and connection.conn()
            if conn is None or _socket_in(conn, connection) is None:
                connection.is_open = False
                self._apply(closed_unseen(connection))
            elif id(conn) in taken_up:
                # A hook that was under way at detach() has adopted what was known: one record is enough.
                connection.is_open = False
                book.forget(connection)
            else:
                taken_up.add(id(conn))
                # Requests and returns were missed: what rests on them is left out from now on.
                connection.adopted, connection.returned_at, connection.opened_at = True, None, None
                connection.is_open = True
                mark(conn, connection)
                if not _is_idle(connection, conn, queues, or_else=True):
                    connection.checked_out_at = self._clock()
                    book.take(connection)

    def look_again(self) -> None:
        """Close for an unknown reason what has lost its socket since it was taken up."""
        self._locked(lambda: [self._look(book) for book in tuple(self._books.values())])

    def reset(self) -> None:
        """Empty books, as a forked child must have them: the parent tells of its own."""
        self._book()  # what was only posted has its marks on the application's objects, too
        for book in self._books.values():
            self._inherited.update(filter(None, (_socket_of(each) for each in book.connections)))
        self._unmark()
        self._clear()

    def _unmark(self) -> None:
        for live in self._marked():
            unmark(live)
        self._left_alone.clear()

    def _marked(self) -> Iterator[Any]:
        """What may bear a mark; among it ``None``, and whatever else lies in the application's pools."""
        for reference in tuple(self._left_alone):
            yield reference()
        for book in tuple(self._books.values()):
            for pool in tuple(book.pools):
                live = pool.pool()
                yield live
                if live is not None:  # what lies there without a socket is in no book
                    yield from self._pooled(live) or ()
            for connection in (*book.connections, *book.out, *book.missing):
                yield connection.conn and connection.conn()

    # Booking: under the lock

    def _book(self) -> None:
        posted = self._posted
        while posted:
            # It stays there until it is entered: a child that is forked in the middle must still find what it marked,
            # and an exception of a signal handler leaves it to the next who comes.
            details = posted[0]
            try:
                self._apply(details)
            except Exception:
                let_signals_pass()
                if posted and posted[0] is details:
                    del posted[0]  # or it would fail for ever
                raise

    def _apply(self, details: Any) -> None:
        if isinstance(details, Adopted):
            details.connection.is_inherited = _socket_of(details.connection) in self._inherited
        enter(change_of(details), self.samples, self._posted, details)

    # Durations

    def drain(self) -> None:
        """Tally the samples, unless somebody is at the books; then they are left for the next."""
        if self.samples and threading.get_ident() not in self._inside:
            self._locked(self._drain, is_patient=False)

    def _drain(self) -> None:
        # Not "while there are any": those who add more would keep this thread at it.
        for _ in range(len(self.samples)):
            try:
                sample = self.samples.popleft()
            except IndexError:  # they were dropped meanwhile
                return
            self._tally(sample)

    def _tally(self, sample: Any) -> None:
        tally(sample)
        self.tallied.append(sample)

    # Reading

    def read(self) -> list[Reading]:
        """All figures from one walk.

        The totals and levels of one reading agree with each other to the last connection.
        """
        self.check_process()
        if self.is_busy_here():
            # The last figures are better than a hang.
            return self._last
        readings = self._locked(lambda: [view.reading for _, view in self._walk()])
        self._last = readings or []
        return self._last

    def is_busy_here(self) -> bool:
        """Whether this very thread is at the books: then this is a signal handler, or a finaliser, on top of it."""
        return threading.get_ident() in self._inside

    def watched_seconds(self) -> float:
        """How long these books have been kept."""
        self.check_process()
        return (self._clock() - self.began) / 1e9

    def view(self) -> list[UpstreamSnapshot]:
        """What there is to know of each upstream, from one walk."""
        self.check_process()
        if self.is_busy_here():
            return []
        from ._viewing import view_book  # of use to who looks, and it takes a while to import

        return self._locked(lambda: [view_book(book, *view) for book, view in self._walk()]) or []

    def _walk(self) -> Iterator[tuple[Book, _View]]:
        self._drain()
        for book in tuple(self._books.values()):
            looks = self._look(book)
            live = [pool for pool in tuple(book.pools) if self._is_live(pool)]
            reading, fins = read_book(book, looks, live, by_peer=self.by_peer)
            for fin in fins:
                self._tally(fin)
            yield book, _View(reading, looks, live)

    def _is_live(self, pool: PoolRecord) -> bool:
        live = pool.pool()
        return live is not None and not self.is_closed(live)

    def _queues(self, book: Book) -> dict[PoolRecord, set[int] | None]:
        """What lies in each pool, by id; ``None`` where a queue cannot be read."""
        queues: dict[PoolRecord, set[int] | None] = {}
        for pool in tuple(book.pools):
            live = pool.pool()
            lying = () if live is None else self._pooled(live)
            queues[pool] = None if lying is None else {id(conn) for conn in lying}
        return queues

    def _look(self, book: Book) -> dict[ConnectionRecord, Look]:
        """A look at each connection that is open. Books what ended meanwhile."""
        queues = self._queues(book)
        looks: dict[ConnectionRecord, Look] = {}
        strangers = []
        # There may be ten thousand: what each needs is fetched once, and a named tuple made without a call of Python's.
        read_state, clock, is_attached, out = _kernel.read_state, self._clock, self.is_attached, book.out
        new_look: Callable[..., Look] = tuple.__new__
        for part in in_turns(tuple(book.connections)):
            for connection in part:
                conn = connection.conn and connection.conn()
                sock = None if conn is None else _socket_in(conn, connection)
                if sock is None or (is_attached and record_of(conn) is not connection):
                    strangers.append(connection)
                    continue
                lying = queues.get(connection.pool, _NOTHING)
                is_idle = connection not in out if lying is None else id(conn) in lying
                looks[connection] = new_look(Look, (is_idle, read_state(sock), clock()))
        if strangers:
            # A close posts before it acts, so that what ended properly is booked by now. The rest lost its socket
            # behind urllib3's back.
            self._book()
            for connection in strangers:
                if connection in book.connections:
                    connection.is_open = False
                    self._apply(closed_unseen(connection))
        return looks


class _View(NamedTuple):
    reading: Reading
    looks: dict[ConnectionRecord, Look]
    pools: list[PoolRecord]


# A pool that is gone has closed what lay in it: the rest is in use.
_NOTHING: frozenset[int] = frozenset()


def _is_idle(
    connection: ConnectionRecord, conn: Any, queues: dict[PoolRecord, set[int] | None], *, or_else: bool
) -> bool:
    """Whether a connection lies in its pool; ``or_else`` where that cannot be seen."""
    lying = queues.get(connection.pool, _NOTHING)
    return or_else if lying is None else id(conn) in lying


def _socket_of(connection: ConnectionRecord) -> Any:
    return connection.sock and connection.sock()


def _socket_in(conn: Any, connection: ConnectionRecord) -> Any:
    """The socket of a connection object, ``None`` if it is not the one that its record is of."""
    sock = getattr(conn, "sock", None)
    known = connection.sock
    return sock if known is None or known() is sock else None
