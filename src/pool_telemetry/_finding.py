"""What a diagnosis consists of."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Severity(str, enum.Enum):
    """How much a finding matters."""

    HIGH = "high"  # requests fail, or slots of the pool are lost for good
    MEDIUM = "medium"  # requests take longer than they need
    LOW = "low"  # resources are held for nothing, or it is good to know


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a pool's connections.

    Attributes:
        name: stands for this kind of finding, for ever: ``keepalive_shorter_than_gaps``.
        severity: how much it matters.
        upstream: scheme, host and port.
        summary: what is wrong, in one sentence with its most telling figures.
        evidence: the figures that it rests on, by name; durations in seconds, shares from 0 to 1.
        advice: what to do, in the order in which to try it.
    """

    name: str
    severity: Severity
    upstream: str
    summary: str
    evidence: dict[str, float]
    advice: tuple[str, ...]
