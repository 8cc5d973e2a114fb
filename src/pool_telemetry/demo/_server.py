"""A server on loopback that ends connections as a path tells it to, and keeps books of what it did.

| path | what it does |
|---|---|
| `/ok` | answers |
| `/burst` | answers when as many requests as a burst has are there, so that each of them needs a connection |
| `/lost`, `/lost-rst` | does not answer a connection's second request or a later one, but ends it, by a FIN or an RST |
| `/.../fin/S`, `/.../rst/S` | the same, and ends the connection once it has been idle for S seconds |
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import threading
import time
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler
from types import TracebackType

BODY = b"x" * 2000
HELD = 0.25  # seconds for which a burst is under way, so that one can see it
PATIENCE = 10  # seconds


@dataclass(frozen=True)
class Books:
    """What the server has done so far."""

    accepted: int = 0
    requests: int = 0
    fins: int = 0
    """Idle connections that it ended by a FIN,"""
    resets: int = 0
    """and by an RST."""
    unanswered: int = 0
    """Requests to which it ended the connection instead of answering."""


class Server:
    """A context manager; the server runs in threads of this process.

    Args:
        burst: of how many requests a burst consists.
    """

    def __init__(self, burst: int) -> None:
        self._listener = _Listener(burst)

    def __enter__(self) -> Server:
        threading.Thread(target=self._listener.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._listener.shutdown()
        self._listener.server_close()

    @property
    def port(self) -> int:
        """Where it listens, on 127.0.0.1."""
        port: int = self._listener.server_address[1]
        return port

    @property
    def url(self) -> str:
        """Its address, without a final slash."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def books(self) -> Books:
        """The books as they stand."""
        with self._listener.lock:
            return self._listener.books


class _Listener(socketserver.ThreadingTCPServer):
    # Not http.server's, which asks the name service for this machine's name, and may wait for it.
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, burst: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        #: Held for an act together with its entry: who has seen the one finds the other.
        self.lock = threading.Lock()
        self.books = Books()
        self.all_there = threading.Barrier(burst)

    def enter(self, what: str) -> None:
        """Count one more; the lock is held."""
        self.books = replace(self.books, **{what: getattr(self.books, what) + 1})


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave together
    server: _Listener

    def setup(self) -> None:
        super().setup()
        self._served = 0
        self._end, self._limit = "", 0.0
        with self.server.lock:
            self.server.enter("accepted")

    def handle(self) -> None:
        self.close_connection = False
        with contextlib.suppress(OSError, threading.BrokenBarrierError):  # the client may go at any moment
            while not self.close_connection and self._is_asked_again():
                self.handle_one_request()

    def _is_asked_again(self) -> bool:
        """Wait for the first byte of a request; end the connection if it has been idle for too long."""
        self.connection.settimeout(self._limit or None)
        try:
            return bool(self.connection.recv(1, socket.MSG_PEEK))
        except TimeoutError:
            self._end_by(self._end, "fins" if self._end == "fin" else "resets")
            return False
        finally:
            with contextlib.suppress(OSError):
                self.connection.settimeout(None)

    def _end_by(self, how: str, entry: str) -> None:
        self.close_connection = True
        with self.server.lock:
            self.server.enter(entry)
            if how == "fin":
                self.connection.shutdown(socket.SHUT_WR)
            else:
                # Closed for good at once: a socket object would wait for the files that were made of it.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                socket.close(self.connection.detach())

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        with self.server.lock:
            self.server.enter("requests")
        self._served += 1
        name, self._end, limit = (*self.path.strip("/").split("/"), "", "0")[:3]
        self._limit = float(limit)
        if name.startswith("lost") and self._served > 1:
            self._end_by("rst" if name == "lost-rst" else "fin", "unanswered")
            return
        if name == "burst":
            self.server.all_there.wait(PATIENCE)
            time.sleep(HELD)
        self.send_response(200)
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: object) -> None:
        pass
