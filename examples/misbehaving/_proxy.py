"""A small HTTP proxy: CONNECT tunnels, and plain HTTP forwarded by absolute URI."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ._http import HEAD_END, Head, parse_head, read_body, render_head
from ._link import Link
from ._listener import Listener, bind
from ._relay import CONNECT_SECONDS, ProxyConnection, Shared
from ._tls import Authority

if TYPE_CHECKING:
    from collections import Counter

# RFC 9110, section 7.6.1: for one hop only. The length is told anew, as the whole body is read first.
HOP_BY_HOP = {
    "connection",
    "content-length",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
}


class _HttpProxyConnection(ProxyConnection):
    def __init__(self, link: Link, shared: Shared, *, fail_connect: bool) -> None:
        super().__init__(link, shared)
        self._fail_connect = fail_connect
        self._buffer = bytearray()

    def serve(self) -> None:
        while True:
            while (end := self._buffer.find(HEAD_END)) < 0:
                self._buffer += self.more(idle=not self._buffer)
            head = parse_head(bytes(self._buffer[:end]))
            del self._buffer[: end + len(HEAD_END)]
            if head is None:
                return
            if head.method == "CONNECT":
                if self._tunnel(head):
                    return
            else:
                self._forward(head)
            if head.wants_close:
                return

    def _tunnel(self, head: Head) -> bool:
        host, _, port = head.target.rpartition(":")
        try:
            if self._fail_connect:
                raise ConnectionRefusedError("told to fail")
            self.connect(host.strip("[]"), int(port))
        except (OSError, ValueError):
            self._refuse()
            return False
        assert self._upstream is not None
        self.link.send(b"HTTP/1.1 200 Connection established" + HEAD_END)
        if self._buffer:
            self._upstream.send(bytes(self._buffer))
        self.relay()
        return True

    def _forward(self, head: Head) -> None:
        def more() -> None:
            self._buffer.extend(self.more())

        body = read_body(head, self._buffer, more)
        url = urlsplit(head.target)
        path = (url.path or "/") + (f"?{url.query}" if url.query else "")
        headers = {name: value for name, value in head.headers.items() if name not in HOP_BY_HOP}
        upstream = http.client.HTTPConnection(url.hostname or "", url.port, timeout=CONNECT_SECONDS)
        with contextlib.closing(upstream):
            try:
                upstream.request(head.method, path, body or None, {**headers, "Connection": "close"})
                response = upstream.getresponse()
                answer = response.read()
            except (OSError, http.client.HTTPException):
                self._refuse()
                return
        fields = [(name, value) for name, value in response.getheaders() if name.lower() not in HOP_BY_HOP]
        if response.status not in (204, 304):
            fields.append(("Content-Length", response.getheader("Content-Length") or str(len(answer))))
        self.shared.count("forwarded")
        self.link.send(render_head(response.status, fields) + answer)

    def _refuse(self) -> None:
        self.shared.count("refused")
        self.link.send(render_head(502, [("Content-Length", "0")]))


class Proxy:
    """An HTTP proxy on loopback, itself over TLS where asked; a context manager.

    With `fail_connect` it answers 502 to every CONNECT. It forwards each plain request over a connection of
    its own to the server, and keeps the client's alive.
    """

    def __init__(
        self,
        tls: bool = False,
        *,
        host: str = "127.0.0.1",
        fail_connect: bool = False,
        drop_idle: float | None = None,
    ) -> None:
        self.host = host
        self.port = 0
        self._tls, self._fail_connect = tls, fail_connect
        self._shared = Shared()
        self._shared.idle_limit = drop_idle
        self._authority: Authority | None = None

    def __enter__(self) -> Proxy:
        with contextlib.ExitStack() as undo:
            if self._tls:
                self._authority = Authority()
                undo.callback(self._authority.close)
            context = self._authority.server_context() if self._authority else None

            def make(accepted: socket.socket) -> _HttpProxyConnection:
                self._shared.count("accepted")
                link = Link(accepted, contextlib.nullcontext(), context)
                return _HttpProxyConnection(link, self._shared, fail_connect=self._fail_connect)

            sock = bind(self.host)
            self.port = sock.getsockname()[1]
            listener = Listener(sock, make, "misbehaving-proxy")
            undo.callback(listener.stop)
            listener.start()
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._undo.close()

    @property
    def url(self) -> str:
        """What a client is given as its proxy."""
        return f"https://localhost:{self.port}" if self._tls else f"http://{self.host}:{self.port}"

    @property
    def ca_file(self) -> str | None:
        """The PEM file of the authority of the proxy's own certificate; None without TLS."""
        return self._authority.ca_file if self._authority else None

    def client_context(self) -> ssl.SSLContext:
        """A fresh context that trusts this proxy."""
        if self._authority is None:
            raise ValueError("a proxy without TLS needs no context")
        return self._authority.client_context()

    @property
    def counts(self) -> Counter[str]:
        """A copy of the counts: accepted, tunnels, forwarded, refused, dropped."""
        with self._shared.lock:
            return self._shared.counts.copy()

    def drop_idle(self, seconds: float | None) -> None:
        """From now on, FINs clients that were idle for that long, in a tunnel or between requests."""
        self._shared.idle_limit = seconds
