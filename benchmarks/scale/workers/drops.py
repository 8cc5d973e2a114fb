"""Requests whose pooled connections were dropped, and bare set-ups: ``drops on|off|by-hand PORT AUTHORITY``.

``by-hand`` is off, but makes the spans of each drop with OpenTelemetry's SDK itself.
"""

from __future__ import annotations

import gc
import logging
import select
import ssl
import sys
from typing import Any

from opentelemetry import trace
from urllib3 import HTTPSConnectionPool, Retry

from .answering import Clocks, MiscountError, answer, check, set_up
from .by_hand import ByHand

POOLS = 8
SPANS_OF_A_DROP = 4  # itself, the set-up, its connect and its TLS handshake
RECONNECT, BY_HAND = "reconnect", "by-hand"
#: What is asked of every second pool, and of the others.
PATHS = {"after": ("/after", "/after"), "second": ("/idle", "/stay"), "race": ("/race", "/race")}


class Bench:
    """Meets drops, over TLS.

    Args:
        switch: ``on``, ``off`` or ``by-hand``.
        port: of a server that drops connections.
        authority: the file of its certificate's.
    """

    def __init__(self, switch: str, port: int, authority: str) -> None:
        self._variant, self._is_on = set_up(switch), switch == "on"
        self._by_hand = ByHand(port) if switch == BY_HAND else None
        self._tracer = trace.get_tracer("benchmarks")
        context = ssl.create_default_context(cafile=authority)  # one for all: to make one takes as long as a handshake
        self._pools = [HTTPSConnectionPool("127.0.0.1", port, ssl_context=context) for _ in range(POOLS)]

    def block(self, what: str, number: str) -> dict[str, float]:
        """CPU and wall time of a request, or of a set-up, and how many drops it met.

        Raises:
            MiscountError: more or fewer were told of.
        """
        if what == RECONNECT:
            return {**self._reconnect(int(number)), "drops": 0.0}
        self._meet(what, POOLS)  # connections to begin with, and what is made at first
        before = self._told()
        gc.collect()
        clocks = Clocks()
        drops = self._meet(what, int(number))
        took = clocks.read(int(number))
        drops_told, spans_told = (now - then for now, then in zip(self._told(), before, strict=True))
        check("drops", drops_told, drops * self._is_on)
        makes_spans = self._is_on or self._by_hand is not None
        check("spans", spans_told, int(number) + SPANS_OF_A_DROP * drops * makes_spans)
        return {**took, "drops": drops / int(number)}

    def make(self, what: str, number: str) -> None:
        """The same, and no more."""
        if what == RECONNECT:
            self._reconnect(int(number))
        else:
            self._meet(what, int(number))

    def _meet(self, what: str, number: int) -> int:
        """Makes requests, each under a span of its own; gives how many connections were dropped meanwhile."""
        drops = 0
        for index in range(number):
            pool = self._pools[index % POOLS]
            path = PATHS[what][index % 2]
            is_pooled, is_dropped = _pooled(pool) is not None, _is_readable(pool, 0)
            will_drop = is_dropped or (is_pooled and path == "/race")
            drops += will_drop
            with self._tracer.start_as_current_span("request") as span:
                if will_drop and self._by_hand is not None:
                    self._by_hand.make(span.get_span_context(), is_race=path == "/race")
                response = pool.urlopen("GET", path, retries=Retry(1))
            if response.data == b"bye" and not _is_readable(pool, 10_000):
                raise MiscountError("a connection was not dropped")
        return drops

    def _reconnect(self, number: int) -> dict[str, float]:
        pool = self._pools[0]
        gc.collect()
        clocks = Clocks()
        for _ in range(number):
            conn: Any = pool._new_conn()
            conn.connect()
            conn.close()
        return clocks.read(number)

    def _told(self) -> tuple[float, float]:
        sdk = self._variant.sdk
        assert sdk is not None
        return sdk.value("urllib3.pool.dropped_connections") if self._is_on else 0, sdk.spans.ended


def _pooled(pool: HTTPSConnectionPool) -> Any:
    """The socket of the connection that is to be handed out next."""
    assert pool.pool is not None
    conn = pool.pool.queue[-1]
    return None if conn is None else conn.sock


def _is_readable(pool: HTTPSConnectionPool, milliseconds: int) -> bool:
    sock = _pooled(pool)
    if sock is None:
        return False
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(milliseconds))


def main(switch: str, port: str, authority: str) -> None:
    """Answers the lines on stdin."""
    logging.getLogger("urllib3").setLevel(logging.ERROR)  # its warnings of retries are the same with us and without
    bench = Bench(switch, int(port), authority)
    gc.disable()
    answer(block=bench.block, make=bench.make)


if __name__ == "__main__":
    main(*sys.argv[1:])
