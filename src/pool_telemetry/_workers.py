"""What the workers of servers that fork have in common: each is watched, and exports as an instance of its own.

Imports neither urllib3 nor OpenTelemetry: gunicorn reads its configuration before gevent patches.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from . import _instrument
from ._discretion import told
from ._faults import let_signals_pass
from ._wanted import Wanted, resolve

log = logging.getLogger("pool_telemetry")


def watch_worker() -> None:
    """Watch the connection pools of this process, and export unless told otherwise.

    Settings come from ``install()``, Django's or Flask's, where the application uses this library, else from the
    environment. It never raises: what goes wrong is logged.
    """
    try:
        wanted = _replace_shared(_instrument.wanted() or resolve({}))
        if not wanted.says_export:
            wanted = replace(wanted, settings=replace(wanted.settings, export=True))
        _instrument.put_in(wanted)
        if wanted.settings.export:
            _instrument.export()
    except Exception as error:
        let_signals_pass()
        log.warning("connection pools are not watched: %s", told(error))


# OpenTelemetry's global meter provider, and by which attributes it was exporting before this process forked last, or
# was forked.
_at_fork: tuple[Any, Mapping[str, Any]] = None, {}


def _note_what_is_shared() -> None:
    global _at_fork
    # Asked for where it is, as this module may not import it.
    api = sys.modules.get("opentelemetry.metrics")
    try:
        provider = api.get_meter_provider() if api is not None else None
        _at_fork = provider, _resource(provider)
    except Exception:  # a variable that names a provider names none: that will show where it is asked for
        _at_fork = None, {}


def _resource(provider: Any) -> Mapping[str, Any]:
    resource = getattr(getattr(provider, "_sdk_config", None), "resource", None)  # only tracer providers show theirs
    return {} if resource is None else dict(resource.attributes)


def _replace_shared(wanted: Wanted) -> Wanted:
    # Of metrics that several workers export as one instance a back end keeps those of one, now this, now that. So it is
    # with what opentelemetry-instrument has set up before the fork, unless the SDK gives each child an identity. What
    # the application has set up by itself may export by other means than the environment: it is left as it is.
    provider, shared = _at_fork
    if "telemetry.auto.version" not in shared or _resource(provider) != shared or wanted.meter_provider is not None:
        return wanted
    from ._export import meter_provider

    own = meter_provider()
    _instrument.uninstall()
    return replace(wanted, meter_provider=own)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_note_what_is_shared)
