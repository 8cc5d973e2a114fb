"""Looking at a pool's sockets from outside, without a byte taken from them, and changing how its requests go."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import trustme
import urllib3

from misbehaving import Connection, Server

ENDED = getattr(select, "POLLRDHUP", select.POLLIN)
READABLE = select.POLLIN
PROTOCOLS = (None, "1.2", "1.3")
"""What `Server(tls=…)` takes."""
CLOCKS_AGREE_WITHIN = 0.02
"""Seconds: the kernel counts in jiffies of up to 4 ms, twice in a difference, and a server acts after it has looked."""


def pooled(pool: Any) -> list[Any]:
    """The connections that lie in a pool, the next to be taken last."""
    return [conn for conn in tuple(pool.pool.queue) if conn is not None]


def wait_until(condition: Callable[[], object], seconds: float = 60) -> None:
    """Returns as soon as the condition holds; fails if it does not come to hold."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.002)


def wait_for_peer(sock: Any, event: int = ENDED) -> None:
    """Returns once the peer's deed has arrived: `ENDED` by a FIN or RST, or `READABLE`. Only looks."""
    poll = select.poll()
    poll.register(sock.fileno(), event)
    assert poll.poll(60_000), "nothing came from the peer"


def last_of(server: Server) -> Connection:
    """The server's end of the connection that was opened last."""
    return server.connections[-1]


def before_sending(pool: Any, act: Callable[[Any], object]) -> None:
    """Have `act(conn)` run once: after the next checkout and its check, before anything is sent."""
    make_request = pool._make_request

    def act_first(conn: Any, *args: Any, **kwargs: Any) -> Any:
        del pool._make_request
        act(conn)
        return make_request(conn, *args, **kwargs)

    pool._make_request = act_first


def fin(server: Server) -> Callable[[Any], None]:
    """For `before_sending`: the server closes, and its FIN has arrived."""

    def act(conn: Any) -> None:
        last_of(server).fin()
        wait_for_peer(conn.sock)

    return act


def rst(server: Server) -> Callable[[Any], None]:
    """For `before_sending`: the server resets, and its RST has arrived."""

    def act(conn: Any) -> None:
        last_of(server).rst()
        wait_for_peer(conn.sock)

    return act


def tcp_states(port: int) -> list[str]:
    """States, as the kernel writes them, of all sockets of this machine whose peer has the port."""
    states = []
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        _, _, remote, state, *_ = line.split()
        if int(remote.rpartition(":")[2], 16) == port:
            states.append(state)
    return states


CLOSE_WAIT = "08"  # as /proc/net/tcp has it


class DeafServer:
    """Answers the head of a connection's first request and never reads what follows it.

    Its window is a few kilobytes wide: what the client sends beyond them stays in the client's kernel.
    """

    def __init__(self, tls: str | None, folder: Path) -> None:
        self._context: ssl.SSLContext | None = None
        self._ca_file: str | None = None
        if tls is not None:
            authority = trustme.CA()
            self._ca_file = str(folder / "ca.pem")
            authority.cert_pem.write_to_path(self._ca_file)
            self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("127.0.0.1").configure_cert(self._context)
            version = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[tls]
            self._context.minimum_version = self._context.maximum_version = version
        self._listener = socket.socket()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> DeafServer:
        self._stack.enter_context(self._listener)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.url = f"{'https' if self._context else 'http'}://127.0.0.1:{self._listener.getsockname()[1]}"
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def manager(self, timeout: float) -> urllib3.PoolManager:
        """A client of this server, on whose sockets the kernel gives up after so many seconds without an ACK."""
        options = [
            (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(timeout * 1000)),
            (socket.SOL_SOCKET, socket.SO_SNDBUF, 200_000),
        ]
        return urllib3.PoolManager(ca_certs=self._ca_file, socket_options=options)

    @contextlib.contextmanager
    def answering(self) -> Iterator[None]:
        """While the block runs, the next connection is accepted and answered; it stays open after that."""

        def answer() -> None:
            sock, _ = self._listener.accept()
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
            self._stack.enter_context(sock)
            head = b""
            while b"\r\n\r\n" not in head:
                head += sock.recv(512)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

        with ThreadPoolExecutor(1) as thread:
            done = thread.submit(answer)
            yield
            done.result(5)


def drops(metrics: Any) -> dict[tuple[str, str], int]:
    """Drops by reason and phase, those that happened."""
    return {
        (point.attributes["urllib3.connection.drop.reason"], point.attributes["urllib3.connection.drop.phase"]): int(
            point.value
        )
        for point in metrics.points("urllib3.pool.dropped_connections")
        if point.value
    }


def causes(metrics: Any) -> dict[str, int]:
    """Set-ups by cause, failed ones included."""
    counts: dict[str, int] = {}
    for point in metrics.points("urllib3.connection.setup.duration"):
        cause = point.attributes["urllib3.connection.setup.cause"]
        counts[cause] = counts.get(cause, 0) + point.count
    return counts


def chunks(*pieces: bytes | Callable[[], object]) -> Iterator[bytes]:
    """A body: bytes are sent, functions are called when their turn comes."""
    for piece in pieces:
        if isinstance(piece, bytes):
            yield piece
        else:
            piece()


def attributes_of(spans: Iterable[Any]) -> list[dict[str, Any]]:
    """The spans' attributes as plain dicts, with `urllib3.connection.` taken off the names."""
    return [
        {key.removeprefix("urllib3.connection."): value for key, value in (span.attributes or {}).items()}
        for span in spans
    ]
