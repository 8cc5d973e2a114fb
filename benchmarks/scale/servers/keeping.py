"""``python -m benchmarks.scale.servers.keeping``: answers on thousands of connections, and keeps them; prints its port.

It listens on every address of the loopback, so that there can be many upstreams.
"""

from __future__ import annotations

import selectors
import socket
import struct
from time import monotonic_ns

from benchmarks.server import PATIENCE_NS, RESPONSE


def main() -> None:
    """Serves until it is killed."""
    with selectors.DefaultSelector() as selector, socket.create_server(("", 0), backlog=4096) as listener:
        listener.setblocking(False)
        selector.register(listener, selectors.EVENT_READ)
        print(listener.getsockname()[1], flush=True)
        last = 0
        while True:
            # Awake while requests come: who has to be woken takes its time, and it would be counted as the client's.
            for key, _ in selector.select(0 if monotonic_ns() - last < PATIENCE_NS else None):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                if sock is listener:
                    _accept(listener, selector)
                elif _attend(sock):
                    last = monotonic_ns()
                else:
                    selector.unregister(sock)
                    sock.close()


def _accept(listener: socket.socket, selector: selectors.BaseSelector) -> None:
    sock, _ = listener.accept()
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # Ended by an RST, so that ten thousand of them leave no port in TIME_WAIT.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    selector.register(sock, selectors.EVENT_READ)


def _attend(sock: socket.socket) -> bool:
    """Answers what has come; whether the connection is still open."""
    try:
        received = sock.recv(65536)
        for _ in range(received.count(b"\r\n\r\n")):  # of GET requests no other part has an empty line
            sock.sendall(RESPONSE)
    except BlockingIOError:
        return True
    except ConnectionError:
        return False
    return bool(received)


if __name__ == "__main__":
    main()
