"""Durations on their way: from where they happened into the books, and from there to the histograms."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from ._lifecycle import Use
from ._tally import tally


class _Tallied(NamedTuple):
    """A sample that has been tallied, and waits for the histograms."""

    sample: Any


class Samples:
    """Those that wait, and those that have been tallied.

    Args:
        pack: gives the form in which a connection keeps a use of it.
    """

    def __init__(self, pack: Callable[[Use], Use]) -> None:
        self._pack = pack
        #: To be tallied: details, and of a clean reuse (connection, idle ns, use).
        self.waiting: deque[Any] = deque()
        #: Those that have been, for histograms; without metrics they are not kept.
        self.tallied: deque[Any] = deque(maxlen=0)

    def clear(self) -> None:
        """Forget all of them."""
        self.waiting.clear()
        self.tallied.clear()

    def hand_over(self) -> None:
        """Tally what waits, and leave it to the histograms; under the books' lock."""
        # Not "while there are any": those who add more would keep this thread at it.
        for _ in range(len(self.waiting)):
            try:
                sample = self.waiting.popleft()
            except IndexError:  # they were dropped meanwhile
                return
            if type(sample) is _Tallied:
                sample = sample.sample
            else:
                tally(sample, self._pack)
            self.tallied.append(sample)

    def tally_in_place(self) -> None:
        """Tally what waits, and let it go on waiting for the histograms; under the books' lock."""
        for _ in range(len(self.waiting)):
            try:
                sample = self.waiting.popleft()
            except IndexError:
                return
            self.keep(sample)

    def keep(self, sample: Any) -> None:
        """Tally a sample, unless it has been, and leave it to the histograms, if there are any."""
        if type(sample) is not _Tallied:
            tally(sample, self._pack)
            sample = _Tallied(sample)
        if self.tallied.maxlen != 0:
            # Not into `tallied`, which nobody may ever empty: whether the buffer is full is told by those that wait.
            self.waiting.append(sample)
