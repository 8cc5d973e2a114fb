"""What the applications of web frameworks share: installing at start-up, out of the way of what starts."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from . import _instrument
from ._first_pool import FirstPool
from ._wanted import resolve

log = logging.getLogger("pool_telemetry")


def start(given: Mapping[str, Any], asked_by: str) -> None:
    """Install now, or, where urllib3 is not imported yet, when its first pool is made.

    So the import of urllib3, and of ssl with it, stays where it was: under gunicorn's ``--preload`` that is before
    gevent patches. What keeps urllib3 from being watched is logged once, and keeps nothing from starting.

    Args:
        given: arguments of ``install()``; settings left out come from the environment.
        asked_by: who wants it, for a warning where others were faster and want something else.

    Raises:
        TypeError: an unknown setting, or a value of the wrong type.
        ValueError: a value that is not allowed.
    """
    wanted, in_force = resolve(given), _instrument.wanted()
    if in_force is not None:
        if replace(in_force, says_export=wanted.says_export) != wanted:
            log.warning("connection pools are watched already: the settings of %s change nothing", asked_by)
        return
    first_pool = FirstPool(_instrument.put_in_later(wanted))
    if "urllib3" in sys.modules:
        first_pool.install()
    else:
        first_pool.wait()
