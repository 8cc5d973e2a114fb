"""The server as tests use it: start, look at the books, meddle with live connections, stop."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import ssl
from collections.abc import Callable
from urllib.parse import quote

from ._books import Books, Ledger
from ._connection import Connection
from ._listener import Listener, bind
from ._options import Options
from ._tls import VERSIONS, Authority


class Server:
    """An HTTP/1.1 server whose paths select how it misbehaves; a context manager.

    `tls` is None, "1.2" or "1.3". `keepalive` seconds of idleness end a connection by a FIN, None lets it
    live; the behaviour a path asked for takes the place of that limit. `random_drops` ends about three in ten
    connections after each response, in one of seven ways. `unix_path` listens on an AF_UNIX socket, without
    TLS.
    """

    def __init__(
        self,
        tls: str | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        unix_path: str | os.PathLike[str] | None = None,
        keepalive: float | None = None,
        random_drops: random.Random | None = None,
    ) -> None:
        if tls is not None and (tls not in VERSIONS or unix_path is not None):
            raise ValueError(f"cannot serve TLS {tls!r}: it is one of {list(VERSIONS)}, and over TCP only")
        self.tls = tls
        self.host = host
        self.port = port
        self.unix_path = None if unix_path is None else os.fspath(unix_path)
        self._keepalive, self._random_drops = keepalive, random_drops
        self._ledger = Ledger()
        self._authority: Authority | None = None
        self._listener: Listener[Connection] | None = None

    def __enter__(self) -> Server:
        with contextlib.ExitStack() as undo:
            if self.tls is not None:
                self._authority = Authority()
                undo.callback(self._authority.close)
            context = self._authority.server_context(self.tls) if self._authority else None
            options = Options(context, self._keepalive, self._random_drops, self._ledger)
            sock = undo.enter_context(self._bind())
            if self.unix_path is not None:
                undo.callback(os.unlink, self.unix_path)
            self._listener = Listener(sock, lambda accepted: Connection(accepted, options), "misbehaving")
            undo.callback(self._listener.stop)
            self._listener.start()
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._undo.close()

    def _bind(self) -> socket.socket:
        if self.unix_path is not None:
            sock = socket.socket(socket.AF_UNIX)
            sock.bind(self.unix_path)
        else:
            sock = bind(self.host, self.port)
            self.port = sock.getsockname()[1]
        return sock

    @property
    def url(self) -> str:
        """The base URL without a final slash; over TLS of "localhost", which is resolved."""
        if self.unix_path is not None:
            return f"http+unix://{quote(self.unix_path, safe='')}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.tls is None:
            return f"http://{host}:{self.port}"
        return f"https://{'localhost' if host == '127.0.0.1' else host}:{self.port}"

    @property
    def ca_file(self) -> str | None:
        """The PEM file of the certificate authority, until the server stops; None without TLS."""
        return self._authority.ca_file if self._authority else None

    def client_context(self) -> ssl.SSLContext:
        """A fresh context that trusts this server."""
        if self._authority is None:
            raise ValueError("a server without TLS needs no context")
        return self._authority.client_context()

    @property
    def books(self) -> Books:
        """A copy of the books as they stand, also after the server has stopped."""
        return self._ledger.snapshot()

    @property
    def connections(self) -> list[Connection]:
        """The live connections, oldest first."""
        return self._listener.handlers if self._listener else []

    def wait_for(self, predicate: Callable[[Books], bool], timeout: float = 60) -> Books:
        """The first books to satisfy the predicate; TimeoutError shows the last ones that did not."""
        return self._ledger.wait_for(predicate, timeout)
