"""A listening socket, one thread that accepts, one thread for each connection, and nothing left behind."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

BACKLOG = 512
# Far beyond anything a stopped handler still has to do: reaching it is a bug worth an exception.
JOIN_SECONDS = 10.0


class Handler(Protocol):
    """What runs in the thread of a connection."""

    def run(self) -> None:
        """Serves the connection and closes it; returns, never raises."""

    def stop(self) -> None:
        """Makes `run()` return soon; called from another thread."""


H = TypeVar("H", bound=Handler)


class Listener(Generic[H]):
    """Gives every connection accepted on a bound socket a handler in a thread of its own."""

    def __init__(self, sock: socket.socket, make_handler: Callable[[socket.socket], H], name: str) -> None:
        self._sock = sock
        self._make_handler = make_handler
        self._name = name
        self._lock = threading.Lock()
        self._running: dict[H, threading.Thread] = {}
        # Shutting a listening socket down wakes accept() on Linux only.
        self._wake_reader, self._wake_writer = socket.socketpair()
        sock.setblocking(False)
        sock.listen(BACKLOG)
        self._thread = threading.Thread(target=self._accept, name=name, daemon=True)

    @property
    def handlers(self) -> list[H]:
        """Those of the live connections, oldest first."""
        with self._lock:
            return list(self._running)

    def start(self) -> None:
        """Begins to accept."""
        self._thread.start()

    def stop(self) -> None:
        """Closes everything and waits for every thread."""
        self._wake_writer.close()
        if self._thread.ident is not None:
            self._thread.join(JOIN_SECONDS)
        self._wake_reader.close()
        self._sock.close()
        with self._lock:
            running = dict(self._running)
        for handler in running:
            handler.stop()
        for thread in running.values():
            thread.join(JOIN_SECONDS)
        left = [thread.name for thread in (self._thread, *running.values()) if thread.is_alive()]
        if left:
            raise RuntimeError(f"threads that did not end: {left}")

    def _accept(self) -> None:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        poll.register(self._wake_reader, select.POLLIN)
        while self._wake_reader.fileno() not in {descriptor for descriptor, _ in poll.poll()}:
            # The client may have gone again between the poll and the accept.
            with contextlib.suppress(BlockingIOError, ConnectionError):
                sock, _ = self._sock.accept()
                self._start(self._make_handler(sock))

    def _start(self, handler: H) -> None:
        name = f"{self._name}-connection"
        thread = threading.Thread(target=self._run, args=(handler,), name=name, daemon=True)
        with self._lock:
            self._running[handler] = thread
        thread.start()

    def _run(self, handler: H) -> None:
        try:
            handler.run()
        finally:
            with self._lock:
                del self._running[handler]


def bind(host: str, port: int = 0) -> socket.socket:
    """A TCP socket bound to an address of this host, not listening yet."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except BaseException:
        sock.close()
        raise
    return sock
