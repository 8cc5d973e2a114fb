"""``python -m benchmarks.server``: answers HTTP requests, awake while they come; prints its port.

A server that falls asleep between two requests makes its client pay for waking it, now and then, by how late the next
one comes: some microseconds that belong to no variant.
"""

from __future__ import annotations

import selectors
import socket
from time import monotonic_ns

RESPONSE = (
    b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
)
#: How long it stays awake after an answer.
PATIENCE_NS = 2_000_000


def main() -> None:
    """Serves until it is killed."""
    with selectors.DefaultSelector() as selector, socket.create_server(("127.0.0.1", 0)) as listener:
        selector.register(listener, selectors.EVENT_READ)
        print(listener.getsockname()[1], flush=True)
        while True:
            for key, _ in selector.select():
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is listener:
                    selector.register(_accept(listener), selectors.EVENT_READ)
                elif not _attend(sock):
                    selector.unregister(sock)
                    sock.close()


def _accept(listener: socket.socket) -> socket.socket:
    sock, _ = listener.accept()
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def _attend(sock: socket.socket) -> bool:
    """Answers one connection until nothing comes any more; whether it is still open."""
    last = monotonic_ns()
    request = b""
    while True:
        try:
            received = sock.recv(65536)
        except BlockingIOError:
            if monotonic_ns() - last > PATIENCE_NS and not request:
                return True
            continue
        except ConnectionError:
            return False
        if not received:
            return False
        request += received
        if request.endswith(b"\r\n\r\n"):
            sock.sendall(RESPONSE)
            request, last = b"", monotonic_ns()


if __name__ == "__main__":
    main()
