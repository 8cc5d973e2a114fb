"""Figures that have to be the same."""

from __future__ import annotations


class DisagreementError(Exception):
    """What was told is not what the servers saw."""


def expect(what: str, told: int, by_whom: str, seen: int) -> None:
    """Both figures have to be the same."""
    if told != seen:
        raise DisagreementError(f"{what}: {told} by the metrics, {seen} {by_whom}.")
