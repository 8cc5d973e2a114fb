"""The books: which pools and connections live, and exact totals, by upstream.

Hooks *post* what happened to a deque, which is atomic and safe even inside garbage collection or a signal handler;
under the lock it is *booked* later, by whoever comes next along a slow path or collects metrics. Nothing else changes
the books. What a clean reuse counts stays in the connection's own record until the connection is closed.

What threads share, and who writes it. *Atomic* is a single call of a built-in container's, ``list()`` of it among
these: no other thread gets in between, with or without a GIL. What is *made once* is there before others can find it.

    Ledger
        ``_pooled``, ``is_closed``, ``_clock``, ``pack``, ``samples``: made once
        ``max_upstreams``, ``by_peer``: ``install()``, under its own lock
        ``_posted``: any thread appends, the holder of the lock takes out; atomic
        ``_books``: the holder of ``entering``
        ``_left_alone``, ``_renewing``: any thread; atomic
        ``_told_peers``: any thread; atomic, and at the worst a few more than are wanted
        ``_inside``: each thread adds and takes out itself; atomic
        ``_last``: any thread that reads; each is whole, and the last one stands
        ``is_attached``: the holder of the lock
        ``_lock``, ``entering``, ``process``, ``began``, ``_inherited``: the one thread that empties a child's books
    Samples
        ``_pack``: made once
        ``waiting``: any thread appends, the holder of the lock takes out; atomic
        ``tallied``: the holder of the lock appends, any thread takes out; another one by ``install()``, or by the fault
            that ends the recording
    Book
        ``upstream``: made once
        ``out``, ``missing``, ``waiting``: any thread; atomic
        ``peaks``: any thread appends, the holder of the lock takes out; atomic
        ``peak``: any thread; a hint that may lag behind ``peaks``, until somebody finds it too low
        ``pools``, ``connections``, ``checkouts``, ``drops``, ``closed``, ``opened``, ``adopted``, ``inherited``,
            ``leaked``, ``creations``, ``use_ns``, ``open_keys``, ``socket_keys``, ``size_keys``, ``digests`` with what
            is in them: the holder of the lock
    PoolRecord
        ``pool``, ``book``, ``is_block``, ``is_proxied``, ``size``: made once
        ``lost``: each thread under a key of its own, and any thread takes out; atomic
        ``simple_class``: any thread; ``None`` only costs time. Who adds to ``lost`` clears it after that, and who sets
            it looks at ``lost`` after that
        ``emptied_by``, ``freed_at``, ``peer``: any thread; the last one stands
    ConnectionRecord: where nothing else is said its *owner*, the thread that has taken the connection out of the pool
            and not put it back. The pool's queue hands it on, so owners come one after the other
        ``pool``: made once
        ``fin_unclaimed``: any thread deletes it, and with a GIL one can
        ``is_open``: the owner, but ``False`` by whoever closes it or finds it gone
        ``conn``: the owner, and the owner of its successor, or who finds the object gone, who take it away
        ``use_ns``: the owner, or another who closes it. Where both come at one moment the telling of the close has its
            own figure, which is what counts
        ``drop``, ``close_reason``, ``has_failed``: the owner, or another who closes it
        ``is_inherited``: the holder of the lock
        ``adopted``, ``returned_at``, ``opened_at``, ``checked_out_at``: the holder of the lock too, when
            ``install()`` takes up again what it finds
        ``last_used``, ``previously_used``: the holder of the lock too, who puts the same in another form; only with a
            GIL, in whose sight nobody else comes in between
        ``sock``, ``reuses``, ``opened_by``, ``setup``, ``setup_cause``, ``repairs``, ``is_told``, ``peer``,
            ``local_port``, ``version``, ``tls_version``
    Elsewhere
        ``Watch.local`` (``is_observing`` in it): each thread has its own; anew in a forked child. ``_process``: any
            thread, the same value. ``_observer``: ``None`` by the fault that ends it
        ``ConnectionReference.record``: made once
        ``Fuse._unblown``: any thread pops, and one gets it, who then sets ``is_blown``
        ``Patches.gate``, ``_claims``, ``_patches``, ``_over``: any thread; atomic
        ``MetricsEmitter._readings``, ``_served``: who collects, under the SDK's lock. ``_is_cut_off``: the forked child
        ``Recorders.recording``, ``_forking``: each thread adds and takes out itself; atomic
        ``Instruments.source``: ``install()`` and ``uninstall()``, or ``None`` by a fault
        ``_instruments``, ``_stand_ins``, ``_stand_in``, ``_provided_in``, ``is_wanted``, ``_hooks``, ``_emitter``,
            ``_ledger``, ``_wanted``: under the lock of ``install()``. ``_install_lock._lock`` itself: a forked child
        ``_at_fork``: whichever thread forks; the last one stands
        ``_teller``: the main thread, before the program begins or as it ends
        ``Teller._claims``: any thread; atomic. ``_met_in``, ``_mark``: the one whose claim it is. ``_told_in``,
            ``_left``, ``_is_closed``, ``_before_exit``: who ends the process
        ``FirstPool._seen``, ``is_awaited``, ``_is_reported``: any thread; at the worst something is done twice that may
            be
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from ._changes import change_of, closed_unseen, enter
from ._facts import Adopted
from ._faults import let_signals_pass
from ._lifecycle import OTHER, UNKNOWN_STATE, Upstream, Use
from ._looks import Look, as_they_lie, lies_in_pool, look_at, queues_of, socket_in, socket_of
from ._marks import mark, unmark
from ._reading import Reading, read_book
from ._records import Book, ConnectionRecord, PoolRecord
from ._samples import Samples

if TYPE_CHECKING:
    from ._snapshot import UpstreamSnapshot

T = TypeVar("T")
# On the average of upstreams, so many addresses are told apart.
_PEERS = 10


class Ledger:
    """Books of all upstreams of this process.

    Args:
        pooled: gives the connections that lie in a pool's queue, ``None`` if the queue cannot be read.
        is_closed: whether a pool has been closed.
        clock: monotonic time in nanoseconds.
        pack: gives the form in which a connection keeps a use of it.
    """

    def __init__(
        self,
        pooled: Callable[[Any], tuple[Any, ...] | None],
        is_closed: Callable[[Any], bool],
        clock: Callable[[], int],
        pack: Callable[[Use], Use],
    ) -> None:
        self._pooled = pooled
        self.is_closed = is_closed
        self._clock = clock
        self.pack = pack
        self.max_upstreams = 100
        #: Whether connections are kept apart by the peer's address.
        self.by_peer = False
        self.is_attached = False
        self.samples = Samples(pack)
        self._inherited: weakref.WeakSet[Any] = weakref.WeakSet()
        self._posted: deque[Any] = deque()
        self._left_alone: dict[Any, PoolRecord] = {}
        self._renewing: dict[int, threading.RLock] = {}
        self._clear()

    def _clear(self) -> None:
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
        self._posted.clear()
        self._books: dict[Upstream, Book] = {}
        self._told_peers: set[tuple[Upstream, str]] = set()
        self._last: list[Reading] = []
        #: Whose books these are. Last: whoever finds its own process here finds its books.
        self.process = os.getpid()

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
        process = os.getpid()
        if process == self.process:
            return False
        # Several threads of the child may come at once: one empties the books, before the others enter anything. By a
        # lock of the child's own, which nobody can have held at the fork.
        with self._renewing.setdefault(process, threading.RLock()):
            if process != self.process:
                self.reset()
        return True

    # Pools

    def open_book(self, upstream: Upstream) -> Book:
        """The book of an upstream, of ``_OTHER`` when there are too many."""
        with self.entering:
            book = self._books.get(upstream)
            if book is None:
                if sum(each.address != OTHER for each in list(self._books)) >= self.max_upstreams:
                    upstream = Upstream(OTHER, None, upstream.scheme)
                book = self._books.setdefault(upstream, Book(upstream))
            return book

    def told_peer(self, connection: ConnectionRecord) -> str | None:
        """The peer's address as metrics have it, ``None`` without one, or if it is not asked for.

        Each is a series that does not vanish, and whoever controls a name's addresses can make up as many as they like:
        beyond so many it is ``_OTHER``, and of ``_OTHER`` always.
        """
        book = connection.pool.book
        if not self.by_peer or connection.peer is None or book is None:
            return None
        upstream, address = book.upstream, connection.peer[0]
        if (upstream, address) in self._told_peers:
            return address
        if upstream.address == OTHER or len(self._told_peers) >= _PEERS * self.max_upstreams:
            return OTHER
        self._told_peers.add((upstream, address))
        return address

    def pools(self) -> list[PoolRecord]:
        """All pools that are watched."""
        return self._locked(lambda: [pool for book in self._all_books() for pool in book.pools]) or []

    def _all_books(self) -> list[Book]:
        # Others open books meanwhile. Not by tuple(), which may collect garbage, and so run anything, as it begins to
        # copy (up to Python 3.11). And without a GIL only list() copies in one go what others change.
        return list(self._books.values())

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
        for book in self._all_books():
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
        queues = queues_of(tuple(book.pools), self._pooled)
        taken_up: set[int] = set()
        for connection in tuple(book.connections):
            conn = connection.live()
            if conn is None or socket_in(conn, connection) is None:
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
                if not lies_in_pool(connection, conn, queues):
                    connection.checked_out_at = self._clock()
                    book.take(connection)

    def look_again(self) -> None:
        """Close for an unknown reason what has lost its socket since it was taken up."""
        self._locked(lambda: [self._look(book) for book in self._all_books()])

    def reset(self) -> None:
        """Empty books, as a forked child must have them: the parent tells of its own."""
        self._book()  # what was only posted has its marks on the application's objects, too
        for book in self._all_books():
            self._inherited.update(filter(None, (socket_of(each) for each in book.connections)))
        self._unmark()
        self._clear()

    def _unmark(self) -> None:
        for live in self._marked():
            unmark(live)
        self._left_alone.clear()

    def _marked(self) -> Iterator[Any]:
        """What may bear a mark; among it ``None``, and whatever else lies in the application's pools."""
        for reference in list(self._left_alone):
            yield reference()
        for book in self._all_books():
            for pool in tuple(book.pools):
                live = pool.pool()
                yield live
                if live is not None:  # what lies there without a socket is in no book
                    yield from self._pooled(live) or ()
            for connection in (*book.connections, *book.out, *book.missing):
                yield connection.live()

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
            details.connection.is_inherited = socket_of(details.connection) in self._inherited
        enter(change_of(details), self.samples.waiting, self._posted, details)

    # Durations

    def drain(self) -> None:
        """Tally the samples, unless somebody is at the books; then they are left for the next."""
        if self.samples.waiting and threading.get_ident() not in self._inside:
            self._locked(self.samples.hand_over, is_patient=False)

    # Reading

    def read(self) -> list[Reading]:
        """All figures from one walk.

        The totals and levels of one reading agree with each other to the last connection.
        """
        self.check_process()
        if self.is_busy_here():
            # The last figures are better than a hang.
            return self._last
        readings = self._locked(lambda: [view.reading for _, view in self._walk()]) or []
        self._last = readings
        return readings  # and not what may be another thread's by now

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
        self.samples.tally_in_place()
        for book in self._all_books():
            looks = self._look(book)
            live = [pool for pool in tuple(book.pools) if self._is_live(pool)]
            reading, fins = read_book(book, looks, live, self.told_peer if self.by_peer else None)
            for fin in fins:
                self.samples.keep(fin)
            yield book, _View(reading, looks, live)

    def _is_live(self, pool: PoolRecord) -> bool:
        live = pool.pool()
        return live is not None and not self.is_closed(live)

    def _look(self, book: Book) -> dict[ConnectionRecord, Look]:
        """A look at each connection of the book. Books what ended meanwhile."""
        looks, strangers = look_at(book, self._pooled, self._clock, are_marked=self.is_attached)
        if strangers:
            # A close posts before it acts, so that what ended properly is booked by now. The rest lost its socket
            # behind urllib3's back.
            self._book()
            for connection in strangers:
                if connection in book.connections:
                    connection.is_open = False
                    self._apply(closed_unseen(connection))
            # Opened while the others were looked at: in use, by the one who has just opened it.
            new = Look(is_idle=False, state=UNKNOWN_STATE, at=self._clock())
            looks = {each: looks.get(each, new) for each in as_they_lie(book.connections)}
        return looks


class _View(NamedTuple):
    reading: Reading
    looks: dict[ConnectionRecord, Look]
    pools: list[PoolRecord]
