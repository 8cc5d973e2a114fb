"""What the proxies share: a connection's thread, waiting with an idle limit, and relaying bytes both ways."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections import Counter

from ._link import TICK, Cancelled, Link

CONNECT_SECONDS = 30.0


class IdleLimitReached(Exception):  # noqa: N818 - not an error
    """Nothing went either way for as long as the proxy permits."""


class Shared:
    """What all the connections of one proxy have in common."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.counts: Counter[str] = Counter()
        self.idle_limit: float | None = None

    def count(self, what: str) -> None:
        """Adds one."""
        with self.lock:
            self.counts[what] += 1


class ProxyConnection:
    """A client of a proxy; subclasses say what `serve()` does with `self.link`."""

    def __init__(self, link: Link, shared: Shared) -> None:
        self.link = link
        self.shared = shared
        self._upstream: Link | None = None

    def serve(self) -> None:
        """Serves the client until its end."""
        raise NotImplementedError

    def run(self) -> None:
        """Serves the client, and closes both sides."""
        reset = False
        try:
            self.link.handshake()
            self.serve()
        except ConnectionResetError:
            reset = self._upstream is not None
        except IdleLimitReached:
            self.shared.count("dropped")
            self.link.close_notify()
        except (Cancelled, OSError, EOFError):
            pass
        finally:
            self.link.close(reset=reset)
            if self._upstream is not None:
                self._upstream.close(reset=reset)

    def stop(self) -> None:
        """Makes `run()` return soon."""
        for link in (self.link, self._upstream):
            if link is not None:
                link.cancel()

    def more(self, *, idle: bool = False) -> bytes:
        """The client's next bytes; EOFError at its end, `IdleLimitReached` only where it may be idle."""
        since = time.monotonic()
        while (data := self.link.receive(time.monotonic() + TICK)) is None:
            if idle:
                self._check_idle(since)
        if not data:
            raise EOFError
        self.link.consume()
        return data

    def connect(self, host: str, port: int) -> None:
        """Opens the other side of a tunnel; OSError where that fails."""
        sock = socket.create_connection((host, port), CONNECT_SECONDS)
        self._upstream = Link(sock, contextlib.nullcontext())

    def relay(self) -> None:
        """Passes bytes both ways until a side ends; an RST of either side is raised as it comes."""
        assert self._upstream is not None
        self.shared.count("tunnels")
        others = {self.link: self._upstream, self._upstream: self.link}
        poll = select.poll()
        for link in others:
            poll.register(link.sock, select.POLLIN)
        since = time.monotonic()
        while True:
            if not poll.poll(TICK * 1000):
                self._check_idle(since)
            for link, other in others.items():
                data = link.receive(time.monotonic())
                if data == b"":
                    return
                if data:
                    link.consume()
                    other.send(data)
                    since = time.monotonic()

    def _check_idle(self, since: float) -> None:
        limit = self.shared.idle_limit
        if limit is not None and time.monotonic() - since >= limit:
            raise IdleLimitReached
