"""The hooks where a request fails and where a connection ends: ``Retry.increment`` and ``close``."""

from __future__ import annotations

import errno
import http.client
import sys
from time import monotonic_ns
from typing import Any

from . import _kernel, _urllib3
from ._facts import Closed, Dropped
from ._lifecycle import ESTABLISHED, CloseReason, DropPhase
from ._marks import record_of
from ._records import ConnectionRecord, LostRace
from ._verdicts import has_data_come, race_reason
from ._watch import Watch, type_name

try:
    import ssl
except ImportError:  # a Python without ssl
    _TLS_ERRORS: tuple[type[Exception], ...] = ()
else:
    _TLS_ERRORS = (ssl.SSLEOFError, ssl.SSLZeroReturnError)

_UNEXPECTED_EOF = -1  # the errno that pyOpenSSL gives to it
_ERRNO_NAMES = ("ECONNRESET", "EPIPE", "ECONNABORTED", "ENOTCONN", "ESHUTDOWN", "ETIMEDOUT")  # not all are everywhere
_CONNECTION_ERRNOS = {getattr(errno, name) for name in _ERRNO_NAMES if hasattr(errno, name)} | {_UNEXPECTED_EOF}


class RequestHooks:
    """Tells how requests fail on a pooled connection, and why connections end."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def increment(self, wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        """The wrapper of ``Retry.increment``, which each failed request passes at once, and no other.

        The connection is closed only after the retry's back-off, and its socket's state may be another by then.
        """
        self._failed(args, kwargs)
        return wrapped(*args, **kwargs)

    def _failed(self, args: Any, kwargs: Any) -> None:
        # Not in increment() itself: an exception that passes it would keep the connection alive.
        try:
            error = _urllib3.failure_of(args, kwargs)
            if error is None:
                return
            for each in _urllib3.held_in_request(error):
                connection = record_of(each)
                if isinstance(connection, ConnectionRecord):
                    if connection.is_open:  # otherwise http.client has closed it, and close() has judged
                        self._judge(connection, each.sock, error, is_of_socket=isinstance(error, _TLS_ERRORS))
                    self._tell_lost_race(connection)
                    return
        except Exception:
            self._watch.fuse.blow()

    def _tell_lost_race(self, connection: ConnectionRecord) -> None:
        drop = connection.drop
        if drop is None or drop.phase is not DropPhase.REQUEST or connection.is_told:
            return
        connection.is_told = True
        span = self._watch.observe_drop(drop)
        self._watch.remember_lost_race(connection.pool, LostRace(drop.ended_at, span))

    def _judge(self, connection: ConnectionRecord, sock: Any, error: BaseException, *, is_of_socket: bool) -> None:
        """Tell a lost race from any other failure of a request; leaves it to be booked with the close.

        Args:
            is_of_socket: the error can only be this socket's, not that of a body which is read from elsewhere.
        """
        if connection.close_reason is not None:
            return  # it has been judged already
        connection.close_reason = CloseReason.FAILED
        connection.has_failed = True
        if not connection.reuses or not _is_connection_error(error) or _urllib3.has_response_begun(error):
            return
        now = monotonic_ns()
        state = _kernel.inspect_failed(sock)
        is_alive = not is_of_socket and state.tcp_state == ESTABLISHED and state.error is None
        since_return_ns = connection.idle_ns(now)
        # Of TLS it cannot be told whether bytes of a response came, its alerts are data too.
        is_tls = connection.tls_version is not None
        if is_alive or (not is_tls and has_data_come(state, now - connection.checked_out_at, since_return_ns)):
            return
        number = error.errno if isinstance(error, OSError) and isinstance(error.errno, int) else None
        is_end = isinstance(error, http.client.RemoteDisconnected)
        connection.drop = Dropped(
            connection,
            DropPhase.REQUEST,
            race_reason(state, number, since_return_ns, is_end_of_stream=is_end, is_tls=is_tls),
            started_at=connection.checked_out_at,
            state=state,
            idle_ns=connection.idle_ns(connection.checked_out_at),
            close_wait_ns=None,
            remote_close_ns=None,
            use=self._watch.current_use(),
            error=type_name(error),
            ended_at=now,
            age_ns=connection.age_ns(now),
            served=connection.served(),
        )
        connection.close_reason = CloseReason.LOST_RACE  # last: of each such close a drop is told

    def close(self, wrapped: Any, conn: Any, args: Any, kwargs: Any) -> Any:
        """The wrapper of a connection's ``close``.

        May run inside garbage collection, under any lock: it waits for none, and leaves what it has to tell in deques.
        """
        try:
            try:
                connection = record_of(conn)
                if connection is not None:
                    self._closing(connection, conn, _urllib3.Closer(sys._getframe(1)))
            except Exception:
                self._watch.fuse.blow()
        except BaseException:  # of a signal handler: it is closed nevertheless
            wrapped(*args, **kwargs)
            raise
        return wrapped(*args, **kwargs)

    def _closing(self, connection: ConnectionRecord, conn: Any, closer: _urllib3.Closer) -> None:
        book = connection.pool.book
        assert book is not None
        was_out = connection in book.out
        if closer.is_urlopen:
            connection.has_failed = True
            book.put_back(connection)  # a None comes back in its place
            connection.pool.freed_at = monotonic_ns()
            self._tell_lost_race(connection)  # if a Retry of the application's own has not let it come by
        elif was_out:
            book.missing.add(connection)
            book.out.discard(connection)
        if not connection.is_open or getattr(conn, "sock", None) is None:
            return
        if closer.error is not None:
            self._judge(connection, conn.sock, closer.error, is_of_socket=True)
        now = monotonic_ns()
        connection.is_open = False
        if was_out:
            connection.use_ns += now - connection.checked_out_at
        reason = self._reason(connection, closer)
        drop = connection.drop
        if reason is CloseReason.DROPPED and drop is not None:
            self._watch.local.drops.append(drop)  # for the checkout that is closing it
        lost = drop if reason is CloseReason.LOST_RACE else None
        self._watch.ledger.post(
            Closed(connection, reason, connection.age_ns(now), connection.served(), connection.use_ns, lost)
        )

    def _reason(self, connection: ConnectionRecord, closer: _urllib3.Closer) -> CloseReason:
        if closer.reason is CloseReason.DROPPED:
            return closer.reason
        if connection.close_reason is not None:
            return connection.close_reason
        if closer.reason in (CloseReason.DISCARDED, CloseReason.UNKNOWN):
            live = connection.pool.pool()
            if live is None or _urllib3.is_closed(live):
                return CloseReason.POOL_CLOSED
        return closer.reason


def _is_connection_error(error: BaseException) -> bool:
    if isinstance(error, (ConnectionError, *_TLS_ERRORS)):
        return True
    # pyOpenSSL raises a bare OSError. A read timeout is one too, without an errno.
    number = getattr(error, "errno", None)
    return type(error) in (OSError, TimeoutError) and isinstance(number, int) and number in _CONNECTION_ERRNOS
