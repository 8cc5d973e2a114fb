"""Our faults stay ours: what goes wrong in here is logged once and switched off, and the application goes on."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable

log = logging.getLogger("pool_telemetry")


class Fuse:
    """Blows at the first fault of one part: logs it with its traceback, and switches that part off.

    Args:
        part: what is protected, as the log names it.
        switch_off: called once.
    """

    def __init__(self, part: str, switch_off: Callable[[], object]) -> None:
        self._part = part
        self._switch_off = switch_off
        self._unblown = [True]
        self.is_blown = False

    def blow(self) -> None:
        """Report the exception that is being handled."""
        try:
            self._unblown.pop()  # two threads may come at once, and one gets it
        except IndexError:
            return
        self.is_blown = True
        # Each apart: neither a part that cannot be switched off nor a raising filter of the application's logging may
        # reach the request.
        with contextlib.suppress(Exception):
            log.exception(
                "pool_telemetry has a fault in %s and switches it off; the application's requests are not affected",
                self._part,
            )
        with contextlib.suppress(Exception):
            self._switch_off()
