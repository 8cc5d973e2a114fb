"""Durations in bounded memory."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pool_telemetry._digest import Digest

PARTS = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1.0)
durations = st.integers(0, 10**15)  # up to eleven days


def digest_of(values: list[int]) -> Digest:
    digest = Digest()
    for value in values:
        digest.add(value)
    return digest


@given(st.lists(durations, min_size=1, max_size=300))
def test_number_sum_and_extremes_are_exact_and_quantiles_are_to_within_a_hundredth(values: list[int]) -> None:
    digest = digest_of(values)
    ordered = sorted(values)
    assert (digest.count, digest.total) == (len(values), sum(values))
    assert (digest.minimum, digest.maximum) == (ordered[0], ordered[-1])
    for part, found in zip(PARTS, digest.quantiles(*PARTS), strict=True):
        exact = ordered[max(math.ceil(part * len(ordered)) - 1, 0)]
        assert abs(found - exact) <= exact / 100


@given(st.lists(durations, min_size=1))
def test_quantiles_ascend_and_lie_between_the_extremes(values: list[int]) -> None:
    found = digest_of(values).quantiles(*PARTS)
    assert found == sorted(found)
    assert min(values) <= found[0]
    assert found[-1] <= max(values)


def test_memory_is_bounded_by_the_orders_of_magnitude_and_not_by_the_number() -> None:
    digest = digest_of([factor * 10**power for power in range(3, 14) for factor in range(1, 1000)])
    assert digest.count == 11 * 999
    assert len(digest._counts) < 64 * math.log2(10**13)


def test_there_are_no_quantiles_of_nothing() -> None:
    with pytest.raises(ValueError, match="no quantiles of nothing"):
        Digest().quantiles(0.5)
