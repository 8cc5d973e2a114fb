"""Thousands are gone through in parts, with a pause for the application's threads between them."""

from __future__ import annotations

import time
from typing import Any

import pytest

from pool_telemetry import _turns


def count_pauses(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    pauses: list[None] = []
    monkeypatch.setattr(_turns, "_let_others_run", lambda: pauses.append(None))
    return pauses


@pytest.mark.parametrize(("number", "pauses"), [(0, 0), (1, 0), (128, 0), (129, 1), (256, 1), (1000, 7)])
def test_all_are_gone_through_in_their_order_and_none_waits_for_a_pause_at_the_end(
    number: int, pauses: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = count_pauses(monkeypatch)
    assert [each for part in _turns.in_turns(range(number)) for each in part] == list(range(number))
    assert len(counted) == pauses


def test_a_sleep_that_would_hand_over_to_greenlets_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[Any] = []
    monkeypatch.setattr(time, "sleep", lambda seconds: slept.append(seconds))  # as gevent and eventlet have it
    assert len(list(_turns.in_turns(range(1000)))) == 8
    assert not slept
