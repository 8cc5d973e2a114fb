"""Which functions of urllib3 are hooked, and how: puts all hooks in, and takes them out."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import urllib3.connection
import urllib3.connectionpool
import urllib3.util.connection
import urllib3.util.retry
from urllib3.connectionpool import HTTPConnectionPool

from . import _urllib3
from ._checkout import CheckoutHooks
from ._connect import ConnectHooks
from ._ledger import Ledger
from ._lifecycle import Use
from ._patch import Patches
from ._request import RequestHooks
from ._settings import Settings
from ._watch import Observer, Watch


class Hooks:
    """All hooks; arguments as of :class:`Watch`.

    Args:
        on_fault: called once if a hook has failed and all have been switched off.
        meet_process: called in each process before its first pool is entered.
    """

    def __init__(
        self,
        ledger: Ledger,
        settings: Settings,
        current_use: Callable[[], Use],
        observer: Observer | None,
        flush: Callable[[], None],
        on_fault: Callable[[], None],
        meet_process: Callable[[], None],
    ) -> None:
        self._patches = Patches()
        self._on_fault = on_fault
        self._watch = watch = Watch(
            ledger, settings, current_use, observer, flush, self._patch_class, self._give_up, meet_process
        )
        self._checkout = CheckoutHooks(watch)
        self._request = RequestHooks(watch)
        self._connect = ConnectHooks(watch)

    def put_in(self) -> None:
        """Patch urllib3."""
        self._watch.resume()
        patches, pool, module = self._patches, HTTPConnectionPool, urllib3.connectionpool
        # Where every request passes, wrappers of wrapt's would cost as much again as all that we do. _put_conn has a
        # plain function: a proxy's binding is one more call in which an interrupt loses the pool its slot.
        patches.proxy(pool, "_get_conn", self._checkout.make_get_conn(patches.gate))
        patches.proxy(module, "is_connection_dropped", self._checkout.make_is_connection_dropped(patches.gate))
        patches.replace(pool, "_put_conn", self._checkout.make_put_conn(patches.gate))
        # Not around _make_request: every request passes there, and here only those that fail.
        patches.wrap(urllib3.util.retry.Retry, "increment", self._request.increment)
        for cls in (urllib3.connection.HTTPConnection, urllib3.connection.HTTPSConnection):
            self._patch_class(cls)
        patches.wrap(urllib3.util.connection, "create_connection", self._connect.create_connection)
        patches.wrap(urllib3.util.connection, "_set_socket_options", self._connect.set_socket_options)
        if hasattr(urllib3.connection, "ssl_wrap_socket"):  # missing in a Python without ssl
            patches.wrap(urllib3.connection, "ssl_wrap_socket", self._connect.ssl_wrap_socket)
        patches.open()
        self._watch.look_again()

    def take_out(self) -> None:
        """Put urllib3 back as it was."""
        self._patches.undo()

    def forget_thread(self) -> None:
        """Forget what the thread that was forked was at: in the child it may never come back to it."""
        self._watch.forget_thread()

    def _patch_class(self, cls: type) -> None:
        # docker, requests-unixsocket and others bring connection classes that override connect() without super().
        for name, wrapper in (("connect", self._connect.connect), ("close", self._request.close)):
            owner = _urllib3.defining_class(cls, name)
            if owner is not None:
                # A class that cannot be changed goes unpatched: its connections are adopted when they are returned.
                with contextlib.suppress(TypeError, AttributeError):
                    self._patches.wrap(owner, name, wrapper)

    def _give_up(self) -> None:
        self._patches.shut()
        self._on_fault()
