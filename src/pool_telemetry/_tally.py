"""Durations by upstream, for ``snapshot()``: what the histograms are fed with, kept in bounded memory."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from ._digest import Digest
from ._facts import CheckedOut, Closed, Dropped, FinSeen, SetUp
from ._lifecycle import SUPPRESSED, DropPhase, Outcome, Use
from ._records import Book, PoolRecord

# Kinds of durations, named as the snapshot names them; some are kept apart by a word more.
IDLE, DROPPED_IDLE, LOST_RACE_IDLE = "idle", "dropped_idle", "lost_race_idle"
REMOTE_CLOSE, CLOSE_WAIT = "remote_close", "close_wait"
SETUP, FAILED_SETUP, SETUP_PHASE = "setup", "failed_setup", "setup_phase"
WAIT, FAILED_WAIT, CONNECTION, REQUESTS = "wait", "failed_wait", "connection", "requests_per_connection"
_HAS_GIL: bool = getattr(sys, "_is_gil_enabled", lambda: True)()


def tally(sample: Any, pack: Callable[[Use], Use]) -> None:
    """Enter a sample into its upstream's book, whose lock is held.

    Args:
        sample: of a clean reuse or of anything else that took time.
        pack: makes small what the connection has to keep of a reuse from now on.
    """
    if isinstance(sample, tuple):
        connection, idle_ns, use = sample
        # Most have been followed by others.
        if (connection.last_used is use or connection.previously_used is use) and use is not None and _HAS_GIL:
            connection.replace_use(use, pack(use))
        _add(connection.pool, IDLE, idle_ns, Outcome.REUSED.value)
    elif isinstance(sample, FinSeen):
        _add(sample.connection.pool, REMOTE_CLOSE, sample.remote_close_ns)
    elif isinstance(sample, Closed):
        _add(sample.connection.pool, CONNECTION, sample.age_ns)
        _add(sample.connection.pool, REQUESTS, sample.served)
        lost = sample.drop
        if lost is not None and lost.use is not SUPPRESSED:
            _add(lost.connection.pool, LOST_RACE_IDLE, lost.idle_ns, lost.reason.value)
    elif sample.use is SUPPRESSED:
        return
    elif isinstance(sample, Dropped):
        if sample.phase is DropPhase.CHECKOUT:
            pool = sample.connection.pool
            _add(pool, IDLE, sample.idle_ns, Outcome.REPLACED.value)
            _add(pool, DROPPED_IDLE, sample.idle_ns, sample.reason.value)
            _add(pool, CLOSE_WAIT, sample.close_wait_ns)
    elif isinstance(sample, CheckedOut):
        _add(sample.pool, WAIT if sample.error is None else FAILED_WAIT, sample.waited_ns)
    elif isinstance(sample, SetUp):
        _tally_set_up(sample)


def _tally_set_up(sample: SetUp) -> None:
    pool, took_ns = sample.connection.pool, sample.ended_at - sample.started_at
    if sample.error is not None:
        _add(pool, FAILED_SETUP, took_ns, sample.error)
        return
    _add(pool, SETUP, took_ns, sample.cause.value)
    for phase in sample.phases:
        if phase.error is None:
            _add(pool, SETUP_PHASE, phase.ended_at - phase.started_at, phase.name.value)


def _add(pool: PoolRecord, kind: str, value: int | None, word: str = "") -> None:
    book: Book | None = pool.book
    if value is None or book is None:
        return
    digest = book.digests.get((kind, word))
    if digest is None:
        digest = book.digests[kind, word] = Digest()
    digest.add(max(0, value))
