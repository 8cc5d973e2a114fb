"""The hooks around a connection's set-up: ``connect``, and the functions that its phases begin and end with."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic_ns
from typing import Any

from . import _urllib3
from ._facts import SetUp
from ._faults import Fuse
from ._lifecycle import SUPPRESSED
from ._marks import record_of
from ._records import ConnectionRecord
from ._setup import Setup
from ._watch import Watch, type_name


class ConnectHooks:
    """Tells of each set-up: why, how long, in which phases, and with what error."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._timing = Fuse("the timing of set-ups", lambda: None)

    def connect(self, wrapped: Any, conn: Any, args: Any, kwargs: Any) -> Any:
        """The wrapper of a connection's ``connect``."""
        connection = outer = None
        local = self._watch.local
        try:
            found: ConnectionRecord | None = record_of(conn)
            if found is not None and found.setup is None:  # else an override has called super()
                outer = local.setup
                connection = self._begin(found, conn)
        except Exception:
            self._watch.fuse.blow()
        if connection is None:  # a pool that is left alone
            return wrapped(*args, **kwargs)
        try:
            result = wrapped(*args, **kwargs)
        except BaseException as error:
            local.setup = outer
            self._end(connection, conn, error)
            raise
        local.setup = outer
        self._end(connection, conn, None)
        return result

    def _begin(self, connection: ConnectionRecord, conn: Any) -> ConnectionRecord:
        watch = self._watch
        watch.ledger.check_process()
        book = connection.pool.book
        was_out = book is not None and (connection in book.out or connection in book.missing)
        if connection.is_open or connection.opened_at is not None or connection.adopted:
            # A second socket within one checkout: http.client opens again by itself.
            previous = connection
            connection = watch.new_record(previous.pool, conn)
            connection.checked_out_at, connection.last_used = previous.checked_out_at, previous.last_used
        if book is not None and was_out:
            book.missing.discard(connection)  # closed before it was ever opened
            book.take(connection)
        is_tunnelled, proxy_scheme = _urllib3.proxy_of(conn)
        connection.setup = watch.local.setup = Setup(
            monotonic_ns(), is_tunnelled=is_tunnelled, proxy_scheme=proxy_scheme
        )
        return connection

    def _end(self, connection: ConnectionRecord, conn: Any, error: BaseException | None) -> None:
        try:
            now = monotonic_ns()
            setup, connection.setup = connection.setup, None
            if not self._watch.ledger.is_attached:
                return  # uninstalled meanwhile
            name = None if error is None else type_name(error)
            use = self._watch.current_use()
            if error is not None:
                connection.has_failed = True
            elif getattr(conn, "sock", None) is None:
                return  # a stub that only pretends to connect
            else:
                self._watch.note_socket(connection, conn)
                connection.opened_at = now
                connection.opened_by = None if use is SUPPRESSED else self._watch.ledger.pack(use)
            assert setup is not None
            phases = setup.phases(now, name)
            self._watch.tell_set_up(SetUp(connection, connection.setup_cause, setup.started_at, now, phases, use, name))
            if error is None:
                connection.repairs = None  # it has been told, and weighs as much as all else
        except Exception:
            self._watch.fuse.blow()

    def create_connection(self, wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        """The wrapper of ``create_connection``: the look-up begins, the attempts end."""
        setup = self._setup()
        if setup is None:
            return wrapped(*args, **kwargs)
        address = args[0] if args else kwargs.get("address")
        self._note(lambda now: setup.lookup(now, _urllib3.lookup_name(address)))
        try:
            result = wrapped(*args, **kwargs)
        except BaseException as error:
            name = type_name(error)
            self._note(lambda now: setup.connected(now, name))
            raise
        self._note(lambda now: setup.connected(now, None))
        return result

    def set_socket_options(self, wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        """The wrapper of ``_set_socket_options``, which runs just before each attempt to connect."""
        result = wrapped(*args, **kwargs)
        setup = self._setup()
        if setup is not None:
            sock = args[0] if args else kwargs.get("sock")
            self._note(lambda now: setup.attempt(now, _urllib3.family_of(sock)))
        return result

    def ssl_wrap_socket(self, wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
        """The wrapper of ``ssl_wrap_socket``: a TLS handshake."""
        setup = self._setup()
        if setup is None:
            return wrapped(*args, **kwargs)
        started_at = monotonic_ns()
        try:
            result = wrapped(*args, **kwargs)
        except BaseException as error:
            name = type_name(error)
            self._note(lambda now: setup.handshake(started_at, now, name))
            raise
        self._note(lambda now: setup.handshake(started_at, now, None))
        return result

    def _setup(self) -> Setup | None:
        try:
            return None if self._timing.is_blown else self._watch.local.setup
        except Exception:
            self._timing.blow()
            return None

    def _note(self, note: Callable[[int], None]) -> None:
        try:
            note(monotonic_ns())
        except Exception:
            self._timing.blow()
