"""A fork, and the locks of the SDK: what another thread holds at that moment stays locked in the child for good."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

# Seconds that a fork waits at most for what other threads record or collect; a full buffer takes some 3 ms.
_PATIENCE = 0.2


class Recorders:
    """The threads that record, under locks of the SDK, and those that are about to fork.

    Args:
        is_collecting: whether the SDK is in the midst of a collection, in whichever thread.

    Attributes:
        recording: threads that record; each adds itself, and takes itself out again.
    """

    def __init__(self, is_collecting: Callable[[], bool]) -> None:
        self._is_collecting = is_collecting
        self.recording: set[int] = set()
        self._forking: set[int] = set()

    def should_wait(self) -> bool:
        """Whether a thread is about to fork: what can be recorded later had better be."""
        return bool(self._forking)

    def before_fork(self) -> None:
        """Let other threads finish what they are at."""
        self._forking.add(threading.get_ident())
        self._wait()

    def after_fork_in_parent(self) -> None:
        """Let the others go on."""
        self._forking.discard(threading.get_ident())

    def after_fork_in_child(self) -> bool:
        """Begin anew, with nobody else there; gives whether a lock of the SDK is locked for good."""
        # Threads of the SDK may have been started anew before this is called: those come to an end.
        is_any_held = self._wait()
        self.recording &= {threading.get_ident()}
        self._forking.clear()
        return is_any_held

    def _wait(self) -> bool:
        deadline = time.monotonic() + _PATIENCE
        # Not by taking locks: an exception of a signal handler could leave one taken.
        while self._is_any_held():
            if time.monotonic() >= deadline:
                return True
            time.sleep(0.0005)
        return False

    def _is_any_held(self) -> bool:
        return bool(self.recording - {threading.get_ident()}) or self._is_collecting()
