"""Taking turns with the application's threads, while thousands of connections are gone through.

Who waits for Python's lock is given it after five milliseconds, and a request waits for it three times. Let go of in
between, it is theirs at once.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from types import BuiltinFunctionType
from typing import TypeVar

T = TypeVar("T")
#: So many are gone through in less than a millisecond.
_TURN = 128
# Not 0: whoever waits has to wake up first, and by then the lock would be taken again.
_PAUSE = 20e-6


def in_turns(items: Sequence[T]) -> Iterator[Sequence[T]]:
    """All of it, in parts, with a pause for others between them."""
    for start in range(0, len(items), _TURN):
        if start:
            _let_others_run()
        yield items[start : start + _TURN]


def _let_others_run() -> None:
    # Greenlets have one lock together, ours among them, and gevent's sleep would let them at what is locked.
    if isinstance(time.sleep, BuiltinFunctionType):
        time.sleep(_PAUSE)
