"""What can go wrong with a pool, in one round: so that every figure has something to show."""

from __future__ import annotations

import contextlib
import gc
import select
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import urllib3
from urllib3.exceptions import EmptyPoolError, NewConnectionError

import pool_telemetry

SOON = 0.05  # seconds after which the upstream ends an idle connection
HELD = 0.06  # seconds that a thread waits for a connection: more than the alert calls a wait
PILE = 6  # connections of a burst
SECOND = 1.0
PATIENCE = 30.0  # seconds for what is certain to come, on a busy machine too
# By a FIN or RST. Over TLS a goodbye comes before it, by which a connection is readable, and not in CLOSE_WAIT yet.
ENDED = getattr(select, "POLLRDHUP", select.POLLIN)
READABLE = select.POLLIN


class Shop:
    """A program's pools, all of one upstream; a context manager.

    Args:
        url: of the upstream, a misbehaving server.
        ca_file: whom to trust, if it is an HTTPS one.
    """

    def __init__(self, url: str, ca_file: str | None = None) -> None:
        self._url, self._ca_file = url, ca_file
        self._pools = contextlib.ExitStack()

    def __enter__(self) -> Shop:
        self.pool = self._pools.enter_context(self.make(maxsize=PILE))
        self.small = self._pools.enter_context(self.make(maxsize=1))
        self.narrow = self._pools.enter_context(self.make(maxsize=1, block=True))
        nobody = self._pools.enter_context(socket.socket())  # has a port, and does not listen
        nobody.bind(("127.0.0.1", 0))
        self._nobody = nobody.getsockname()[:2]
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._pools.close()

    def make(self, **options: Any) -> urllib3.HTTPConnectionPool:
        """Another pool of the upstream's."""
        trust = {"ca_certs": self._ca_file} if self._ca_file else {}
        return urllib3.connection_from_url(self._url, timeout=PATIENCE, **trust, **options)

    def play(self) -> None:
        """One round of everything."""
        for scene in (
            self._drops,
            self._lost_races,
            self._pile,
            self._discards,
            self._waits,
            self._losses,
            self._others,
        ):
            scene()

    def _drops(self) -> None:
        for path, event in ((f"/fin/{SOON}", ENDED), (f"/rst/{SOON}", ENDED), (f"/stray/{SOON}", READABLE)):
            ask(self.pool, path)
            while not has_come(event, self.pool, 1, SECOND):
                ask(self.pool, path)  # on a busy machine it came with the response, and was read with it
            ask(self.pool, "/ok")

    def _lost_races(self) -> None:
        for path in ("/lost", "/lost-rst"):
            ask(self.pool, "/ok")  # such a path answers the first request on a connection
            ask(self.pool, path)

    def _pile(self) -> None:
        burst(self.pool, f"/fin/{SOON}", PILE)
        assert has_come(ENDED, self.pool, PILE, PATIENCE)
        for _ in range(3):
            ask(self.pool, "/ok")  # replaces the topmost, and nobody gets down to the others

    def _discards(self) -> None:
        burst(self.small, "/ok", 5)

    def _waits(self) -> None:
        with self.waiting():
            time.sleep(HELD)
        with self._taken(), contextlib.suppress(EmptyPoolError):
            ask(self.narrow, "/ok", pool_timeout=0.001)

    def _losses(self) -> None:
        with self.make() as pool:
            for _ in range(2):
                ask(pool, "/big/1000000", preload_content=False).close()
        with self.make(block=True) as pool:
            ask(pool, "/ok", preload_content=False)  # and forgotten
            gc.collect()

    def _others(self) -> None:
        ask(self.pool, "/close")
        for _ in range(3):
            with self.make() as pool:
                ask(pool, "/ok")
        with urllib3.HTTPConnectionPool(*self._nobody) as pool, contextlib.suppress(NewConnectionError):
            ask(pool, "/", retries=False)

    @contextlib.contextmanager
    def _taken(self) -> Iterator[None]:
        response = ask(self.narrow, "/ok", preload_content=False)
        try:
            yield
        finally:
            give_back(response)

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """While the block runs, the only connection of a blocking pool is in use, and a thread waits for it."""
        with ThreadPoolExecutor(1) as threads:
            with self._taken():
                waiting = threads.submit(ask, self.narrow, "/ok")
                until(lambda: any(each.pending_requests for each in pool_telemetry.snapshot().upstreams))
                yield
            waiting.result()


def ask(pool: urllib3.HTTPConnectionPool, path: str, **options: Any) -> Any:
    """A GET."""
    return pool.request("GET", path, **options)


def give_back(response: Any) -> None:
    """Read a response to its end, which puts its connection back into the pool."""
    response.read()
    response.release_conn()


def burst(pool: urllib3.HTTPConnectionPool, path: str, count: int) -> None:
    """So many requests at once."""
    for response in [ask(pool, path, preload_content=False) for _ in range(count)]:
        give_back(response)


def has_come(event: int, pool: urllib3.HTTPConnectionPool, count: int, seconds: float) -> bool:
    """Whether the upstream has done this to each of the topmost connections of a pool, or does so soon."""
    assert pool.pool is not None
    topmost = list(pool.pool.queue)[-count:]
    return all(_polled(getattr(conn, "sock", None), event, seconds) for conn in topmost)


def _polled(sock: Any, event: int, seconds: float) -> bool:
    if sock is None:
        return False
    poll = select.poll()
    poll.register(sock, event)
    return bool(poll.poll(seconds * 1000))


def until(is_so: Callable[[], object]) -> None:
    """Wait for something that another thread is about to do.

    Raises:
        TimeoutError: it did not.
    """
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        if time.monotonic() > deadline:
            raise TimeoutError("it did not come to pass")
        time.sleep(0.002)
