"""The least that tells what pool_telemetry tells of a clean reuse: where its cost cannot get below.

No check of what a host's object may be, no fault caught, no settings, nothing for any other outcome.
"""

from __future__ import annotations

import weakref
from collections import deque
from time import monotonic_ns
from typing import Any

from pool_telemetry._context import current_use
from pool_telemetry._patch import Patches

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
    """Two proxies of wrapt's and a plain function, where pool_telemetry has them.

    Args:
        is_bare: they do nothing at all.
    """

    def __init__(self, *, is_bare: bool) -> None:
        super().__init__()
        self._is_bare = is_bare

    def turn_on(self) -> None:
        is_bare = self._is_bare
        samples: deque[Any] = deque(maxlen=256)
        in_use: set[Any] = set()

        # Of the very parameters of what they replace, or they are called by a detour.
        def make_get_conn(original: Any) -> Any:
            def bare(self: Any, timeout: Any = None) -> Any:
                return original(self, timeout=timeout)

            def get_conn(self: Any, timeout: Any = None) -> Any:
                conn = original(self, timeout=timeout)
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

            return bare if is_bare else get_conn

        def make_put_conn(original: Any) -> Any:
            def bare(self: Any, conn: Any) -> Any:
                return original(self, conn)

            def put_conn(self: Any, conn: Any) -> Any:
                record = conn._record
                record.returned_at = now = monotonic_ns()
                record.use_ns += now - record.checked_out_at
                in_use.discard(record)
                return original(self, conn)

            return bare if is_bare else put_conn

        patches = Patches()
        patches.proxy(*GET_CONN, make_get_conn)
        patches.proxy(*DROPPED, lambda original: lambda conn: original(conn))
        patches.replace(*PUT_CONN, make_put_conn)
