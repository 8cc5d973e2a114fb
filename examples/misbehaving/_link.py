"""One socket, plain or under TLS, with every act on it in our own hands.

TLS runs over memory buffers instead of an SSLSocket: an alert can then be sent without awaiting the peer's,
the socket reset without an alert, and ciphertext decrypted while it stays unread in the kernel.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

READ_SIZE = 65536
# How long a thread that cannot be woken through its socket goes without looking whether it was cancelled.
TICK = 0.05
# Not on macOS, where a client that hangs up during a pause is noticed after it.
POLLRDHUP: int = getattr(select, "POLLRDHUP", 0)


class Cancelled(Exception):  # noqa: N818 - not an error
    """Another thread wants this one to let go of the socket."""


class Link:
    """A non-blocking socket that belongs to one thread; others may send on it and cancel it.

    `guard` is held during each system call that the peer can notice, so that it is counted in the same step.
    """

    def __init__(
        self, sock: socket.socket, guard: AbstractContextManager[Any], context: ssl.SSLContext | None = None
    ) -> None:
        sock.setblocking(False)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        # Taken before the guard: records must leave in the order in which they were encrypted.
        self.lock = threading.RLock()
        self._guard = guard
        self._cancelled = False
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._leaving, server_side=True) if context else None
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)
        self._peeked = 0
        self._ended_by_alert = False

    @property
    def tls_version(self) -> str | None:
        """Such as "TLSv1.3", None for a plain link."""
        return self._tls.version() if self._tls else None

    def handshake(self) -> None:
        """Completes the TLS handshake; ssl.SSLError or ConnectionError where the peer does not."""
        while self._tls is not None:
            try:
                with self.lock, contextlib.suppress(ssl.SSLWantReadError):
                    self._tls.do_handshake()
                    return
            finally:
                self._flush()
            raw = self._peek(None)
            if not raw:
                raise ConnectionResetError(errno.ECONNRESET, "closed during the handshake")
            self._arrived.write(raw)

    def receive(self, deadline: float | None = None) -> bytes | None:
        """What the peer sent, b"" at its end, None once the monotonic clock has passed the deadline.

        What was returned stays in the kernel until `consume()` or the next `receive()`: closing before that
        makes the kernel send an RST (RFC 2525, section 2.17).
        """
        if self._tls is None:
            return self._peek(deadline)
        raw: bytes | None = b""
        while not self._ended_by_alert:
            # The handshake may have taken in the first bytes of the request as well.
            if data := self._decrypt(raw or b""):
                return data
            if not self._ended_by_alert and not (raw := self._peek(deadline)):
                return raw
        return b""

    def consume(self) -> None:
        """Takes what `receive()` returned out of the kernel's buffer."""
        while self._peeked:
            self._peeked -= len(self.sock.recv(self._peeked))

    def send(self, data: bytes, sent: Callable[[], None] | None = None) -> None:
        """Hands all the bytes to the kernel, and calls `sent` under the guard with the last of them."""
        with self.lock:
            if self._tls is None:
                self._push(data, sent)
                return
            view = memoryview(data)
            while view:
                view = view[self._tls.write(view[: 16 * READ_SIZE]) :]
                self._push(self._leaving.read(), None if view else sent)

    def late_handshake(self) -> None:
        """Sends a CertificateRequest (RFC 8446, section 4.6.2); ssl.SSLError if the client did not offer it.

        It only leaves with the next handshake step or write, hence the `do_handshake()`.
        """
        if self._tls is None:
            raise ssl.SSLError("not a TLS connection")
        with self.lock:
            self._tls.verify_client_post_handshake()
            self._tls.do_handshake()
            self._flush()

    def close_notify(self) -> None:
        """Sends the TLS alert without awaiting the peer's; nothing on a plain link."""
        if self._tls is None:
            return
        with self.lock, self._guard:
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            # Once and no more: the guard is held, and a peer that does not read must not stop everyone.
            with contextlib.suppress(OSError):
                self.sock.send(self._leaving.read())

    def pause(self, seconds: float | None) -> None:
        """Does nothing for that long, or for ever; ConnectionError when the peer hangs up meanwhile."""
        deadline = None if seconds is None else time.monotonic() + seconds
        hangup = select.poll()
        hangup.register(self.sock, POLLRDHUP)
        while True:
            self._check()
            rest = TICK if deadline is None else min(TICK, deadline - time.monotonic())
            if rest <= 0:
                return
            if hangup.poll(rest * 1000):
                self._check()
                raise ConnectionResetError(errno.ECONNRESET, "the peer hung up")

    def cancel(self) -> None:
        """Makes the owning thread raise `Cancelled` soon; no packet is sent."""
        self._cancelled = True
        # Wakes a poll for reading. Not a close, which would only take effect after that poll, and free its
        # descriptor for others.
        with self._guard, contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RD)

    def hung_up(self) -> bool:
        """Whether the peer has closed, though its last bytes may be unread; always False on macOS."""
        with self._guard:
            if self.sock.fileno() < 0:
                return True
            hangup = select.poll()
            hangup.register(self.sock, POLLRDHUP)
            return bool(hangup.poll(0))

    def close(self, *, reset: bool = False) -> None:
        """Closes the socket, by an RST where asked."""
        with self._guard:
            if reset and self.sock.fileno() >= 0:
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.sock.close()

    def _check(self) -> None:
        if self._cancelled:
            raise Cancelled

    def _peek(self, deadline: float | None) -> bytes | None:
        self.consume()
        while True:
            self._check()
            rest = None if deadline is None else max(0.0, deadline - time.monotonic())
            if self._readable.poll(None if rest is None else rest * 1000):
                self._check()
                with contextlib.suppress(BlockingIOError):
                    raw = self.sock.recv(READ_SIZE, socket.MSG_PEEK)
                    self._peeked = len(raw)
                    return raw
            elif deadline is not None and time.monotonic() >= deadline:
                return None

    def _decrypt(self, raw: bytes) -> bytes:
        assert self._tls is not None
        pieces: list[bytes] = []
        with self.lock:
            self._arrived.write(raw)
            try:
                while piece := self._tls.read(READ_SIZE):
                    pieces.append(piece)
                self._ended_by_alert = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                self._ended_by_alert = True
            self._flush()
        return b"".join(pieces)

    def _flush(self) -> None:
        with self.lock:
            if self._leaving.pending:
                self._push(self._leaving.read(), None)

    def _push(self, data: bytes, sent: Callable[[], None] | None) -> None:
        view = memoryview(data)
        while True:
            self._check()
            with self._guard:
                with contextlib.suppress(BlockingIOError):
                    view = view[self.sock.send(view) :]
                if not view:
                    if sent:
                        sent()
                    return
                descriptor = self.sock.fileno()
            writable = select.poll()
            writable.register(descriptor, select.POLLOUT)
            writable.poll(TICK * 1000)
