"""What all hooks share: the records on the application's objects, and the telling of what happened."""

from __future__ import annotations

import contextlib
import sys
import threading
import weakref
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import Any, Protocol

from . import _kernel, _urllib3
from ._facts import Adopted, CheckedOut, Closed, Dropped, Gone, PoolGone, PoolSeen, SetUp
from ._faults import Fuse
from ._ledger import Ledger
from ._lifecycle import SUPPRESSED, CloseReason, Upstream, Use
from ._marks import UnmarkableError, mark, record_of, unmark
from ._records import ConnectionRecord, ConnectionReference, LostRace, PoolRecord
from ._settings import Settings
from ._setup import Setup

#: So many samples are kept until metrics are collected; then the request at hand empties the buffer.
MOST_SAMPLES = 256
# A lost race is put right by its thread's next checkout, after urllib3's longest back-off at the most.
_LOST_RACE_LASTS_NS = 120 * 1_000_000_000


class Observer(Protocol):
    """Is told of what is notable, in the thread and the context of the request."""

    def dropped(self, drop: Dropped) -> Use:
        """A drop; gives what a set-up that repairs it can refer to."""

    def set_up(self, set_up: SetUp) -> Any:
        """A connection was opened, or could not be."""

    def checked_out(self, checkout: CheckedOut) -> Any:
        """A checkout that was more than a clean reuse."""


class _Thread(threading.local):
    """What a thread is at."""

    def __init__(self) -> None:
        #: Stands for the thread. Not its ident: the next thread may be given the same.
        self.me = object()
        #: Those that its checkouts have closed and not told yet: more than one where a finaliser or a log handler makes
        #: a request in the middle of a checkout.
        self.drops: list[Dropped] = []
        self.setup: Setup | None = None
        self.is_observing = False


class Watch:
    """Keeps the records of pools and connections, and tells the ledger, the samples and the observer.

    Args:
        ledger: everything is posted there.
        settings: hosts to leave alone, and whether each checkout is to be told.
        current_use: gives the use that the calling thread makes of a connection.
        observer: told of what is notable, or ``None``.
        flush: empties the buffer of samples.
        meet_class: called with the class of each connection that is met for the first time.
        on_fault: called once if a hook fails; books that missed one event would be wrong for good.
        meet_process: called in each process before its first pool is entered.
    """

    def __init__(
        self,
        ledger: Ledger,
        settings: Settings,
        current_use: Callable[[], Use],
        observer: Observer | None,
        flush: Callable[[], None],
        meet_class: Callable[[type], None],
        on_fault: Callable[[], None],
        meet_process: Callable[[], None],
    ) -> None:
        self.ledger = ledger
        self.current_use = current_use
        #: Empties the buffer of samples.
        self.flush = flush
        self.fuse = Fuse("a hook", on_fault)
        self.local = _Thread()
        self._settings = settings
        self._observer = observer
        self._observer_fuse = Fuse("the making of spans", self._dismiss_observer)
        self._meet_class = meet_class
        self._meet_process = meet_process
        self._process: int | None = None
        self._on_gone = self._gone  # each look at a method makes another one

    # Pools

    def resume(self) -> None:
        """Take up again what an earlier ``install()`` had seen."""
        self.ledger.attach(self._is_wanted, self.set_simple)
        self._adopt_all_pooled()

    def look_again(self) -> None:
        """Take up what other threads closed and opened while the hooks were being put in, but silent yet."""
        self.ledger.look_again()
        self._adopt_all_pooled()

    def _adopt_all_pooled(self) -> None:
        for record in self.ledger.pools():
            live = record.pool()
            if live is not None:
                self._adopt_pooled(record, live)

    def _adopt_pooled(self, record: PoolRecord, pool: Any) -> None:
        for conn in _urllib3.pooled(pool) or ():
            connection: ConnectionRecord | None = record_of(conn)
            if getattr(conn, "sock", None) is not None and (connection is None or not connection.is_open):
                with contextlib.suppress(UnmarkableError):
                    self.adopt(record, conn)

    def _is_wanted(self, upstream: Upstream) -> bool:
        return not any(fnmatchcase(upstream.address.lower(), each) for each in self._settings.excluded_hosts)

    def see(self, pool: Any) -> PoolRecord | None:
        """The record of a pool at its first checkout, ``None`` while its use is suppressed.

        Looks at what the pool holds already, before the checkout takes from it.
        """
        upstream = _urllib3.upstream_of(pool)
        ledger = self.ledger
        if not self._is_wanted(upstream):
            record = PoolRecord(None, None, is_block=False, is_proxied=False, size=0)
            ledger.leave_alone(weakref.ref(pool, ledger.forget_left_alone), record)
            mark(pool, record)
            self.unmark_if_detached(pool)
            return record
        if self.current_use() is SUPPRESSED:
            return None
        ledger.check_process()
        if self._process != ledger.process:
            self._meet_process()
            self._process = ledger.process
        with ledger.entering:
            seen: PoolRecord | None = record_of(pool)
            if seen is not None:  # another thread was faster
                return seen
            record = PoolRecord(
                None,
                ledger.open_book(upstream),
                is_block=bool(getattr(pool, "block", False)),
                is_proxied=_urllib3.is_relayed(pool),
                size=_urllib3.size_of(pool),
            )
            # Made now: when Python ends, this module may be empty before the pool is gone.
            post, gone = ledger.post, PoolGone(record)

            def end(_: object) -> None:
                record.simple_class = None  # which is the application's, and the record may outlive it
                post(gone)

            record.pool = weakref.ref(pool, end)
            self.set_simple(record)
            post(PoolSeen(record))
            self._adopt_pooled(record, pool)
            # Last: whoever finds the mark finds all that it stands for.
            mark(pool, record)
            self.unmark_if_detached(pool)
            return record

    def unmark_if_detached(self, host: Any) -> None:
        """Take off what has been marked just now if another thread has uninstalled meanwhile.

        It may have gone by before the mark was there, or before the books knew of it.
        """
        if not self.ledger.is_attached:
            unmark(host)

    def set_simple(self, pool: PoolRecord) -> None:
        """Decide whether the pool's checkouts can do without care."""
        live = pool.pool()
        is_simple = not pool.is_block and self._settings.spans != "all" and _urllib3.is_plain(live)
        pool.simple_class = type(live) if is_simple else None
        if pool.lost:  # looked at last: whoever adds a lost race clears the class after adding it
            pool.simple_class = None

    def remember_lost_race(self, pool: PoolRecord, lost: LostRace) -> None:
        """Keep a lost race until its thread comes back for another connection."""
        pool.lost[self.local.me] = lost
        pool.simple_class = None

    def take_lost_race(self, pool: PoolRecord, now: int) -> LostRace | None:
        """What this thread's set-up repairs, if it lost a race not long ago."""
        if not pool.lost:
            return None
        lost = pool.lost.pop(self.local.me, None)
        for thread in list(pool.lost):  # of threads that never came back; others change it meanwhile
            other = pool.lost.get(thread)
            if other is not None and now - other.at > _LOST_RACE_LASTS_NS:
                pool.lost.pop(thread, None)
        self.set_simple(pool)
        return lost if lost is not None and now - lost.at <= _LOST_RACE_LASTS_NS else None

    def forget_thread(self) -> None:
        """Forget what this thread, the only one of a forked child, was at."""
        self.local = _Thread()

    # Connections

    def new_record(self, pool: PoolRecord, conn: Any) -> ConnectionRecord:
        """A fresh record for a connection object: one for each socket that it will have.

        Raises:
            UnmarkableError: the object is none of urllib3's making, and cannot bear a record.
        """
        connection = ConnectionRecord(pool, None)
        previous: ConnectionRecord | None = record_of(conn)
        try:
            reference = ConnectionReference(conn, self._on_gone)
        except TypeError as error:
            raise UnmarkableError from error
        reference.record = connection
        connection.conn = reference
        mark(conn, connection)
        if previous is None:
            self._meet_class(type(conn))
        else:
            if previous.pool.book is not None:
                previous.pool.book.put_back(previous)
            previous.conn = None  # its callback would tell of the same object again
            if previous.is_open:  # it was given another socket behind urllib3's back
                previous.is_open = False
                self.ledger.post(Closed(previous, CloseReason.UNKNOWN, None, None, previous.use_ns))
        return connection

    def adopt(self, pool: PoolRecord, conn: Any) -> ConnectionRecord:
        """The record of a connection that was found open."""
        connection = self.new_record(pool, conn)
        connection.adopted = True
        self.note_socket(connection, conn)
        self.ledger.post(Adopted(connection))
        connection.is_open = True
        self.unmark_if_detached(conn)
        return connection

    def note_socket(self, connection: ConnectionRecord, conn: Any) -> None:
        """Note what is to be known of the socket that a connection has now."""
        sock = conn.sock
        try:
            connection.sock = weakref.ref(sock)
        except TypeError:  # a strange socket, which cannot be told from its successor
            connection.sock = None
        peer, connection.local_port = _kernel.addresses(sock)
        known = connection.pool.peer
        if peer != known:
            connection.pool.peer = known = peer
        connection.peer = known  # one for all that have the same
        connection.tls_version = _kernel.tls_version(sock)
        connection.version = _urllib3.protocol_version(conn)

    def _gone(self, reference: ConnectionReference) -> None:
        # May run inside garbage collection, under any lock: it waits for none, and leaves what it tells in a deque.
        try:
            connection = reference.record
            connection.conn = None  # the two hold each other
            pool = connection.pool
            if pool.book is None:
                return
            live = pool.pool()
            # Once uninstalled, what was out may have come back unseen.
            was_out = self.ledger.is_attached and (connection in pool.book.out or connection in pool.book.missing)
            pool.book.put_back(connection)
            is_pool_open = live is not None and not _urllib3.is_closed(live)
            connection.is_open = False
            is_leak = was_out and is_pool_open and not connection.has_failed
            self.ledger.post(Gone(connection, was_out, is_leak))
        except Exception:
            if not sys.is_finalizing():
                self.fuse.blow()

    # Telling

    def tell_checkout(self, checkout: CheckedOut) -> None:
        """A checkout that was more than a clean reuse."""
        self.ledger.post(checkout)
        self.ledger.settle()
        self._flush_if_full()
        self._observe(lambda observer: observer.checked_out(checkout))

    def tell_set_up(self, set_up: SetUp) -> None:
        """A connection was opened, or could not be."""
        self.ledger.post(set_up)
        set_up.connection.is_open = set_up.error is None
        self.ledger.settle()
        self._flush_if_full()
        self._observe(lambda observer: observer.set_up(set_up))

    def observe_drop(self, drop: Dropped) -> Use:
        """Show a drop to the observer; gives what a set-up that repairs it can refer to."""
        return self._observe(lambda observer: observer.dropped(drop))

    def sample(self, sample: Any) -> None:
        """Keep something for the histograms."""
        self.ledger.samples.waiting.append(sample)
        self._flush_if_full()

    def _flush_if_full(self) -> None:
        if len(self.ledger.samples.waiting) >= MOST_SAMPLES:
            self.flush()

    def _observe(self, show: Callable[[Observer], Use]) -> Use:
        # A span processor of the application's may make requests: what those cost is not told while it runs, or its
        # telling would make the next.
        if self._observer is None or self.local.is_observing:
            return None
        try:
            self.local.is_observing = True
            return show(self._observer)
        except Exception:
            self._observer_fuse.blow()
            return None
        finally:
            self.local.is_observing = False

    def _dismiss_observer(self) -> None:
        self._observer = None


def type_name(error: BaseException) -> str:
    """An exception's type, as ``error.type`` has it."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
