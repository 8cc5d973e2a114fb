"""Hundreds of thousands of requests in an interpreter of their own: what grows with them is left behind by somebody.

Nothing of OpenTelemetry's SDK is imported at the top: it has to do without as well.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import requests
import urllib3.connection
import urllib3.connectionpool
from requests.adapters import HTTPAdapter

import pool_telemetry
from pool_telemetry import _facts, _instrument, _ledger, _records
from pool_telemetry._marks import MARK
from tests.live.quick_server import QuickServer, quick_server
from tests.touched import TOUCHED

#: Of a session, those that are broken off included.
REQUESTS = 100
#: Sessions that find what there is to be found for the first time.
WARMING = 20
#: Bytes of our own making that the requests of a tenth may leave behind, for as many samples as wait in the buffer.
OURS = 150_000
OURS_IN = str(Path(pool_telemetry.__file__).parent / "*")
KINDS = tuple(
    kind
    for module in (_facts, _records)
    for kind in vars(module).values()
    if isinstance(kind, type) and kind.__module__ == module.__name__ and kind is not _records.Book
)


class Work:
    """What the sessions do, each a little differently from the one before."""

    def __init__(self, server: QuickServer, tracer: Any) -> None:
        self._server = server
        self._tracer = tracer
        self.made = 0

    def session(self, number: int) -> None:
        """A session's life; some are not closed, but merely forgotten."""
        session = requests.Session()
        session.trust_env = False
        session.verify = self._server.ca_file
        retries = urllib3.Retry(5, backoff_factor=0)
        adapter = HTTPAdapter(pool_maxsize=1 + number % 4, pool_block=number % 3 == 0, max_retries=retries)
        base = self._server.tls_url if number % 10 == 7 else self._server.url
        session.mount(base, adapter)
        if number % 25 == 3:
            threads = [threading.Thread(target=self._ask, args=(session, base, number, 4)) for _ in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        else:
            self._ask(session, base, number, 1)
        if number % 2:
            session.close()
        self.made += REQUESTS

    def _ask(self, session: requests.Session, base: str, number: int, parts: int) -> None:
        for count in range(REQUESTS // parts):
            path = "/ok"
            if count % 20 == 5:
                path = ("/fin", "/lost", "/close", "/ok")[(number + count // 20) % 4]
            elif count % 20 == 6 and number % 4 == 1:
                path = "/lost"
            if self._tracer is not None and count % 10 == 0:
                with self._tracer.start_as_current_span("request"):
                    session.get(base + path).close()
            else:
                session.get(base + path).close()
            if count == 30 and number % 3 and number % 5 == 0:  # of a pool that does not block
                session.get(base + "/big", stream=True)  # leaked
            if count == 40 and number % 7 == 0:
                session.get(base + "/big", stream=True).close()


def held() -> dict[str, int]:
    """How much there is of what must not grow."""
    gc.collect()
    return {
        "resident": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        "objects": len(gc.get_objects()),
        "records": sum(isinstance(each, KINDS) for each in gc.get_objects()),
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


def size_of(ledger: _ledger.Ledger) -> dict[str, int]:
    """Whatever could grow in the books."""
    books = ledger._books.values()
    return {
        "posted": len(ledger._posted),
        "samples": len(ledger.samples.waiting) + len(ledger.samples.tallied),
        "left alone": len(ledger._left_alone),
        "books": len(books),
        "pools": sum(len(book.pools) for book in books),
        "connections": sum(len(book.connections) for book in books),
        "out": sum(len(book.out) + len(book.missing) for book in books),
        "waiting": sum(len(book.waiting) for book in books),
        "peaks": sum(len(book.peaks) for book in books),
        "series": sum(len(book.open_keys) + len(book.socket_keys) + len(book.size_keys) for book in books),
        "peers": len(ledger._told_peers),
    }


def providers(kind: str) -> tuple[Any, Any, Any]:
    """A tracer provider, a meter provider and what collects."""
    if kind == "no SDK":
        assert "opentelemetry.sdk" not in sys.modules
        sys.modules["opentelemetry.sdk"] = None  # type: ignore[assignment]  # so that an import of it fails
        return None, None, lambda: None
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider

    if kind == "nobody collects":
        return TracerProvider(), MeterProvider(), lambda: None
    reader = InMemoryMetricReader()
    return TracerProvider(), MeterProvider([reader]), reader.get_metrics_data


def endure(sessions: int, kind: str) -> None:
    """So many sessions, each with its requests; prints what was held at the end of each tenth.

    Args:
        sessions: ten at least.
        kind: ``collected``, ``nobody collects`` or ``no SDK``.
    """
    before = [dict(vars(owner)) for owner in TOUCHED]
    tracer_provider, meter_provider, collect = providers(kind)
    tracer = tracer_provider and tracer_provider.get_tracer("test")
    pool_telemetry.install(metrics="all", tracer_provider=tracer_provider, meter_provider=meter_provider)
    ledger = _instrument._ledger
    assert ledger is not None
    with quick_server() as server:
        work, tenth = Work(server, tracer), sessions // 10
        for number in range(WARMING):
            work.session(number)
        tenths, grown = [], {}
        for part in range(10):
            is_watched = part in (0, 9)
            if is_watched:
                tracemalloc.start()
            for number in range(part * tenth, (part + 1) * tenth):
                work.session(number)
                if number % 97 == 0:
                    collect()
            gc.collect()  # of the sessions that were forgotten
            ledger.settle()  # as the next set-up does
            collect()
            if is_watched:
                of_ours = tracemalloc.take_snapshot().filter_traces([tracemalloc.Filter(True, OURS_IN)])
                grown[part] = sum(trace.size for trace in of_ours.traces)
                tracemalloc.stop()
                del of_ours
            tenths.append({**held(), **size_of(ledger)})
        pool_telemetry.snapshot()  # which books what was only posted
        print(json.dumps({"requests": work.made, "ours": grown, "tenths": tenths}, indent=1))
        snapshot = pool_telemetry.snapshot()
    checkouts = sum(sum(each.checkouts.values()) for each in snapshot.upstreams)
    assert checkouts > work.made == (WARMING + tenth * 10) * REQUESTS
    for each in snapshot.upstreams:  # plain and TLS
        ends = each.closed_connections
        assert min(ends[why] for why in ("lost_race", "response_close", "pool_closed")) > 0, ends
    assert sum(each.leaked_connections for each in snapshot.upstreams) > 0
    for why in ("abandoned", "dropped"):
        assert sum(each.closed_connections[why] for each in snapshot.upstreams) > 0, why
    assert not _instrument._hooks._watch.fuse.is_blown  # type: ignore[union-attr]  # it is installed
    _check(tenths, grown, waiting=0 if kind == "collected" else 256)
    pool_telemetry.uninstall()
    ledger.drain()
    _check_that_nothing_is_left(before, ledger)


def _check(tenths: list[dict[str, int]], grown: dict[int, int], waiting: int) -> None:
    first, last = tenths[0], tenths[-1]
    for name in ("threads", "descriptors", "books", "peers", "left alone"):
        assert last[name] == first[name], f"{name}: {first[name]} have become {last[name]}"
    for name in ("pools", "connections", "out", "waiting", "posted"):
        assert last[name] == 0, f"{name}: {last[name]}"
    for name, most in {"peaks": 10, "series": 30}.items():
        assert last[name] <= most, f"{name}: {last[name]}"
    assert last["samples"] <= waiting, f"{last['samples']} samples wait"
    assert last["objects"] - first["objects"] < 200 + 8 * waiting, f"{first} has become {last}"
    assert grown[9] < OURS, f"the requests of a tenth have left {grown}"
    assert last["resident"] - first["resident"] < 16_000_000, f"{first} has become {last}"


def _check_that_nothing_is_left(before: list[dict[str, Any]], ledger: _ledger.Ledger) -> None:
    ledger.samples.tallied.clear()
    gc.collect()
    everything = gc.get_objects()
    assert not [each for each in everything if isinstance(each, KINDS)]
    pools_and_connections = (urllib3.connectionpool.ConnectionPool, urllib3.connection.HTTPConnection)
    assert not [each for each in everything if isinstance(each, pools_and_connections) and MARK in vars(each)]
    for owner, was in zip(TOUCHED, before, strict=True):
        now = vars(owner)
        # Python itself notes __slotnames__ in the class of what is copied.
        assert {name for name in {*was, *now} if was.get(name) is not now.get(name)} <= {"__slotnames__"}, owner
