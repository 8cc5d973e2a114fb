"""The Flask extension: ``PoolTelemetry(app)``. Needs the extra ``flask``; nothing else in the package imports this."""

from __future__ import annotations

from typing import Any

from flask import Flask

from ._frameworks import start
from ._settings import ENVIRONMENT_PREFIX, by_variable

__all__ = ["PoolTelemetry"]


class PoolTelemetry:
    """Watches urllib3's connection pools in the process of a Flask application.

    There is one set of pools in a process, and one installation: of several applications the first decides on the
    settings. Settings given here come before those in ``app.config``, which come before the environment; both have the
    names ``POOL_TELEMETRY_…``.

    Args:
        app: the application, or ``None`` to call :meth:`init_app` with it later.
        settings: as of :func:`pool_telemetry.install`; ``None`` stands for "not given".

    Raises:
        TypeError: an unknown setting, or a value of the wrong type.
        ValueError: a value that is not allowed.
    """

    def __init__(self, app: Flask | None = None, **settings: Any) -> None:
        self._settings = {name: value for name, value in settings.items() if value is not None}
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Start to watch, with the settings of this application.

        Raises:
            TypeError: an unknown setting, or a value of the wrong type.
            ValueError: a value that is not allowed.
        """
        configured = by_variable(app.config.get_namespace(ENVIRONMENT_PREFIX))
        start({**configured, **self._settings}, f"the Flask application {app.name!r}")
        app.extensions["pool_telemetry"] = self
