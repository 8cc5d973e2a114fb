"""The hooks at a pool's door: ``_get_conn``, ``is_connection_dropped`` and ``_put_conn``.

They run with every request. A clean reuse takes no lock, makes no system call, records no measurement and makes no
span, but for the one in ``MOST_SAMPLES`` that finds the buffer of samples full: it writes into the connection's own
record, which no other thread has at that moment, and makes single atomic calls on what threads share.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from time import monotonic_ns
from typing import Any

from . import _kernel, _urllib3
from ._facts import CheckedOut, Dropped
from ._faults import let_signals_pass
from ._lifecycle import SUPPRESSED, DropPhase, Outcome, SetupCause, Use
from ._marks import UnmarkableError, record_of, unmark
from ._reading import fin_seen, remote_close_of
from ._records import ConnectionRecord, PoolRecord
from ._verdicts import close_wait_ns, drop_reason
from ._waiting import Ticket
from ._watch import MOST_SAMPLES, Watch, type_name


class CheckoutHooks:
    """Tells what each checkout finds, and when each connection comes back."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def make_get_conn(self, gate: list[bool]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """What makes the function in ``_get_conn``'s place out of the original."""
        # Every free variable of a function is fetched whenever it is called: so only what a clean reuse needs is one.
        hooks, current_use, samples = self, self._watch.current_use, self._watch.ledger.samples.waiting

        def make(original: Callable[..., Any]) -> Callable[..., Any]:
            def _get_conn(self: Any, timeout: Any = None) -> Any:
                if not gate:
                    return original(self, timeout=timeout)
                try:
                    record = self._pool_telemetry
                    # Some classes answer for any attribute: by what is truthy, or by what another object bears.
                    is_simple = record.simple_class is type(self)
                except AttributeError:
                    is_simple = False
                except Exception:
                    let_signals_pass()
                    is_simple = False
                if not is_simple:
                    return hooks._get_with_care(original, self, timeout)
                try:
                    conn = original(self, timeout=timeout)
                except BaseException as error:
                    hooks._no_connection(record, error, None)
                    raise
                try:
                    connection = conn._pool_telemetry
                    returned_at = connection.returned_at
                    is_clean = connection.is_open is True and returned_at is not None and conn.sock is not None
                except AttributeError:
                    is_clean = False
                except Exception:
                    let_signals_pass()
                    is_clean = False
                if not is_clean:
                    hooks._checked_out(self, record, conn, None)
                    return conn
                try:
                    now = monotonic_ns()
                    use = current_use()
                    if use is not SUPPRESSED:
                        connection.previously_used = connection.last_used
                        connection.last_used = use
                        samples.append((connection, now - returned_at, use))
                        if len(samples) >= MOST_SAMPLES:
                            hooks._watch.flush()
                    connection.checked_out_at = now
                    connection.reuses += 1
                    book = record.book  # Book.take(), without the call
                    book.out.add(connection)
                    in_use = len(book.out)
                    if in_use > book.peak:
                        book.note_peak(in_use)
                except Exception:
                    hooks._watch.fuse.blow()
                return conn

            return _get_conn

        return make

    def _get_with_care(self, original: Callable[..., Any], host_pool: Any, timeout: Any) -> Any:
        record = started_at = ticket = None
        waiting: set[object] = set()
        try:
            try:
                try:
                    record = record_of(host_pool) or self._watch.see(host_pool)
                    started_at = monotonic_ns()  # what it takes us to enter a pool is no wait for a connection
                    if record is not None and record.book is not None and record.is_block:
                        ticket = Ticket(host_pool, record, started_at)
                        waiting = record.book.waiting
                        waiting.add(ticket)
                except Exception:
                    self._watch.fuse.blow()
                conn = original(host_pool, timeout=timeout)
            finally:
                waiting -= {ticket}  # no call, which an exception of a signal handler could come in
        except BaseException as error:
            if record is not None and record.book is not None:
                self._no_connection(record, error, started_at)
            raise
        if record is not None and record.book is not None:
            self._checked_out(host_pool, record, conn, started_at, ticket)
        return conn

    def _checked_out(
        self, host_pool: Any, pool: PoolRecord, conn: Any, started_at: int | None, ticket: Ticket | None = None
    ) -> None:
        try:
            has_waited = ticket is None or not ticket.is_served_at_once(host_pool, pool, conn)
            try:
                self._note_checkout(host_pool, pool, conn, started_at, has_waited=has_waited)
            except UnmarkableError:  # none of urllib3's making: it was handed out, no more can be known
                self._tell_checkout(pool, Outcome.NEW, started_at, monotonic_ns(), None, None, has_waited=has_waited)
        except Exception:
            self._watch.fuse.blow()

    def _note_checkout(
        self, host_pool: Any, pool: PoolRecord, conn: Any, started_at: int | None, *, has_waited: bool
    ) -> None:
        watch = self._watch
        if not watch.ledger.is_attached:  # uninstalled meanwhile
            unmark(conn)
            return
        if watch.ledger.check_process():
            pool = watch.see(host_pool) or pool  # the first checkout in a forked child
        now = monotonic_ns()
        use = watch.current_use()
        drop = self._take_drop(pool, now, use)
        connection: ConnectionRecord | None = record_of(conn)
        lost = watch.take_lost_race(pool, now)
        idle_ns = None
        if drop is None and getattr(conn, "sock", None) is not None:
            outcome = Outcome.REUSED
            if connection is None or not connection.is_open:
                connection = watch.adopt(pool, conn)
            connection.reuses += 1
            idle_ns = connection.idle_ns(now)
            if idle_ns is not None and use is not SUPPRESSED:
                watch.sample((connection, idle_ns, use))
        else:
            outcome = Outcome.NEW if drop is None else Outcome.REPLACED
            connection = watch.new_record(pool, conn)
            if drop is not None:
                connection.setup_cause = SetupCause.REPLACED
                connection.repairs = self._tell_drop(drop)
                idle_ns = drop.idle_ns
            elif lost is not None:
                connection.setup_cause, connection.repairs = SetupCause.LOST_RACE, lost.span
        connection.checked_out_at = now
        if use is not SUPPRESSED:
            connection.previously_used = connection.last_used
            connection.last_used = watch.ledger.pack(use)
        assert pool.book is not None
        pool.book.take(connection)
        watch.unmark_if_detached(conn)
        if outcome is not Outcome.REUSED or pool.simple_class is None:
            self._tell_checkout(pool, outcome, started_at, now, idle_ns, use, drop=drop, has_waited=has_waited)

    def _no_connection(self, pool: PoolRecord, error: BaseException, started_at: int | None) -> None:
        try:
            now = monotonic_ns()
            use = self._watch.current_use()
            drop = self._take_drop(pool, now, use)
            idle_ns = None
            if drop is not None:
                outcome, idle_ns = Outcome.REPLACED, drop.idle_ns
                self._tell_drop(drop)
            elif _urllib3.found_pool_closed(error):
                outcome = Outcome.POOL_CLOSED
            elif pool.is_block:
                # EmptyPoolError; or the wait was broken off, by gevent's Timeout or a KeyboardInterrupt.
                outcome = Outcome.TIMED_OUT
            else:
                outcome = Outcome.NEW  # nothing usable was pooled, and making an object failed
            self._tell_checkout(pool, outcome, started_at, now, idle_ns, use, type_name(error), drop)
        except Exception:
            self._watch.fuse.blow()

    def _tell_checkout(
        self,
        pool: PoolRecord,
        outcome: Outcome,
        started_at: int | None,
        now: int,
        idle_ns: int | None,
        use: Use,
        error: str | None = None,
        drop: Dropped | None = None,
        *,
        has_waited: bool = True,
    ) -> None:
        started_at = now if started_at is None else started_at
        waited_ns = (now - started_at if has_waited else 0) if pool.is_block else None
        self._watch.tell_checkout(CheckedOut(pool, outcome, started_at, now, idle_ns, waited_ns, use, error, drop))

    # Drops

    def make_is_connection_dropped(self, gate: list[bool]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """What makes the function in ``is_connection_dropped``'s place: there alone a dropped socket is still open."""

        def make(original: Callable[..., Any]) -> Callable[..., Any]:
            def is_connection_dropped(conn: Any) -> Any:
                is_dropped = original(conn)
                if is_dropped and gate:
                    try:
                        self._found_dropped(conn)
                    except Exception:
                        self._watch.fuse.blow()
                return is_dropped

            return is_connection_dropped

        return make

    def _found_dropped(self, conn: Any) -> None:
        connection = record_of(conn)
        sock = getattr(conn, "sock", None)
        if connection is None or not connection.is_open or sock is None:
            return  # closed on this side, which urllib3 calls dropped too; or a pool that is left alone
        now = monotonic_ns()
        state = _kernel.inspect_dropped(sock)
        idle_ns = connection.idle_ns(now)
        remote_close = remote_close_of(connection, state, idle_ns)
        connection.drop = Dropped(
            connection,
            DropPhase.CHECKOUT,
            drop_reason(state, connection.tls_version),
            started_at=now,
            state=state,
            idle_ns=idle_ns,
            close_wait_ns=close_wait_ns(state, idle_ns),
            remote_close_ns=remote_close,
            age_ns=connection.age_ns(now),
            served=connection.served(),
        )
        fin = fin_seen(connection, remote_close)
        if fin is not None and self._watch.current_use() is not SUPPRESSED:
            self._watch.sample(fin)

    def _take_drop(self, pool: PoolRecord, now: int, use: Use) -> Dropped | None:
        """The drop that this checkout has found and closed."""
        drops = self._watch.local.drops
        for drop in reversed(drops):
            if drop.connection.pool is pool:
                drops.remove(drop)
                return drop.ended(now, use)
        return None

    def _tell_drop(self, drop: Dropped) -> Use:
        self._watch.sample(drop)
        return self._watch.observe_drop(drop)

    # Return

    def make_put_conn(self, gate: list[bool]) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """What makes the function in ``_put_conn``'s place out of the original."""
        hooks = self

        def make(original: Callable[..., Any]) -> Callable[..., Any]:
            def _put_conn(self: Any, conn: Any) -> Any:
                is_unbooked = False
                try:
                    if gate and conn is not None:
                        # Before the host's call: after it another thread may have the connection.
                        try:
                            connection = conn._pool_telemetry
                            is_open = connection.is_open is True
                        except AttributeError:
                            is_open = False
                        except Exception:
                            let_signals_pass()
                            is_open = False
                        try:
                            if is_open:
                                now = monotonic_ns()
                                connection.use_ns += now - connection.checked_out_at
                                connection.returned_at = now
                                connection.pool.book.out.discard(connection)
                            else:
                                is_unbooked = hooks._returned(self, conn, monotonic_ns())
                        except Exception:
                            hooks._watch.fuse.blow()
                except BaseException:  # of a signal handler: with it the pool would lose a slot
                    original(self, conn)
                    raise
                result = original(self, conn)
                if is_unbooked:  # uninstall() has not found it before it lay in the pool
                    try:
                        hooks._watch.unmark_if_detached(conn)
                    except Exception:
                        hooks._watch.fuse.blow()
                return result

            return _put_conn

        return make

    def _returned(self, host_pool: Any, conn: Any, now: int) -> bool:
        """Note a return of what was not known to be open; gives whether it may bear a record that is in no book."""
        record: PoolRecord | None = record_of(host_pool)
        if record is None or record.book is None or not self._watch.ledger.is_attached:
            return record is None or record.book is not None
        connection: ConnectionRecord | None = record_of(conn)
        if connection is not None:
            if not connection.is_open:
                connection.returned_at = now  # nothing lies idle here, but a Ticket asks since when it lies
            record.book.put_back(connection)
        if getattr(conn, "sock", None) is not None:
            # It was out when install() was called, or was opened behind urllib3's back.
            with contextlib.suppress(UnmarkableError):
                self._watch.adopt(record, conn).returned_at = now
            return False
        return True
