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
    wanted = _instrument.check(given)
    in_force = _instrument.settings_in_force()
    if in_force is not None:
        if in_force != wanted:
            log.warning("connection pools are watched already: the settings of %s change nothing", asked_by)
        return
    _instrument.plan(given)
    first_pool = FirstPool(lambda: _instrument.install(**given) if _instrument.planned() is given else None)
    if "urllib3" in sys.modules:
        first_pool.came()
    else:
        first_pool.wait()


# OpenTelemetry's global meter provider, and by which attributes it was exporting before this process forked last, or
# was forked.
_at_fork: tuple[Any, Mapping[str, Any]] = None, {}


def note_what_is_shared() -> None:
    """Remember, before a fork, which provider parent and child are going to share."""
    global _at_fork
    api = sys.modules.get("opentelemetry.metrics")
    try:
        provider = api.get_meter_provider() if api is not None else None
        _at_fork = provider, _resource(provider)
    except Exception:  # a variable that names a provider names none: that will show where it is asked for
        _at_fork = None, {}


def _resource(provider: Any) -> Mapping[str, Any]:
    resource = getattr(getattr(provider, "_sdk_config", None), "resource", None)  # only tracer providers show theirs
    return {} if resource is None else dict(resource.attributes)


def start_worker() -> None:
    """Install now, and export unless somebody has said otherwise: for a hook that runs in each worker of a server.

    What keeps it from that is logged, and keeps no worker from starting.
    """
    given = dict(_instrument.planned() or {})
    try:
        _replace_shared(given)
        _instrument.install(**given)
        if given.get("export") is None and not os.environ.get(f"{ENVIRONMENT_PREFIX}EXPORT", "").strip():
            _instrument.export()
    except Exception as error:
        cause = None if isinstance(error, EXPLAINED) else error
        log.warning("connection pools are not watched: %s", error, exc_info=cause)


def _replace_shared(given: dict[str, Any]) -> None:
    # Of metrics that several workers export as one instance a back end keeps those of one, now this, now that. So it is
    # with what opentelemetry-instrument has set up before the fork, unless the SDK gives each child an identity. What
    # the application has set up by itself may export by other means than the environment: it is left as it is.
    provider, shared = _at_fork
    if "telemetry.auto.version" in shared and _resource(provider) == shared and "meter_provider" not in given:
        from ._export import meter_provider

        given["meter_provider"] = meter_provider(is_fork=True)
        _instrument.uninstall()
