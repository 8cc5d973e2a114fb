"""Ways to see a checkout and a return, tried beside each other: ``python -m benchmarks seams``.

What can be done at a checkout hangs on a plain function in ``_get_conn``'s place, and is to be compared with the one
that does nothing.
"""

from __future__ import annotations

import queue
import weakref
from collections import deque
from collections.abc import Callable
from time import monotonic_ns
from typing import Any

from opentelemetry import metrics, trace

from pool_telemetry._context import current_use

from .rows import Row
from .variants import SEAMS, Replaced, plain_noop, proxy_noop, wrapt_noop

Deed = Callable[[Any, Any], Any]
GET_CONN, DROPPED, PUT_CONN, MAKE_REQUEST = SEAMS
QUEUE: tuple[Any, str] = (queue.Queue, "put")


class AtCheckout(Replaced):
    """Does something with the pool and the connection of each checkout.

    Args:
        make: makes the deed, in the process that is measured.
    """

    def __init__(self, make: Callable[[], Deed]) -> None:
        super().__init__(lambda original: _getting(original, make()), (GET_CONN,))


def _getting(original: Any, deed: Deed) -> Any:
    def _get_conn(pool: Any, timeout: float | None = None) -> Any:
        conn = original(pool, timeout)
        deed(pool, conn)
        return conn

    return _get_conn


class Record:
    """Something that is kept of a connection."""

    def __init__(self, conn: Any) -> None:
        self.conn = weakref.ref(conn)


def by_attribute() -> Deed:
    """The record is an attribute, read as such."""

    def deed(_: Any, conn: Any) -> Any:
        try:
            return conn._record
        except AttributeError:
            object.__setattr__(conn, "_record", Record(conn))

    return deed


def by_dict() -> Deed:
    """The record is an attribute, read by way of ``__dict__``."""

    def deed(_: Any, conn: Any) -> Any:
        record = conn.__dict__.get("_record")
        if record is None:
            record = conn.__dict__["_record"] = Record(conn)
        return record

    return deed


def by_weak_key() -> Deed:
    """The records are kept apart, by weak references to their connections."""
    records: weakref.WeakKeyDictionary[Any, Record] = weakref.WeakKeyDictionary()

    def deed(_: Any, conn: Any) -> Any:
        record = records.get(conn)
        if record is None:
            record = records[conn] = Record(conn)
        return record

    return deed


def by_id() -> Deed:
    """The records are kept apart, by the connections' ids, which another may have after them."""
    records: dict[int, Record] = {}

    def deed(_: Any, conn: Any) -> Any:
        record = records.get(id(conn))
        if record is None or record.conn() is not conn:
            record = records[id(conn)] = Record(conn)
        return record

    return deed


def in_a_deque() -> Deed:
    """A sample goes into a deque."""
    samples: deque[Any] = deque(maxlen=256)
    return lambda _, conn: samples.append((conn, 1, None))


def in_a_list() -> Deed:
    """A sample goes into a list, which another takes its place when it is full."""
    samples: list[Any] = []

    def deed(_: Any, conn: Any) -> Any:
        samples.append((conn, 1, None))
        if len(samples) >= 256:
            samples.clear()

    return deed


def in_the_sdk() -> Deed:
    """A sample is recorded by OpenTelemetry's SDK at once."""
    histogram = metrics.get_meter("benchmarks").create_histogram("idle", "s")
    attributes: dict[str, str | int] = {"server.address": "127.0.0.1", "server.port": 80, "url.scheme": "http"}
    return lambda _, __: histogram.record(0.1, attributes)


def seam_rows() -> list[Row]:
    """What ``python -m benchmarks seams`` compares."""
    replaced = {
        "_get_conn": (GET_CONN,),
        "_get_conn, is_connection_dropped": (GET_CONN, DROPPED),
        "_get_conn, is_connection_dropped, _put_conn": (GET_CONN, DROPPED, PUT_CONN),
        "_put_conn": (PUT_CONN,),
        "Queue.put": (QUEUE,),
        "_make_request": (MAKE_REQUEST,),
    }
    deeds: dict[str, Callable[[], Deed]] = {
        "nothing": lambda: lambda pool, conn: None,
        "record: attribute": by_attribute,
        "record: __dict__": by_dict,
        "record: WeakKeyDictionary": by_weak_key,
        "record: dict by id": by_id,
        "one clock call": lambda: lambda pool, conn: monotonic_ns(),
        "two clock calls": lambda: lambda pool, conn: (monotonic_ns(), monotonic_ns()),
        "span: trace.get_current_span": lambda: lambda pool, conn: trace.get_current_span().get_span_context().is_valid,
        "span: as pool_telemetry reads it": lambda: lambda pool, conn: current_use(),
        "sample: into a deque": in_a_deque,
        "sample: into a list": in_a_list,
        "sample: into the SDK": in_the_sdk,
    }
    rows = []
    for name, seams in replaced.items():
        for kind, wrap in {"wrapper": wrapt_noop, "proxy": proxy_noop, "plain": plain_noop}.items():
            rows.append(Row("urllib3", f"{kind}: {name}", lambda wrap=wrap, seams=seams: Replaced(wrap, seams)))  # type: ignore[misc]  # mypy infers no lambda with defaults
    for name, make in deeds.items():
        rows.append(Row("urllib3", f"at checkout, {name}", lambda make=make: AtCheckout(make)))  # type: ignore[misc]  # likewise
    return rows
