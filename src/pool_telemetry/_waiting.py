"""Whether a checkout of a blocking pool waited for a connection, or was held up while one lay ready.

A thread waits inside the queue, under the application's mutex, where nobody else can look. And what a checkout takes is
not all waiting: a busy machine may give the thread no turn for long, before or after it has taken what lay there.
"""

from __future__ import annotations

from typing import Any

from . import _urllib3
from ._marks import record_of
from ._records import ConnectionRecord, PoolRecord


class Ticket:
    """One checkout of a blocking pool, made just before it asks.

    It cannot have waited if something lay in the queue from then on. So it is where something did when it asked, and
    what it got had been put there before; or where nobody else has left the queue empty since. In any other case
    another thread may have been faster, and it counts as a wait.
    """

    __slots__ = ("_asked_at", "_emptied_by", "_found_any")

    def __init__(self, host_pool: Any, pool: PoolRecord, now: int) -> None:
        self._asked_at = now
        self._emptied_by = pool.emptied_by  # before the look: one who empties it in between has been seen then
        self._found_any = _urllib3.has_any_pooled(host_pool)

    def is_served_at_once(self, host_pool: Any, pool: PoolRecord, conn: Any) -> bool:
        """Whether there was no wait; to be asked once, as soon as the checkout has got something."""
        is_left = pool.emptied_by is self._emptied_by
        if not _urllib3.has_any_pooled(host_pool):
            pool.emptied_by = object()  # not this ticket: each would keep the one before it
        return self._found_any and (is_left or self._lay_there(pool, conn))

    def _lay_there(self, pool: PoolRecord, conn: Any) -> bool:
        connection: ConnectionRecord | None = record_of(conn)
        # A new object was made for a None. Those lie there from the start, or come back from requests that failed.
        since = pool.freed_at if connection is None else connection.returned_at
        return since is not None and since < self._asked_at
