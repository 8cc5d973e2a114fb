"""What Django does with the application at start-up."""

from __future__ import annotations

import logging

from django.apps import AppConfig
from django.core.checks import register

from .._frameworks import start
from .checks import SETTING, check_setting, given

log = logging.getLogger("pool_telemetry")


class PoolTelemetryConfig(AppConfig):  # type: ignore[misc]  # Django has no types, so this is Any
    """Watches urllib3's connection pools in each process of a Django project.

    ``POOL_TELEMETRY`` has the arguments of :func:`pool_telemetry.install`; those left out come from the environment. A
    setting that is wrong is named by ``manage.py check``, and logged; it keeps no service from starting.
    """

    name = "pool_telemetry.django"
    label = "pool_telemetry"  # its last part by default, which says little

    def ready(self) -> None:
        """Start to watch."""
        register(check_setting)
        try:
            start(given(), f"the setting {SETTING}")
        except (TypeError, ValueError) as error:
            log.error("connection pools are not watched: %s: %s", SETTING, error)
