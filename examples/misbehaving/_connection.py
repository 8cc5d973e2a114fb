"""One connection of the server: reads requests, keeps the idle time, and ends in one of many ways."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Iterable

from ._behaviours import STRAY_BYTES, Plan, behave
from ._books import IdleClose
from ._http import HEAD_END, Head, parse_head, read_body, render_head
from ._link import Cancelled, Link
from ._options import Options

# Stray bytes sent at once would be read, and thrown away, together with the response.
STRAY_DELAY = 0.02


ONE_SEGMENT = 1000  # bytes of a body that leaves together with its head


class Gone(Exception):  # noqa: N818 - not an error
    """The connection has ended: its thread has nothing left to do but to close the socket."""


class Connection:
    """A live connection as a test sees it, and as the behaviours use it.

    `fin`, `rst`, `half_close`, `close_notify` and `send_raw` are for tests, from any thread at any moment.
    What they do is counted, unless the connection had ended already; on one that is gone they do nothing.
    """

    def __init__(self, sock: socket.socket, options: Options) -> None:
        self._options, self._ledger = options, options.ledger
        self._link = Link(sock, self._ledger, options.context)
        self._buffer = bytearray()
        self._plan: Plan | None = None
        self._last_byte = time.monotonic()
        self._ended: str | None = None
        self._order: str | None = None
        self._closed = threading.Event()
        self._present = True
        self._announce_close = self._lose_next = False
        self.requests = 0
        self.peer_port: int | None = None
        # A client may have reset before it was accepted.
        with contextlib.suppress(OSError):
            self.peer_port = sock.getpeername()[1] if sock.family != socket.AF_UNIX else None
        with self._ledger:
            self._ledger.accepted += 1
            self._ledger.open += 1

    def __repr__(self) -> str:
        state = self._ended or "live"
        return f"<Connection from port {self.peer_port}, {self.requests} requests, {state}>"

    # For tests, from any thread.

    def fin(self) -> None:
        """Closes properly: under TLS a close_notify, then the FIN."""
        self._finish("fin")

    def rst(self) -> None:
        """Resets; returns once the RST is out."""
        self._order = self._order or "rst"
        self._link.cancel()
        if not self._closed.wait(5):
            raise TimeoutError(f"not reset within 5 s: {self}")

    def half_close(self) -> None:
        """Sends a FIN, under TLS without an alert, and keeps on reading."""
        with self._link.lock, self._ledger:
            if self._present:
                self._count("half_close")
                # The client may have reset already.
                with contextlib.suppress(OSError):
                    self._link.sock.shutdown(socket.SHUT_WR)

    def close_notify(self) -> None:
        """Sends the TLS alert and keeps the socket open."""
        with self._link.lock, self._ledger:
            if self._present:
                self._count("close_notify")
                self._link.close_notify()

    def send_raw(self, data: bytes) -> None:
        """Sends bytes nobody asked for, under TLS as application data; counted as "stray"."""
        with self._link.lock:
            if self._present:
                self._link.send(data, lambda: self._count("stray"))

    # For the behaviours, in the connection's own thread.

    @property
    def tls_version(self) -> str | None:
        """Such as "TLSv1.3", None for plain HTTP."""
        return self._link.tls_version

    def respond(
        self,
        head: Head,
        status: int = 200,
        body: bytes = b"ok",
        headers: Iterable[tuple[str, str]] = (),
        *,
        chunks: Iterable[bytes] | None = None,
        version: str = "HTTP/1.1",
        last_kind: str | None = None,
    ) -> None:
        """Sends a complete response; `last_kind` makes it the last, and is what the end counts as.

        `chunks` take the place of the body, each sent as it comes.
        """
        fields = [*headers]
        if status in (204, 304):
            body = b""
        elif chunks is not None:
            fields.append(("Transfer-Encoding", "chunked"))
        else:
            fields.append(("Content-Length", str(len(body))))
        if head.wants_close or self._announce_close:
            last_kind = last_kind or "close_header"
        if last_kind and version == "HTTP/1.1":
            fields.append(("Connection", "close"))
        raw = render_head(status, fields, version)
        if head.method == "HEAD":
            self.send(raw, complete=True)
        elif chunks is None and len(body) <= ONE_SEGMENT:
            self.send(raw + body, complete=True)
        else:
            self.send(raw)
            if last_kind:
                # The client knows now that it is the last; it may close first, in the middle of the body.
                with self._ledger:
                    self._count(last_kind)
            if chunks is None:
                self.send(body, complete=True)
            else:
                for chunk in chunks:
                    self.send(b"%x\r\n%b\r\n" % (len(chunk), chunk))
                self.send(b"0\r\n\r\n", complete=True)
        if last_kind:
            self.finish(last_kind)

    def send(self, data: bytes, *, complete: bool = False) -> None:
        """Sends a piece of a response, `complete` with the last piece."""
        self._link.send(data, self._count_response if complete else None)

    def pause(self, seconds: float | None) -> None:
        """Keeps the client waiting for that long, or for ever."""
        self._link.pause(seconds)

    def finish(self, kind: str) -> None:
        """Ends by a FIN."""
        self._finish(kind)
        raise Gone

    def abort(self, kind: str) -> None:
        """Ends by an RST."""
        with self._ledger:
            self._count(kind)
            self._leave()
            self._link.close(reset=True)
        raise Gone

    def ends_unread(self, kind: str) -> None:
        """Closes with the request unread in the kernel's buffer, which then sends the RST by itself."""
        with self._ledger:
            self._count(kind)
            self._leave()
            self._link.close()
        raise Gone

    # The thread.

    def run(self) -> None:
        """Serves until the connection has ended."""
        kind = "client"
        try:
            try:
                self._link.handshake()
            except ssl.SSLError:
                kind = "handshake"
                raise
            with self._ledger:
                self._ledger.established += 1
            self._set_plan(None)
            while True:
                self._serve(self._next_request())
        except (Gone, Cancelled, OSError):
            pass
        finally:
            with self._ledger:
                self._count(self._order or kind)
                self._leave()
                self._link.close(reset=self._order == "rst")
            self._closed.set()

    def stop(self) -> None:
        """Ends the connection because the server does."""
        # The thread may not have got round to noticing that the client was first.
        self._order = self._order or ("client" if self._link.hung_up() else "stop")
        self._link.cancel()

    def _serve(self, head: Head) -> None:
        first = self.requests == 1
        if not first and head.target.partition("?")[0] == "/lost-unread":
            self.ends_unread("lost_unread")
        self._link.consume()
        try:
            read_body(head, self._buffer, self._read_more)
        except ValueError:
            self.finish("bad_request")
        if self._ended in ("half_close", "close_notify"):
            return
        if self._lose_next:
            self.finish("lost_fin")
        # None after stray bytes, which a slow client may have thrown away with the response: it goes on asking, and
        # a second end would be in no books.
        drop = self._options.draw_drop() if self._ended is None else None
        self._announce_close = drop == "close_header"
        plan = behave(self, head, first=first)
        if drop == "lost_fin":
            self._lose_next = True
        elif drop is not None:
            plan = Plan(drop, STRAY_DELAY if drop == "stray" else 0)
        self._set_plan(plan)

    def _next_request(self) -> Head:
        while (end := self._buffer.find(HEAD_END)) < 0:
            # The first byte of a request ends the idleness.
            self._read_more(idle=not self._buffer)
        raw = bytes(self._buffer[:end])
        del self._buffer[: end + len(HEAD_END)]
        head = parse_head(raw)
        if head is None:
            self._link.consume()
            self.finish("bad_request")
        assert head is not None
        with self._ledger:
            self._ledger.requests += 1
            self.requests += 1
        return head

    def _read_more(self, *, idle: bool = False) -> None:
        data = None
        while data is None:
            due = self._last_byte + self._plan.seconds if idle and self._plan else None
            data = self._link.receive(due)
            if data is None and self._plan is not None:
                self._carry_out(self._plan)
        if not data:
            raise Gone
        self._buffer += data

    def _carry_out(self, plan: Plan) -> None:
        idle = time.monotonic() - self._last_byte
        self._plan = None
        if plan.act == "late_handshake":
            # A client that did not offer post-handshake authentication cannot be asked.
            with contextlib.suppress(ssl.SSLError), self._link.lock, self._ledger:
                self._link.late_handshake()
                self._ledger.late_handshakes += 1
            self._set_plan(None)
        elif plan.act == "stray":
            self._link.send(STRAY_BYTES, lambda: self._count("stray", idle))
        elif plan.act == "408":
            fields = [("Content-Length", "0"), ("Connection", "close")]
            self._link.send(render_head(408, fields), lambda: self._count("408", idle))
            self.finish("408")
        else:
            with self._link.lock, self._ledger:
                self._count(plan.act, idle)
                match plan.act:
                    case "fin":
                        self.finish(plan.act)
                    case "rst":
                        self.abort(plan.act)
                    case "half_close":
                        self.half_close()
                    case "close_notify":
                        self.close_notify()

    def _set_plan(self, plan: Plan | None) -> None:
        if plan is None and self._options.keepalive is not None and self._ended is None:
            plan = Plan("fin", self._options.keepalive)
        self._plan = plan

    def _finish(self, kind: str) -> None:
        with self._link.lock, self._ledger:
            if not self._present:
                return
            self._count(kind)
            self._leave()
            self._link.close_notify()
            # Sends the FIN now, whoever calls; the close itself is left to the thread that reads.
            with contextlib.suppress(OSError):
                self._link.sock.shutdown(socket.SHUT_RDWR)

    def _count(self, kind: str, idle: float | None = None) -> None:
        with self._ledger:
            if self._ended is None:
                self._ended = kind
                self._ledger.ended[kind] += 1
                if idle is not None:
                    self._ledger.idle_closes.append(IdleClose(kind, idle))

    def _count_response(self) -> None:
        self._last_byte = time.monotonic()
        self._ledger.responses += 1

    def _leave(self) -> None:
        if self._present:
            self._present = False
            self._ledger.open -= 1
