"""Durations in bounded memory: exact number, sum and extremes, quantiles to within a hundredth."""

from __future__ import annotations

# Each power of two is divided into so many parts as these bits can count: 64, so that one is at most 1.6 % wide.
_BITS = 6


class Digest:
    """Counts durations by their magnitude: ever so many take no more than some thousand counters."""

    __slots__ = ("_counts", "count", "maximum", "minimum", "total")

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.count = 0
        self.total = 0
        self.minimum = self.maximum = 0

    def add(self, value: int) -> None:
        """Count a duration, in nanoseconds."""
        self.minimum = min(self.minimum, value) if self.count else value
        self.maximum = max(self.maximum, value)
        self.count += 1
        self.total += value
        shift = max(value.bit_length() - _BITS - 1, 0)
        key = (shift << _BITS) + (value >> shift)
        self._counts[key] = self._counts.get(key, 0) + 1

    def quantiles(self, *wanted: float) -> list[int]:
        """The smallest durations that so great a part of all does not exceed, in the order of what is wanted.

        Args:
            wanted: from 0 to 1, in ascending order.

        Raises:
            ValueError: nothing was counted.
        """
        if not self.count:
            raise ValueError("there are no quantiles of nothing")
        found: list[int] = []
        seen, counts = 0, iter(sorted(self._counts.items()))
        value = self.minimum
        for part in wanted:
            while seen < part * self.count:
                key, number = next(counts)
                value, seen = _middle(key), seen + number
            found.append(min(max(value, self.minimum), self.maximum))
        return found


def _middle(key: int) -> int:
    shift = max((key >> _BITS) - 1, 0)
    low = key - (shift << _BITS)
    return (low << shift) + ((1 << shift) - 1) // 2
