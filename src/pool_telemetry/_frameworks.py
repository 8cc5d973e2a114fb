"""What the start-up hooks of frameworks share: installing in time, and out of the way of what starts."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from typing import Any

from . import _instrument
from ._errors import EXPLAINED
from ._first_pool import FirstPool
from ._settings import ENVIRONMENT_PREFIX

log = logging.getLogger("pool_telemetry")

# What the first application has asked for, while urllib3's first pool is waited for and after it.
_given: Mapping[str, Any] | None = None


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
    global _given
    wanted = _instrument.check(given)
    in_force = _instrument.settings_in_force()
    if in_force is None and _given is not None:
        in_force = _instrument.check(_given)
    if in_force is not None:
        if in_force != wanted:
            log.warning("connection pools are watched already: the settings of %s change nothing", asked_by)
        return
    _given = given
    first_pool = FirstPool(lambda: _instrument.install(**given))
    if "urllib3" in sys.modules:
        first_pool.came()
    else:
        first_pool.wait()


def start_worker() -> None:
    """Install now, and export unless somebody has said otherwise: for a hook that runs in each worker of a server.

    What keeps it from that is logged, and keeps no worker from starting.
    """
    given = _given or {}
    try:
        _instrument.install(**given)
        if given.get("export") is None and not os.environ.get(f"{ENVIRONMENT_PREFIX}EXPORT", "").strip():
            _instrument.export()
    except Exception as error:
        cause = None if isinstance(error, EXPLAINED) else error
        log.warning("connection pools are not watched: %s", error, exc_info=cause)
