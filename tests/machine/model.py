"""What connection pools do, in a few sets and counters, by which the telemetry is foretold step by step.

It knows urllib3's pools from outside (a stack of slots), the servers' deeds, and the words of
docs/reference/telemetry.md, and nothing of the library.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

#: What each deed of a server does to an idle connection: the TCP state, and what the next check finds.
DEEDS = {
    "fin": ("close_wait", "fin"),
    "half_close": ("close_wait", "fin"),
    "rst": ("closed", "reset"),
    "stray": ("established", "unexpected_data"),
    "close_notify": ("established", "close_notify"),
}
#: How a race is lost by a path that answers the first request of each connection only.
LOST = {"/lost": "fin", "/lost-rst": "reset", "/lost-unread": "reset"}
CLOSING = ("/close", "/http10")
#: Paths that fail on any connection, and how.
FAILING = {"/garbage": "ProtocolError", "/hang": "ReadTimeoutError"}
TRUNCATED = "/truncate"


@dataclass(eq=False, repr=False)
class Socket:
    """One socket's life."""

    conn: Conn
    tcp: str = "established"
    end: str | None = None  # what the next check finds
    requests: int = 0  # that the server has seen
    is_open: bool = True
    reuses: int = 0  # that were seen
    is_idle_known: bool = False  # since when it lies idle
    is_shared: bool = False  # a forked child has used it


@dataclass(eq=False, repr=False)
class Conn:
    """A connection object: sockets come and go in it."""

    sock: Socket | None = None
    cause: str = "new"  # of its next set-up
    #: The `World.installs` in which it was seen last; in which it was checked out and has not come back.
    seen: int = -1
    due: int = -1


@dataclass(eq=False, repr=False)
class Upstream:
    """A server, and what is to be told of it."""

    is_refusing: bool = False
    #: Open, as far as the books know.
    sockets: set[Socket] = field(default_factory=set)
    in_use: set[Conn] = field(default_factory=set)
    checkouts: Counter[str] = field(default_factory=Counter)
    drops: Counter[tuple[str, str]] = field(default_factory=Counter)
    closed: Counter[str] = field(default_factory=Counter)
    set_ups: Counter[tuple[str, bool]] = field(default_factory=Counter)  # cause, whether it failed
    idle_times: Counter[str] = field(default_factory=Counter)  # by outcome
    waits: int = 0
    opened: int = 0
    unsampled: int = 0  # of those, by a use that was suppressed
    adopted: int = 0
    leaked: int = 0
    creations: int = 0
    peak: int = 0
    dropped_spans: int = 0
    set_up_spans: int = 0

    def use(self, conn: Conn) -> None:
        self.in_use.add(conn)
        self.peak = max(self.peak, len(self.in_use))


class Pool:
    """A pool: a stack of slots."""

    def __init__(self, upstream: Upstream, maxsize: int, is_block: bool) -> None:
        self.upstream, self.maxsize, self.is_block = upstream, maxsize, is_block
        self.slots: list[Conn | None] = [None] * maxsize
        self.is_open = True
        self.is_held = True  # by the application or its manager
        self.streams = 0  # responses that refer to it
        self.is_known = False

    def __repr__(self) -> str:
        return f"<pool of {self.maxsize}, {'blocking' * self.is_block or 'not blocking'}, at {id(self):x}>"

    @property
    def is_alive(self) -> bool:
        return self.is_held or self.streams > 0

    def idle(self) -> list[Conn]:
        return [conn for conn in self.slots if conn is not None]


class Refused(Exception):  # noqa: N818 - not an error of ours
    """A checkout or a request that fails, by the name of urllib3's error."""


@dataclass
class Request:
    """How a request is made."""

    path: str = "/ok"
    retries: int = 0
    is_suppressed: bool = False
    thread: str = "main"
    is_streamed: bool = False
    #: What the server does just before to the connection that comes first.
    before: str | None = None
    #: What happens between the checkout and the sending.
    midway: str | None = None


class World:
    """All of it; each method is one thing that happens."""

    def __init__(self, upstreams: list[Upstream]) -> None:
        self.upstreams = upstreams
        self.pools: list[Pool] = []
        self.is_installed = False
        self.installs = 0
        self.has_spans = False
        self.lost: set[tuple[Pool, str]] = set()  # races whose thread has not come back for another connection

    # What is seen

    def install(self, *, has_spans: bool) -> None:
        self.look()
        self.is_installed, self.has_spans = True, has_spans
        self.installs += 1
        self.lost.clear()
        idle = {conn for pool in self.pools for conn in pool.idle()}
        for upstream in self.upstreams:
            upstream.in_use.clear()
            for sock in upstream.sockets:
                sock.is_idle_known = False
                sock.conn.seen = self.installs
                if sock.conn not in idle:
                    sock.conn.due = self.installs
                    upstream.use(sock.conn)
        for pool in self.pools:
            if pool.is_known:
                self._adopt_pooled(pool)

    def uninstall(self) -> None:
        self.is_installed = False

    def look(self) -> None:
        """What ended unseen is found out."""
        for upstream in self.upstreams:
            for sock in [sock for sock in upstream.sockets if not sock.is_open]:
                upstream.sockets.discard(sock)
                upstream.closed["unknown"] += 1

    def begin_anew(self) -> None:
        """As a forked child does."""
        for upstream in self.upstreams:
            vars(upstream).update(vars(Upstream(upstream.is_refusing)))
        for pool in self.pools:
            pool.is_known = False
        self.installs += 1
        self.lost.clear()

    def is_seen(self, pool: Pool) -> bool:
        return self.is_installed and pool.is_known

    def _see(self, pool: Pool, *, is_suppressed: bool) -> None:
        if self.is_installed and not pool.is_known and not is_suppressed:
            pool.is_known = True
            pool.upstream.creations += 1
            self._adopt_pooled(pool)

    def _adopt_pooled(self, pool: Pool) -> None:
        for conn in pool.idle():
            self._adopt(pool, conn)

    def _adopt(self, pool: Pool, conn: Conn) -> None:
        if conn.sock is not None and conn.sock not in pool.upstream.sockets:
            pool.upstream.sockets.add(conn.sock)
            pool.upstream.adopted += 1
            conn.sock.reuses, conn.sock.is_idle_known = 0, False
            conn.seen = self.installs

    # Pools

    def add(self, pool: Pool) -> Pool:
        if pool not in self.pools:
            self.pools.append(pool)
        return pool

    def close_pool(self, pool: Pool) -> None:
        pool.is_open = False
        self._empty(pool)

    def let_go(self, pool: Pool) -> None:
        """Nobody holds it any more, but for what is out."""
        pool.is_held = False
        self._bury(pool)

    def _bury(self, pool: Pool) -> None:
        if not pool.is_alive and pool in self.pools:
            self.pools.remove(pool)
            self._empty(pool)

    def _empty(self, pool: Pool) -> None:
        for conn in pool.idle():
            self.close(pool, conn, "pool_closed")
        pool.slots = []

    # Connections

    def check_out(self, pool: Pool, *, is_suppressed: bool = False, thread: str = "main") -> Conn:
        self._see(pool, is_suppressed=is_suppressed)
        upstream, is_seen, is_sampled = pool.upstream, self.is_seen(pool), not is_suppressed
        if is_seen and pool.is_block and is_sampled:
            upstream.waits += 1
        if not pool.is_open:
            upstream.checkouts["pool_closed"] += is_seen
            raise Refused("ClosedPoolError")
        if not pool.slots and pool.is_block:
            upstream.checkouts["timed_out"] += is_seen
            raise Refused("EmptyPoolError")
        conn = (pool.slots.pop() if pool.slots else None) or Conn()
        sock = conn.sock
        outcome = "new" if sock is None else "reused" if sock.end is None else "replaced"
        if outcome == "replaced":
            assert sock is not None
            assert sock.end is not None
            if is_seen:
                upstream.drops[sock.end, "checkout"] += 1
                upstream.dropped_spans += self.has_spans and is_sampled
                upstream.idle_times["replaced"] += sock.is_idle_known and is_sampled
            self.close(pool, conn, "dropped")
        if not is_seen:
            return conn
        upstream.checkouts[outcome] += 1
        if outcome == "reused":
            assert sock is not None
            sock.reuses += 1
            upstream.idle_times["reused"] += sock.is_idle_known and is_sampled
        else:
            has_lost = (pool, thread) in self.lost
            conn.cause = "replaced" if outcome == "replaced" else "lost_race" if has_lost else "new"
        self.lost.discard((pool, thread))
        conn.seen = conn.due = self.installs
        upstream.use(conn)
        return conn

    def connect(self, pool: Pool, conn: Conn, *, is_suppressed: bool = False) -> None:
        """Whatever is sent on a connection without a socket."""
        upstream = pool.upstream
        is_seen = self.is_installed and conn.seen == self.installs
        if is_seen:
            upstream.set_ups[conn.cause, upstream.is_refusing] += not is_suppressed
            upstream.set_up_spans += self.has_spans and not is_suppressed
        conn.cause = "new"
        if upstream.is_refusing:
            raise Refused("NewConnectionError")
        conn.sock = Socket(conn)
        if is_seen:
            upstream.opened += 1
            upstream.unsampled += is_suppressed
            upstream.sockets.add(conn.sock)
            if conn.due == self.installs:
                upstream.use(conn)

    def close(self, pool: Pool, conn: Conn, reason: str) -> None:
        """A connection's socket is closed, if it has one."""
        pool.upstream.in_use.discard(conn)
        sock, conn.sock = conn.sock, None
        if sock is None:
            return
        sock.is_open = False
        if self.is_installed and sock in pool.upstream.sockets:
            pool.upstream.sockets.discard(sock)
            pool.upstream.closed[reason] += 1

    def put(self, pool: Pool, conn: Conn | None) -> None:
        if conn is not None:
            if self.is_installed:
                conn.due = -1
                pool.upstream.in_use.discard(conn)
            if self.is_seen(pool):
                self._adopt(pool, conn)
            if conn.sock is not None and self.is_installed and conn.sock in pool.upstream.sockets:
                conn.sock.is_idle_known = True
        if pool.is_open and len(pool.slots) < pool.maxsize:
            pool.slots.append(conn)
        elif conn is not None:
            self.close(pool, conn, "discarded" if pool.is_open else "pool_closed")

    def do(self, sock: Socket, deed: str) -> None:
        """A server's deed to a connection."""
        sock.tcp, sock.end = DEEDS[deed]

    def forget(self, pool: Pool, conn: Conn, reason: str) -> None:
        """A connection that is out is collected."""
        self.close(pool, conn, reason)
        is_leak = self.is_installed and conn.due == self.installs and pool.is_open and pool.is_alive
        pool.upstream.leaked += is_leak
        conn.due = -1

    def end_stream(self, pool: Pool) -> None:
        """A response that referred to a pool is gone."""
        pool.streams -= 1
        self._bury(pool)

    # Requests

    def request(self, pool: Pool, how: Request, midway: Callable[[Conn], None] | None = None) -> Conn | None:
        """A request; gives the connection that a streamed response has taken out.

        Args:
            midway: what happens once, between the checkout and the sending.

        Raises:
            Refused: it fails.
        """
        for left in range(how.retries, -1, -1):
            conn = self.check_out(pool, is_suppressed=how.is_suppressed, thread=how.thread)
            if midway is not None:
                midway(conn)
                midway = None
            try:
                self._exchange(pool, conn, how)
            except Refused:
                conn.due = -1
                self.put(pool, None)
                if left:
                    continue
                if how.retries:
                    raise Refused("MaxRetryError") from None
                raise
            if how.is_streamed:
                pool.streams += 1
                return conn
            self.put(pool, conn)
            return None
        raise AssertionError

    def _exchange(self, pool: Pool, conn: Conn, how: Request) -> None:
        if conn.sock is None:
            self.connect_or_fail(pool, conn, how)
        sock = conn.sock
        assert sock is not None
        if sock.end is not None:  # since the check
            self._lose(pool, conn, how, sock.end)
        if how.path in LOST and sock.requests:
            self._lose(pool, conn, how, LOST[how.path])
        sock.requests += 1
        if how.path in FAILING or (how.path == TRUNCATED and not how.is_streamed):
            self.close(pool, conn, "failed")
            raise Refused(FAILING.get(how.path, "ProtocolError"))
        if how.path in CLOSING:
            self.close(pool, conn, "response_close")
        if how.path == TRUNCATED:
            sock.tcp, sock.end = "close_wait", "fin"

    def connect_or_fail(self, pool: Pool, conn: Conn, how: Request) -> None:
        try:
            self.connect(pool, conn, is_suppressed=how.is_suppressed)
        except Refused:
            self.close(pool, conn, "failed")
            raise

    def _lose(self, pool: Pool, conn: Conn, how: Request, reason: str) -> None:
        sock = conn.sock
        assert sock is not None
        is_race = self.is_installed and sock in pool.upstream.sockets and sock.reuses > 0
        if is_race:
            pool.upstream.drops[reason, "request"] += 1
            pool.upstream.dropped_spans += self.has_spans and not how.is_suppressed
            self.lost.add((pool, how.thread))
        self.close(pool, conn, "lost_race" if is_race else "failed")
        raise Refused("ProtocolError")

    # What is to be told

    def figures(self, upstream: Upstream, *, has_states: bool) -> dict[str, Any]:
        pools = [pool for pool in self.pools if pool.upstream is upstream]
        idle = {conn.sock for pool in pools for conn in pool.idle()}
        open_ = Counter("idle" if sock in idle else "active" for sock in upstream.sockets)
        states = Counter(
            ("idle" if sock in idle else "active", sock.tcp if has_states else None) for sock in upstream.sockets
        )
        live = [pool for pool in pools if pool.is_known and pool.is_open]
        sizes: Counter[bool] = Counter()
        for pool in live:
            sizes[pool.is_block] += pool.maxsize
        return {
            "checkouts": +upstream.checkouts,
            "drops": +upstream.drops,
            "closed": +upstream.closed,
            "opened": upstream.opened,
            "adopted": upstream.adopted,
            "leaked": upstream.leaked,
            "creations": upstream.creations,
            "peak": upstream.peak,
            "pending": 0,
            "open": open_,
            "states": states,
            "pools": len(live),
            "sizes": sizes,
        }

    def samples(self, upstream: Upstream) -> dict[str, Any]:
        return {
            "set-ups": +upstream.set_ups,
            "idle times": +upstream.idle_times,
            "waits": upstream.waits,
            "dropped spans": upstream.dropped_spans,
            "set-up spans": upstream.set_up_spans,
        }
