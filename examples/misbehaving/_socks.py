"""A minimal SOCKS 5 proxy (RFC 1928): no authentication, CONNECT, IPv4 addresses and domain names."""

from __future__ import annotations

import contextlib
import socket
from collections import Counter

from ._link import Link
from ._listener import Listener, bind
from ._relay import ProxyConnection, Shared

VERSION, CONNECT, IPV4, DOMAIN = 5, 1, 1, 3
SUCCEEDED, FAILED, NOT_SUPPORTED = 0, 1, 7


class _SocksConnection(ProxyConnection):
    def __init__(self, link: Link, shared: Shared) -> None:
        super().__init__(link, shared)
        self._buffer = bytearray()

    def serve(self) -> None:
        _, methods = self._take(2)
        self._take(methods)
        self.link.send(bytes([VERSION, 0]))
        _, command, _, kind = self._take(4)
        if command != CONNECT or kind not in (IPV4, DOMAIN):
            self._reply(NOT_SUPPORTED)
            return
        host = socket.inet_ntoa(self._take(4)) if kind == IPV4 else self._take(self._take(1)[0]).decode("ascii")
        port = int.from_bytes(self._take(2), "big")
        try:
            self.connect(host, port)
        except OSError:
            self.shared.count("refused")
            self._reply(FAILED)
            return
        self._reply(SUCCEEDED)
        self.relay()

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._buffer += self.more()
        piece = bytes(self._buffer[:size])
        del self._buffer[:size]
        return piece

    def _reply(self, code: int) -> None:
        self.link.send(bytes([VERSION, code, 0, IPV4]) + bytes(6))


class SocksProxy:
    """A SOCKS 5 relay on loopback; a context manager."""

    def __init__(self, *, host: str = "127.0.0.1") -> None:
        self.host = host
        self.port = 0
        self._shared = Shared()

    def __enter__(self) -> SocksProxy:
        def make(accepted: socket.socket) -> _SocksConnection:
            self._shared.count("accepted")
            return _SocksConnection(Link(accepted, contextlib.nullcontext()), self._shared)

        sock = bind(self.host)
        self.port = sock.getsockname()[1]
        self._listener = Listener(sock, make, "misbehaving-socks")
        self._listener.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.stop()

    @property
    def url(self) -> str:
        """What a client is given as its proxy; the proxy resolves the names."""
        return f"socks5h://{self.host}:{self.port}"

    @property
    def counts(self) -> Counter[str]:
        """A copy of the counts: accepted, tunnels, refused."""
        with self._shared.lock:
            return self._shared.counts.copy()

    def drop_idle(self, seconds: float | None) -> None:
        """From now on, FINs tunnels that were idle for that long."""
        self._shared.idle_limit = seconds
