"""The records of pools, connections and upstreams: what is written to as things happen.

They are ours, and hold the application's objects by weak references only. Every time is passed in, in nanoseconds of
the monotonic clock.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from ._digest import Digest
from ._lifecycle import CLOSE_WAIT, ESTABLISHED, CloseReason, DropPhase, DropReason, Outcome, SetupCause, Upstream, Use
from ._setup import Setup

if TYPE_CHECKING:
    from ._facts import Dropped

IDLE, ACTIVE = "idle", "active"
OpenKey = tuple[str, str, str | None]  # idle or active, protocol version, the peer's address
SocketKey = tuple[str, str | None]  # idle or active, TCP state
BORN_OPEN: tuple[OpenKey, ...] = ((IDLE, "1.1", None), (ACTIVE, "1.1", None))
BORN_SOCKETS: tuple[SocketKey, ...] = ((IDLE, ESTABLISHED), (IDLE, CLOSE_WAIT))


class Book:
    """One upstream's totals, and its live pools and connections."""

    def __init__(self, upstream: Upstream) -> None:
        self.upstream = upstream
        self.pools: set[PoolRecord] = set()
        self.connections: set[ConnectionRecord] = set()
        self.checkouts = dict.fromkeys(Outcome, 0)
        self.drops = {(reason, phase): 0 for reason in DropReason for phase in DropPhase}
        self.closed = dict.fromkeys(CloseReason, 0)
        self.opened = self.adopted = self.inherited = self.leaked = self.creations = 0
        self.use_ns = 0
        self.out: set[ConnectionRecord] = set()
        # Closed while in use, and neither the object nor a None has come back: kept, or a leak would go unnoticed.
        self.missing: set[ConnectionRecord] = set()
        self.waiting: set[object] = set()
        self.peaks: list[int] = []
        self.peak = 0  # a hint that spares looking at `peaks`; it may lag behind
        # Series do not vanish: what was once reported is reported as 0 when it is empty.
        self.open_keys: dict[OpenKey, None] = dict.fromkeys(BORN_OPEN)
        self.socket_keys: dict[SocketKey, None] = dict.fromkeys(BORN_SOCKETS)
        self.size_keys: dict[bool, None] = {}
        #: Durations by kind, and by a word that keeps some apart.
        self.digests: dict[tuple[str, str], Digest] = {}

    def forget(self, connection: ConnectionRecord) -> None:
        """Take a connection that is open out of the books; what it has counted stays."""
        self.connections.discard(connection)
        self.adopted -= 1
        self.checkouts[Outcome.REUSED] += connection.reuses
        self.inherited += connection.is_used_by_heir()
        self.use_ns += connection.use_ns

    def put_back(self, connection: ConnectionRecord) -> None:
        """Note that a connection is no longer in use, or that nothing more will come back of it."""
        self.out.discard(connection)
        self.missing.discard(connection)

    def take(self, connection: ConnectionRecord) -> None:
        """Note a connection as in use."""
        self.out.add(connection)
        in_use = len(self.out)
        if in_use > self.peak:
            self.note_peak(in_use)

    def note_peak(self, in_use: int) -> None:
        """Note that so many connections are in use, as have never been."""
        self.peaks.append(in_use)
        self.peak = max(self.peaks)

    def highest_peak(self) -> int:
        """The most that were ever in use; forgets the lesser ones, under the lock."""
        noted = len(self.peaks)  # others add theirs behind these meanwhile
        self.peaks[:noted] = [max(self.peaks[:noted], default=0)]
        return self.peaks[0]


class PoolRecord:
    """What is known of one live pool."""

    __slots__ = (
        "book",
        "emptied_by",
        "freed_at",
        "is_block",
        "is_proxied",
        "lost",
        "peer",
        "pool",
        "simple_class",
        "size",
    )

    def __reduce__(self) -> Any:
        return type(None), ()  # an application that pickles its objects need not know of this one

    def __init__(self, pool: Any, book: Book | None, *, is_block: bool, is_proxied: bool, size: int) -> None:
        self.pool = pool  # a weak reference
        self.book = book  # None: the pool is left alone
        self.is_block = is_block
        self.is_proxied = is_proxied  # a FIN may be the proxy's, not the upstream's
        self.size = size
        #: Who has last found the queue empty after a checkout: a fresh object each time. Of blocking pools only.
        self.emptied_by: object = None
        #: When a failed request last gave its place back, without a connection.
        self.freed_at = 0
        #: Lost races whose thread has not come back for another connection: thread -> LostRace.
        self.lost: dict[object, LostRace] = {}
        #: Of its last connection.
        self.peer: tuple[str, int | None] | None = None
        #: The pool's class, while a checkout needs none of the extra care that blocking, lost races or ``spans=all``
        #: ask for. Not a mere flag: an object that answers by another's attributes is told from that one by its class.
        self.simple_class: type | None = None


class ConnectionReference(weakref.ref[Any]):
    """A weak reference to a connection object that leads to its record.

    By thousands: a callback that knew the record, one for each, would weigh as much as the record.
    """

    __slots__ = ("record",)
    record: ConnectionRecord


class LostRace(NamedTuple):
    """Remembered from a lost race to its thread's next checkout: what the next set-up repairs."""

    at: int
    span: Use


class ConnectionRecord:
    """One socket's life: from the checkout that opens it, or that finds it open, to its close.

    A record belongs to one thread between checkout and return, as the connection does: ``reuses`` and the
    times have one writer at any moment and need no lock. Shared fields that another thread may write:
    ``is_open`` (once, to ``False``) and ``fin_unclaimed`` (which two may delete, and with a GIL one can).
    """

    __slots__ = (
        "adopted",
        "checked_out_at",
        "close_reason",
        "conn",
        "drop",
        "fin_unclaimed",
        "has_failed",
        "is_inherited",
        "is_open",
        "is_told",
        "last_used",
        "local_port",
        "opened_at",
        "opened_by",
        "peer",
        "pool",
        "previously_used",
        "repairs",
        "returned_at",
        "reuses",
        "setup",
        "setup_cause",
        "sock",
        "tls_version",
        "use_ns",
        "version",
    )

    def __reduce__(self) -> Any:
        return type(None), ()  # an application that pickles its objects need not know of this one

    def __init__(self, pool: PoolRecord, conn: Callable[[], Any] | None) -> None:
        self.pool = pool
        self.conn = conn  # a weak reference
        self.sock: Callable[[], Any] | None = None  # likewise
        self.is_open = False
        self.adopted = False
        #: Its socket was opened by the process that has forked this one.
        self.is_inherited = False
        self.reuses = 0
        self.checked_out_at = 0
        self.returned_at: int | None = None
        self.use_ns = 0
        self.opened_at: int | None = None
        self.last_used: Use = None
        self.previously_used: Use = None
        self.opened_by: Use = None
        self.setup: Setup | None = None
        self.setup_cause = SetupCause.NEW
        self.repairs: Use = None
        #: The request, or the set-up, went wrong: urllib3 closes the connection and puts a None in its place.
        self.has_failed = False
        self.close_reason: CloseReason | None = None
        self.drop: Dropped | None = None
        #: A lost race has been shown to the observer.
        self.is_told = False
        self.fin_unclaimed = True
        self.peer: tuple[str, int | None] | None = None
        self.local_port: int | None = None
        self.version = "1.1"
        self.tls_version: str | None = None

    def __repr__(self) -> str:
        state = "open" if self.is_open else "not open"
        book = self.pool.book
        return f"<ConnectionRecord {state}, reuses={self.reuses}, upstream={book and book.upstream}>"

    def live(self) -> Any:
        """The connection object, ``None`` if it is gone, or has another record by now."""
        reference = self.conn  # asked for once: another thread may take it away
        return None if reference is None else reference()

    def idle_ns(self, now: int) -> int | None:
        """Time since the return, ``None`` where the return was not seen, or came after that moment."""
        since = self.returned_at  # asked for once: its owner may set it meanwhile
        return None if since is None or since > now else now - since

    def age_ns(self, now: int) -> int | None:
        """Time since the connection was opened, ``None`` for an adopted one."""
        return None if self.opened_at is None else now - self.opened_at

    def is_used_by_heir(self) -> bool:
        """Whether two processes have used the socket: the one that opened it, and this one."""
        return self.is_inherited and self.reuses > 0

    def served(self) -> int | None:
        """Requests that were answered, ``None`` for an adopted connection."""
        return None if self.adopted else self.reuses + (0 if self.has_failed else 1)

    def replace_use(self, use: Use, packed: Use) -> None:
        """Keep a use in another form, if it is one of the last two."""
        # Its owner may be about to note another. Where there is a GIL no thread gets in between if nothing is called.
        if self.last_used is use:
            self.last_used = packed
        if self.previously_used is use:
            self.previously_used = packed

    def claim_fin(self) -> bool:
        """Whether the caller is the first to tell when the peer's FIN came: once a connection."""
        try:
            del self.fin_unclaimed
        except AttributeError:
            return False
        return True
