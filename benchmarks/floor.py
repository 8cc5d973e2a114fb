"""The least that tells what pool_telemetry tells of a clean reuse: where its cost cannot get below.

No check of what a host's object may be, no fault caught, no settings, nothing for any other outcome.
"""

from __future__ import annotations

import weakref
from collections import deque
from time import monotonic_ns
from typing import Any

import wrapt

from pool_telemetry._context import current_use

from .variants import SEAMS, Variant

GET_CONN, DROPPED, PUT_CONN, _ = SEAMS


class _Record:
    __slots__ = ("checked_out_at", "conn", "last_used", "previously_used", "returned_at", "reuses", "use_ns")

    def __init__(self, conn: Any) -> None:
        self.conn = weakref.ref(conn)
        self.checked_out_at = self.returned_at = monotonic_ns()
        self.reuses = self.use_ns = 0
        self.last_used = self.previously_used = None


class Floor(Variant):
    """Two wrappers of wrapt's and a plain function, where pool_telemetry has them.

    Args:
        is_bare: they do nothing at all.
    """

    def __init__(self, *, is_bare: bool) -> None:
        super().__init__()
        self._is_bare = is_bare

    def turn_on(self) -> None:
        samples: deque[Any] = deque(maxlen=256)
        in_use: set[Any] = set()

        def pass_on(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
            return wrapped(*args, **kwargs)

        def get_conn(wrapped: Any, _: Any, args: Any, kwargs: Any) -> Any:
            conn = wrapped(*args, **kwargs)
            try:
                record = conn._record
            except AttributeError:
                record = _Record(conn)
                object.__setattr__(conn, "_record", record)
            now = monotonic_ns()
            use = current_use()
            record.previously_used, record.last_used = record.last_used, use
            samples.append((record, now - record.returned_at, use))
            record.checked_out_at = now
            record.reuses += 1
            in_use.add(record)
            return conn

        def make_put_conn(original: Any) -> Any:
            def bare(pool: Any, conn: Any) -> Any:
                return original(pool, conn)

            def put_conn(pool: Any, conn: Any) -> Any:
                record = conn._record
                record.returned_at = now = monotonic_ns()
                record.use_ns += now - record.checked_out_at
                in_use.discard(record)
                return original(pool, conn)

            return bare if self._is_bare else put_conn

        for (owner, name), wrapper in {GET_CONN: pass_on if self._is_bare else get_conn, DROPPED: pass_on}.items():
            setattr(owner, name, wrapt.FunctionWrapper(vars(owner)[name], wrapper))
        owner, name = PUT_CONN
        setattr(owner, name, make_put_conn(vars(owner)[name]))
