"""What the connections of one server have in common."""

from __future__ import annotations

import random
import ssl
from dataclasses import dataclass, field

from ._books import Ledger

DROP_PROBABILITY = 0.3
DROPS = ("fin", "rst", "close_header", "408", "half_close", "stray", "lost_fin")


@dataclass(frozen=True)
class Options:
    """What all the connections of a server have in common."""

    context: ssl.SSLContext | None = None
    keepalive: float | None = None
    random_drops: random.Random | None = None
    ledger: Ledger = field(default_factory=Ledger)

    def draw_drop(self) -> str | None:
        """One of `DROPS` now and then, if drops were asked for."""
        if self.random_drops is None:
            return None
        with self.ledger:
            if self.random_drops.random() >= DROP_PROBABILITY:
                return None
            return self.random_drops.choice(DROPS)
