"""``python -m benchmarks.scale.servers.dropping [CERTIFICATE]``: drops connections by the path; prints its port.

``/after`` the response; ``/idle`` once the connection has been idle for a moment; ``/race`` by leaving the second
request unanswered. A response says ``bye`` if a FIN is to follow it. With a certificate it speaks TLS.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import ssl
import sys
import threading

IDLE_SECONDS = 0.002
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"


def main(certificate: str | None = None) -> None:
    """Serves until it is killed."""
    context = None
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        context.num_tickets = 0  # what a client has not read looks like a drop
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        print(listener.getsockname()[1], flush=True)
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=_serve, args=(sock, context), daemon=True).start()


def _serve(plain: socket.socket, context: ssl.SSLContext | None) -> None:
    with contextlib.suppress(OSError):  # of TLS, too
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock = context.wrap_socket(plain, server_side=True) if context is not None else plain
        with sock:
            for asked in itertools.count():
                path = _path(sock)
                if path is None or (path == b"/race" and asked):
                    return
                body = b"bye" if path in (b"/after", b"/idle") else b"ok"
                sock.sendall(ANSWER % (len(body), body))
                if path == b"/after" or (path == b"/idle" and not select.select([sock], [], [], IDLE_SECONDS)[0]):
                    return


def _path(sock: socket.socket) -> bytes | None:
    """Of the next request, ``None`` if none comes."""
    request = b""
    while not request.endswith(b"\r\n\r\n"):
        received = sock.recv(65536)
        if not received:
            return None
        request += received
    return request.split(b" ", 2)[1]


if __name__ == "__main__":
    main(*sys.argv[1:])
